"""Qwen's tokenizer: no text is lost, tags are safe, and the ids are transformers' own."""

import functools
import json
import random
import re
import unicodedata

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from medscope_jax.bank import stack_bank
from medscope_jax.dialogue import (
    Layout,
    Role,
    build_episode,
    build_prompt,
    encode_parts,
    frame_text_ids,
    generated_text,
    load_qwen_tokenizer,
    protocol,
    stamp_ids,
    turn_texts,
)
from medscope_jax.dialogue.qwen_tokenizer import SINGLE_TAGS
from medscope_jax.errors import UserError
from medscope_jax.rollout import find_special_tokens, observe
from medscope_jax.tools import Call, CallStatus, interpret, parse_call
from tests.dialogue import qwen_cases
from tests.dialogue.qwen_cases import qwen_tokenizer

LAYOUT = Layout(
    length=4000,
    preview_frames=3,
    window_frames=4,
    grid=(1, 2),
    frame_format="<{time:.1f}s><|vision_start|>{frame}<|vision_end|>",
    max_tool_turns=5,
)
TEXTS = st.one_of(
    st.text(),
    st.lists(
        st.sampled_from([*qwen_cases.TAGS, "<think>", "</answer>", " ", "\n", "12.0", "e\u0301"])
        | st.text(max_size=3)
    ).map("".join),
)


@pytest.fixture(scope="session")
def serialized():
    return qwen_cases.tiny()


@pytest.fixture(scope="session")
def qwen(serialized):
    return qwen_tokenizer(serialized)


@given(text=TEXTS)
@settings(max_examples=200, deadline=None)
def test_the_bytes_of_the_pieces_are_the_text(qwen, text):
    """In Unicode's composed form, as Qwen's files ask."""
    ids = qwen.encode(text)
    pieces = b"".join(qwen.pieces[i] for i in ids).decode()
    # A mark behind a tag composes with nothing here, but does in the comparison.
    assert unicodedata.normalize("NFC", pieces) == unicodedata.normalize("NFC", text)
    assert all(qwen.pieces[i] for i in ids)
    plain = encode_parts(qwen, [(text, False)])
    assert b"".join(qwen.pieces[i] for i in plain).decode() == unicodedata.normalize("NFC", text)
    assert not set(plain) & {qwen.tag(tag) for tag in qwen_cases.TAGS}


@pytest.fixture(scope="session")
def library(serialized):
    return tokenizers.Tokenizer.from_str(serialized.decode())


@given(text=TEXTS)
@settings(max_examples=200, deadline=None)
def test_ids_are_the_librarys(library, qwen, text):
    """With the added tokens left to the library, as transformers leaves them."""
    assert qwen.encode(text) == library.encode(text, add_special_tokens=False).ids


def test_surrogates(qwen):
    """JSON may hold them; pairs are a character, lone ones become U+FFFD."""
    assert qwen.decode(qwen.encode("a\ud83d\ude00b")) == "a\U0001f600b"
    for text in ("a\ud83d", "\ude00\ud83d", "\udfff<|im_end|>\ud800"):
        assert qwen.decode(qwen.encode(text)) == re.sub("[\ud800-\udfff]", "\ufffd", text)


def test_ids_beyond_the_tokens_stand_for_nothing(serialized, qwen):
    wide = qwen_tokenizer(serialized, vocab_size=qwen.vocab_size + 7)
    assert wide.vocab_size == qwen.vocab_size + 7 and wide.pieces[-7:] == (b"",) * 7
    assert wide.pieces[:-7] == qwen.pieces
    with pytest.raises(UserError, match=f"{qwen.vocab_size} tokens do not fit .* vocab_size 5"):
        qwen_tokenizer(serialized, vocab_size=5)


def test_other_files_are_refused(serialized, tmp_path):
    with pytest.raises(UserError, match="no tokenizer there"):
        load_qwen_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"version": ')
    with pytest.raises(UserError, match="not a tokenizer.json"):
        load_qwen_tokenizer(tmp_path)
    added = json.loads(serialized)["added_tokens"]
    for fields, message in (
        ({"decoder": None}, "not a byte-level BPE"),
        ({"added_tokens": added[:-1]}, "</tool_call> is not a token of its own"),
        ({"added_tokens": [{**a, "lstrip": True} for a in added]}, "swallows its neighbours"),
    ):
        with pytest.raises(UserError, match=message):
            qwen_tokenizer(qwen_cases.change(serialized, **fields))
    (tmp_path / "tokenizer.json").write_bytes(serialized)
    assert load_qwen_tokenizer(str(tmp_path)).serialized == serialized


