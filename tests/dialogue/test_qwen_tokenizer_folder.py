"""Tokenizers' folders from outside: vocab.json with merges.txt, added tokens, and damaged files."""

import dataclasses
import json
import random
import unicodedata

import pytest
import tokenizers

from medscope_jax.dialogue import load_qwen_tokenizer
from medscope_jax.dialogue.qwen_tokenizer import SINGLE_TAGS
from medscope_jax.errors import UserError
from tests.dialogue import qwen_cases
from tests.dialogue.qwen_cases import qwen_tokenizer
from tests.dialogue.test_qwen_tokenizer import strings

END = "<|im_end|>"
TEXT = "<|im_start|>user\nWhere is the lens? e\u0301 <think>Look</think> 12.0 \U0001f600<|im_end|>"


@pytest.fixture(scope="module")
def serialized():
    return qwen_cases.tiny()


def unpack(serialized, folder, decoder=True):
    """A folder of the older form: vocab.json, merges.txt, and the added tokens beside them.

    decoder: they are in tokenizer_config.json; else in added_tokens.json.
    """
    values = json.loads(serialized)
    added = {str(token.pop("id")): token for token in values["added_tokens"]}
    config = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": END, "unk_token": None}
    folder.mkdir()
    if decoder:
        config["added_tokens_decoder"] = added
    else:
        ids = {token["content"]: int(index) for index, token in added.items()}
        (folder / "added_tokens.json").write_text(json.dumps(ids))
        specials = [token["content"] for token in added.values() if token["special"]]
        specials = {"eos_token": END, "additional_special_tokens": specials}
        (folder / "special_tokens_map.json").write_text(json.dumps(specials))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    merges = [m if isinstance(m, str) else " ".join(m) for m in values["model"]["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    (folder / "vocab.json").write_text(json.dumps(values["model"]["vocab"]))
    return folder


def same(ours, theirs):
    assert ours.pieces == theirs.pieces and ours.ends == theirs.ends
    for text in (TEXT, *strings(50)):
        assert ours.encode(text) == theirs.encode(text)


@pytest.mark.parametrize("decoder", [True, False])
def test_vocabulary_and_merges_are_the_tokenizer(serialized, tmp_path, decoder):
    folder = unpack(serialized, tmp_path / "old", decoder)
    same(load_qwen_tokenizer(folder), qwen_tokenizer(serialized))
    merges = (folder / "merges.txt").read_text()
    (folder / "merges.txt").write_bytes(merges.replace("\n", "\r\n").encode())
    same(load_qwen_tokenizer(folder), qwen_tokenizer(serialized))
    (folder / "merges.txt").write_text(merges + "\n")  # an empty line in the middle: two parts fail
    with pytest.raises(UserError, match="merge .* makes no token"):
        load_qwen_tokenizer(folder)
    (folder / "merges.txt").unlink()
    with pytest.raises(UserError, match="a folder needs tokenizer.json, or vocab.json and merges"):
        load_qwen_tokenizer(folder)


@pytest.mark.parametrize("decoder", [True, False])
def test_named_tokens_are_found_before_the_text_is_composed(serialized, tmp_path, decoder):
    """As by transformers, even where the list of added tokens has them found afterwards.

    ">" and the stroke that strikes it out compose to one character.
    """
    folder = unpack(serialized, tmp_path / "old", decoder)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    for token in config.get("added_tokens_decoder", {}).values():
        token["normalized"] = True
    config["extra_special_tokens"] = ["<|im_start|>", "<|image_pad|>"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    found = load_qwen_tokenizer(folder)
    tags = ("<|im_start|>", "<|image_pad|>", END, "<|endoftext|>", "<tool_call>")
    first = [found.encode(f"{tag}\u0338")[0] == found.tag(tag) for tag in tags]
    assert first == [True, True, True, True, False]


def test_truncation_padding_and_offsets_change_nothing(serialized):
    values = json.loads(serialized)
    plain = qwen_tokenizer(serialized)
    values["truncation"] = {
        "max_length": 3, "strategy": "LongestFirst", "direction": "Right", "stride": 0,
    }  # fmt: skip
    values["padding"] = {
        "strategy": {"Fixed": 512}, "direction": "Left", "pad_to_multiple_of": None, "pad_id": 0,
        "pad_type_id": 0, "pad_token": "x",
    }  # fmt: skip
    values["pre_tokenizer"]["pretokenizers"][1]["trim_offsets"] ^= True  # of offsets alone
    sequence = {"Sequence": {"id": "A", "type_id": 0}}
    step = {"type": "TemplateProcessing", "special_tokens": {}}
    values["post_processor"] = {**step, "single": [sequence], "pair": [sequence]}
    text = json.dumps(values)
    assert len(tokenizers.Tokenizer.from_str(text).encode(TEXT).ids) == 512  # it would count
    same(qwen_tokenizer(text.encode()), plain)


def test_settings_that_would_change_ids_are_refused_by_name(serialized, tmp_path):
    special = {"SpecialToken": {"id": END, "type_id": 0}}
    split = json.loads(serialized)["pre_tokenizer"]
    wider = json.loads(json.dumps(split).replace("|\\\\p{N}|", "|\\\\p{N}+|"))
    assert wider != split
    for key, value in (
        ("normalizer", None),
        ("normalizer", {"type": "Lowercase"}),
        ("pre_tokenizer", {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}),
        ("pre_tokenizer", wider),
        ("post_processor", {"type": "TemplateProcessing", "single": [special]}),
        ("post_processor", {"type": "Sequence", "processors": [{"type": "BertProcessing"}]}),
        ("model.dropout", 0.1),
        ("model.ignore_merges", True),
        ("model.end_of_word_suffix", "</w>"),
        ("model.something_new", 1),
    ):
        values = json.loads(serialized)
        place = values["model"] if "." in key else values
        place[key.split(".")[-1]] = value
        with pytest.raises(UserError, match=f"{key} is .* not Qwen's and would give other ids"):
            qwen_tokenizer(json.dumps(values).encode())
    (tmp_path / "tokenizer.json").write_bytes(serialized)
    for key in ("add_prefix_space", "split_special_tokens", "add_bos_token", "add_eos_token"):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({key: True}))
        with pytest.raises(UserError, match=f"{key}=True would give other ids"):
            load_qwen_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    with pytest.raises(UserError, match="tokenizer_class is 'LlamaTokenizer', not Qwen's"):
        load_qwen_tokenizer(tmp_path)


def test_added_tokens_have_the_ids_that_they_get(serialized, tmp_path):
    """Those of tokenizer_config.json beside tokenizer.json's, and the named ones after them."""
    plain = qwen_tokenizer(serialized)
    size = plain.vocab_size
    (tmp_path / "tokenizer.json").write_bytes(serialized)
    own = {
        t["id"]: {k: v for k, v in t.items() if k != "id"}
        for t in json.loads(serialized)["added_tokens"]
    }
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({"pad_token": "<pad>", "extra_special_tokens": ["<a>", "<b>"]}))
    found = load_qwen_tokenizer(tmp_path)
    assert [found.tag(tag) for tag in ("<pad>", "<a>", "<b>")] == [size, size + 1, size + 2]
    assert found.pieces[:size] == plain.pieces
    more = {**own, size: {"content": "<x>", "special": False}}
    config.write_text(json.dumps({"added_tokens_decoder": more}))
    assert load_qwen_tokenizer(tmp_path).tag("<x>") == size
    for changed, message in (
        ({**own, size + 1: {"content": "<x>"}}, f"said to have id {size + 1} and would get {size}"),
        ({k: v for k, v in own.items() if k != size - 1}, f"disagree about id {size - 1}"),
        ({**own, size - 1: {"content": "<y>"}}, f"disagree about id {size - 1}"),
        ({**own, size: {"content": "<x>", "lstrip": True}}, "'<x>' swallows its neighbours"),
        ({**own, size: {"content": ""}}, "without content and flags"),
        ({**own, size: 5}, "without content and flags"),
        ([], "must give a token for each id"),
        ({"x": {"content": "<x>"}}, "must give a token for each id"),
    ):
        config.write_text(json.dumps({"added_tokens_decoder": changed}))
        with pytest.raises(UserError, match=message):
            load_qwen_tokenizer(tmp_path)
    for key in ("additional_special_tokens", "extra_special_tokens"):
        for wrong in ("<a>", "", 0, False):
            config.write_text(json.dumps({key: wrong}))
            with pytest.raises(UserError, match=f"special tokens are {wrong!r}, no list"):
                load_qwen_tokenizer(tmp_path)
    # transformers would give it an id that the model has never seen.
    folder = unpack(serialized, tmp_path / "old", decoder=False)
    ids = json.loads((folder / "added_tokens.json").read_text())
    ids["<|im_and|>"] = ids.pop(END)
    (folder / "added_tokens.json").write_text(json.dumps(ids))
    with pytest.raises(UserError, match=r"<\|im_end\|> is not a token of its own"):
        load_qwen_tokenizer(folder)


def test_added_tokens_out_of_order_are_refused(serialized):
    """The library numbers them as they come, whatever ids they state."""
    added = json.loads(serialized)["added_tokens"]
    turned = qwen_cases.change(serialized, added_tokens=[added[1], added[0], *added[2:]])
    library = tokenizers.Tokenizer.from_str(turned.decode())
    assert library.token_to_id(added[1]["content"]) == added[0]["id"]
    with pytest.raises(UserError, match="added_tokens is not in the order of its ids"):
        qwen_tokenizer(turned)


def test_steps_within_steps_without_end_are_one_line(serialized):
    for depth in (90, 300, 900):
        values = json.dumps({**json.loads(serialized), "normalizer": "<deep>"})
        deep = values.replace('"<deep>"', "[" * depth + "]" * depth)
        with pytest.raises(UserError, match="normalizer is|nested too deeply"):
            qwen_tokenizer(deep.encode())


def test_half_a_character_is_no_token(serialized, tmp_path):
    folder = unpack(serialized, tmp_path / "old", decoder=False)
    special = {"additional_special_tokens": ["\ud800"]}
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    with pytest.raises(UserError, match="special_tokens_map.json is not JSON: .*surrogates"):
        load_qwen_tokenizer(folder)


def test_late_tokens_are_found_in_composed_text(serialized):
    """As the library finds them: after the others, when text is composed."""
    late = tokenizers.Tokenizer.from_str(serialized.decode())
    late.add_tokens(["<late>", "e\u0301t\u00e9"])  # normalized, as add_tokens makes them
    ours = qwen_tokenizer(late.to_str().encode())
    draw = random.Random(0)
    parts = [
        "<late>",
        "<|im_end|>",
        "e\u0301t",
        "e\u0301",
        "\u0338",
        "\u00e9",
        ">",
        "<la",
        "te>",
        " ",
    ]
    texts = ["".join(draw.choices(parts, k=draw.randrange(8))) for _ in range(500)]
    for text in texts:
        assert ours.encode(text) == late.encode(text, add_special_tokens=False).ids, text
    assert any("<late>\u0338" in text for text in texts)


def damaged(whole, draw):
    """The bytes with a bit turned, a piece cut out, a piece twice, or the end missing."""
    place, size = draw.randrange(len(whole)), draw.randrange(1, 40)
    turned = bytes([whole[place] ^ 1 << draw.randrange(8)])
    return draw.choice(
        [
            whole[:place] + turned + whole[place + 1 :],
            whole[:place] + whole[place + size :],
            whole[: place + size] + whole[place:],
            whole[:place],
        ]
    )


def read_or_refused(whole, serialized):
    """Whether a damaged file is refused; what is read must be the whole one's tokenizer."""
    try:
        found = qwen_tokenizer(serialized)
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 500
        return True
    named = {tag.encode() for tag in SINGLE_TAGS}
    names = [token["content"].encode() for token in json.loads(serialized)["added_tokens"]]
    other = [(a, b) for a, b in zip(found.pieces, whole.pieces, strict=True) if a != b]
    # The name of a token that this project has no use for may be any.
    assert all(a in names and b not in named for a, b in other), other
    plain = dataclasses.replace(found, pieces=whole.pieces)
    assert plain.encode("Where is the lens? 12.0") == whole.encode("Where is the lens? 12.0")
    return False


def test_a_damaged_file_is_refused_or_read_as_it_was(serialized):
    whole, draw = qwen_tokenizer(serialized), random.Random(0)
    refused = sum(read_or_refused(whole, damaged(serialized, draw)) for _ in range(400))
    assert refused > 350


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"null",
        b"[]",
        b'{"model": []}',
        b'{"model": {"vocab": [], "merges": []}, "decoder": {"type": "ByteLevel"}}',
        b'{"decoder": 5, "model": {}}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"a": 1, "a": 1}',
        b'{"a": NaN}',
        b'{"a": ' + b"9" * 10_000 + b"}",
        b'"\xff"',
        b" " * (2**24 + 1),
    ],
)
def test_what_is_no_tokenizer_is_one_line(text, tmp_path):
    (tmp_path / "tokenizer.json").write_bytes(text)
    with pytest.raises(UserError, match="tokenizer.json") as error:
        load_qwen_tokenizer(tmp_path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_parts_of_another_kind_are_one_line(serialized):
    """Wrong types, ids beyond all bounds, and vocabularies that no training makes."""
    base = json.loads(serialized)["model"]
    first, last = base["merges"][0], max(base["vocab"], key=base["vocab"].get)
    for part, value in (
        ("vocab", []),
        ("vocab", {}),
        ("vocab", {**base["vocab"], last: 10**9}),  # 8 GB of pieces, once
        ("vocab", {**base["vocab"], last: -1}),
        ("vocab", {**base["vocab"], last: "5"}),
        ("vocab", {**base["vocab"], last: True}),
        ("vocab", {k: v for k, v in base["vocab"].items() if k != last}),
        ("vocab", {**base["vocab"], "zzzz": len(base["vocab"])}),
        ("vocab", {**base["vocab"], " ": len(base["vocab"])}),
        ("vocab", {k.replace("!", "\u2603"): v for k, v in base["vocab"].items()}),
        ("merges", {}),
        ("merges", [*base["merges"], first]),
        ("merges", [*base["merges"], ["a"]]),
        ("merges", [*base["merges"], "a b c"]),
        ("merges", [*base["merges"], [1, 2]]),
        ("merges", [*base["merges"], 7]),
        ("merges", base["merges"][1:]),
    ):
        values = json.loads(serialized)
        values["model"][part] = value
        with pytest.raises(UserError) as error:
            qwen_tokenizer(json.dumps(values).encode())
        assert "\n" not in str(error.value)
    for added in ([{}], [5], {"a": 1}, [{"id": "1", "content": "x"}], [{"id": 1, "content": 2}]):
        with pytest.raises(UserError):
            qwen_tokenizer(qwen_cases.change(serialized, added_tokens=added))


@pytest.mark.reference
@pytest.mark.parametrize("decoder", [True, False])
def test_ten_thousand_strings_as_transformers(request, tmp_path, decoder):
    """The published vocabulary in its older form, without and with tokens of a fine-tune."""
    transformers = pytest.importorskip("transformers")
    published = qwen_cases.published(request.config.cache)
    folder = unpack((published / "tokenizer.json").read_bytes(), tmp_path / "old", decoder)
    if not decoder:
        ids = json.loads((folder / "added_tokens.json").read_text())
        ids |= {"<loc0>": len(ids) + 151643, "\u00e9t\u00e9>": len(ids) + 151644}
        (folder / "added_tokens.json").write_text(json.dumps(ids))
    ours = load_qwen_tokenizer(folder, vocab_size=152064)
    reference = transformers.AutoTokenizer.from_pretrained(folder)
    texts = strings(10_000)
    draw = random.Random(2)
    for i in range(0, len(texts), 7):
        texts[i] += draw.choice(["<loc0>", "e\u0301te\u0301>", "<loc0>\u0338", "\u00e9t\u00e9>"])
    assert reference(texts)["input_ids"] == [ours.encode(text) for text in texts]
    assert len(reference) == sum(map(bool, ours.pieces))
    assert unicodedata.normalize("NFC", "e\u0301") == "\u00e9"


@pytest.mark.reference
def test_saved_by_transformers(tmp_path, serialized):
    """What save_pretrained makes of a folder is the same tokenizer."""
    transformers = pytest.importorskip("transformers")
    for name, tokens in (("plain", []), ("more", ["<loc0>", "<loc1>"])):
        reference = transformers.AutoTokenizer.from_pretrained(unpack(serialized, tmp_path / name))
        reference.add_tokens(tokens)
        reference.save_pretrained(tmp_path / f"{name}_saved")
        ours = load_qwen_tokenizer(tmp_path / f"{name}_saved")
        again = transformers.AutoTokenizer.from_pretrained(tmp_path / f"{name}_saved")
        texts = [text + draw for text in strings(200) for draw in ("", "<loc1>")]
        assert again(texts)["input_ids"] == [ours.encode(text) for text in texts]
        assert len(again) == ours.vocab_size


@pytest.mark.reference
def test_named_tokens_beside_an_older_list_as_transformers(tmp_path, serialized):
    """extra_special_tokens as an object: the list by the older name stands beside it."""
    transformers = pytest.importorskip("transformers")
    folder = unpack(serialized, tmp_path / "old", decoder=False)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text()) | {"extra_special_tokens": {"call": "<tool_call>"}}
    path.write_text(json.dumps(config))
    tags = json.loads((folder / "added_tokens.json").read_text())
    texts = [f"{tag}\u0338a" for tag in tags]
    ours = load_qwen_tokenizer(folder)
    reference = transformers.AutoTokenizer.from_pretrained(folder)
    assert reference(texts)["input_ids"] == [ours.encode(text) for text in texts]
    first = [ours.encode(text)[0] for text in texts]
    assert first[list(tags).index("<tool_call>")] == tags["<tool_call>"]