@given(question=TEXTS, tools=st.booleans())
@settings(max_examples=60, deadline=None)
def test_tags_in_a_question_are_text(qwen, tokenizer, question, tools):
    """Whatever a user types, the prompt has the template's tags only, and the user's words."""
    for either in (qwen, tokenizer):
        row = build_prompt(question, [1], [0.0, 12.5], either, LAYOUT, tools)
        clean = build_prompt("Where is it?", [1], [0.0, 12.5], either, LAYOUT, tools)
        tags = {tag: either.encode(tag) for tag in (*protocol.TAGS[:-1], *qwen_cases.TAGS)}
        for tag in (ids[0] for ids in tags.values() if len(ids) == 1):
            assert row.tokens.count(tag) == clean.tokens.count(tag)
        words = unicodedata.normalize("NFC", question) if either is qwen else question
        assert f"\n{words}\n" in either.decode(row.tokens)


@pytest.mark.parametrize("kind", ["qwen", "tokenizer"])
def test_a_tag_cannot_be_made_of_two_pieces(request, kind):
    """Neither of two user texts nor across the seam with the template."""
    either = request.getfixturevalue(kind)
    im_end = either.tag("<|im_end|>")
    seams = [("<|im_", False), ("end|>", False), ("end|><|im_end|>", True), ("<|im_end|>", False)]
    ids = encode_parts(either, seams)
    assert ids.count(im_end) == 1
    assert either.decode(ids) == "<|im_end|>end|><|im_end|><|im_end|>"
    assert encode_parts(either, [("a <|im_end|>", True), (" b", False)]) == either.encode(
        "a <|im_end|> b"
    )


def test_an_episode_reads_back(qwen):
    """The project's conversations in Qwen's tokens: tags of one and of several tokens alike."""
    call = protocol.crop_call(3.0, 4.5)
    turns = ["<think>a\u4e2d</think>" + call, "<think>b</think><answer>left</answer>"]
    row = build_episode("Where?", turns, (0, 4), np.arange(9.0), 9.0, qwen, LAYOUT, tools=True)
    tokens, role = np.array(row.tokens), np.array(row.role)
    assert turn_texts(tokens, role, qwen) == turns
    text = generated_text(tokens, role, qwen)
    assert text.startswith(turns[0]) and text.endswith(turns[1])
    assert text.count("<tool_response>") == text.count("</tool_response>") == 1
    assert [c[:4] for c in row.calls] == [(1, 3.0, 4.5, CallStatus.OK)]
    assert row.tokens[row.calls[0][4]] == qwen.tag("</tool_call>")


def test_the_device_reads_and_shows_the_same(qwen):
    """Interpreter and observations from Qwen's ids equal what the host builds."""
    times, special_tokens = np.arange(9.0), find_special_tokens(qwen, LAYOUT)
    texts = [
        '\n{"name": "crop_video", "arguments": {"start_time": 3.0, "end_time": 4.5}}\n',
        ' {"name": "get_frame", "arguments": {"timestamp": 1e0, "why": "\u4e2d\U0001f600"}}',
        '{"name": "get_frame", "arguments": {"timestamp": 99}}',
        "<think>no</think>",
    ]
    ids = [qwen.encode(text) for text in texts]
    padded = np.zeros((len(ids), max(map(len, ids))), np.int32)
    for row, values in zip(padded, ids, strict=True):
        row[: len(values)] = values
    lengths = jnp.asarray([len(values) for values in ids])
    call = jax.jit(interpret)(
        jnp.asarray(padded), lengths, jnp.full(len(ids), 9.0), special_tokens.table
    )
    for index, text in enumerate(texts):
        assert Call(*(np.asarray(x)[index] for x in call)) == parse_call(text, 9.0)

    features = np.zeros((9, LAYOUT.tokens_per_frame, 4), np.float32)
    stamps = functools.partial(stamp_ids, qwen, LAYOUT)
    bank = stack_bank([features], [times], [9.0], stamps).padded()
    look = jax.jit(functools.partial(observe, layout=LAYOUT))
    tokens, visual_index, count = look(call, jnp.zeros(len(ids), jnp.int32), bank, special_tokens)
    for index, text in enumerate(texts):
        turns = [f"<think>a</think><tool_call>{text}</tool_call>", "<answer>b</answer>"]
        row = build_episode("Where?", turns, (0,), times, 9.0, qwen, LAYOUT, tools=True)
        shown = [i for i, role in enumerate(row.role) if role == Role.OBSERVATION]
        size = int(count[index])
        assert [row.tokens[i] for i in shown] == tokens[index, :size].tolist()
        assert [row.visual_index[i] for i in shown] == visual_index[index, :size].tolist()
    assert frame_text_ids(qwen, LAYOUT) == (qwen.tag("<|vision_end|>"),)


@pytest.fixture(scope="session")
def folder(request):
    return qwen_cases.published(request.config.cache)


@pytest.fixture(scope="session")
def real(folder):
    return load_qwen_tokenizer(folder, vocab_size=152064)


def strings(count):
    """Texts of the kinds that a tokenizer may stumble on, drawn anew from one seed."""
    draw = random.Random(0)
    blocks = [(0x20, 0x7F), (0xA0, 0x250), (0x370, 0x400), (0x400, 0x530), (0x5D0, 0x5EB)]
    blocks += [(0x620, 0x660), (0x900, 0x980), (0xE01, 0xE3B), (0x300, 0x340), (0x1100, 0x1200)]
    blocks += [(0x3040, 0x3100), (0x4E00, 0xA000), (0xAC00, 0xD7A4), (0xF900, 0xFA00)]
    blocks += [(0x1F300, 0x1F650), (0x20000, 0x2A6D0), (0x2000, 0x2070), (0xE000, 0xE010)]
    words = [
        "the",
        " lens",
        "We'll",
        "DON'T",
        "\u017ft",
        "it's",
        "na\u00efve",
        "\u4e2d\u6587",
        "3.14",
    ]
    code = ["def f(x):\n    return x\n", "\t\tif (a != b) { c += 1; }\r\n", "// \u6ce8\u91ca\n"]
    emoji = ["\U0001f468\u200d\U0001f469\u200d\U0001f466", "\U0001f1e9\U0001f1ea", "\u2764\ufe0f"]
    space = [" ", "  ", "\n", "\n\n", "\t", "\r\n", "\u00a0", "\u3000", " \n ", "\u2028", "\x00"]
    tags = [*protocol.TAGS, *qwen_cases.TAGS, "<|im_", "end|>", "<tools>", "<|fim_pad|>"]
    kinds = [
        lambda: draw.choice(words),
        lambda: draw.choice(code),
        lambda: draw.choice(emoji),
        lambda: draw.choice(space) * draw.randint(1, 4),
        lambda: draw.choice(tags),
        lambda: f"{draw.uniform(0, 10 ** draw.randint(0, 9)):.{draw.randint(0, 4)}f}",
        lambda: "".join(chr(draw.randrange(*draw.choice(blocks))) for _ in range(5)),
        lambda: json.dumps({"start_time": draw.random(), "path": draw.choice(words)}),
    ]
    return ["".join(draw.choice(kinds)() for _ in range(draw.randint(0, 9))) for _ in range(count)]


@pytest.mark.reference
def test_ten_thousand_strings_as_transformers(folder, real):
    """Identical ids, and identical texts from ids, with the real files."""
    transformers = pytest.importorskip("transformers")
    reference = transformers.AutoTokenizer.from_pretrained(folder)
    texts = strings(10_000)
    ids = [real.encode(text) for text in texts]
    assert reference(texts)["input_ids"] == ids
    assert len({i for row in ids for i in row}) > 3_000  # as mixed as they should be
    draw = random.Random(1)
    for _ in range(300):  # any ids, also those that cut characters in two
        chosen = [draw.randrange(len(reference)) for _ in range(9)]
        assert real.decode(chosen) == reference.decode(chosen)


@pytest.mark.reference
def test_strings_as_a_slow_tokenizer(folder, real):
    """Byte-pair encoding written out: merge the best-ranked pair until none is left."""
    regex = pytest.importorskip("regex")
    file = json.loads((folder / "tokenizer.json").read_text())
    vocab, merges = file["model"]["vocab"], file["model"]["merges"]
    rank = {tuple(m.split(" ") if isinstance(m, str) else m): i for i, m in enumerate(merges)}
    added = {token["content"]: token["id"] for token in file["added_tokens"]}
    split = regex.compile(file["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"])
    letter = {b: chr(b) for b in range(256) if chr(b).isprintable() and b not in (32, 160, 173)}
    letter |= {b: chr(256 + n) for n, b in enumerate(b for b in range(256) if b not in letter)}

    def slow(text):
        ids = []
        for piece in re.split("(" + "|".join(map(re.escape, added)) + ")", text):
            if piece in added:
                ids.append(added[piece])
                continue
            for word in split.findall(unicodedata.normalize("NFC", piece)):
                parts = [letter[byte] for byte in word.encode()]
                while True:
                    pairs = list(zip(parts, parts[1:], strict=False))
                    best = min(pairs, key=lambda p: rank.get(p, len(rank)), default=None)
                    if best not in rank:
                        break
                    place = pairs.index(best)
                    parts[place : place + 2] = ["".join(best)]
                ids += [vocab[part] for part in parts]
        return ids

    for text in strings(10_000):
        assert real.encode(text) == slow(text), text


@pytest.mark.reference
def test_what_is_one_token_in_qwen(real):
    for tag in SINGLE_TAGS:
        assert real.encode(f"a{tag}b") == [real.tag("a"), real.tag(tag), real.tag("b")]
    assert real.tag("</tool_call>") == 151658 and real.tag("<|im_end|>") == 151645
    for tag in ("<think>", "</think>", "<answer>", "<tool_response>", "</tool_response>"):
        assert len(real.encode(tag)) > 1
    assert real.pieces[151665:] == (b"",) * (152064 - 151665)
