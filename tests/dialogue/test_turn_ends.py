"""The ids that end a turn: generation_config.json's, as transformers takes them, and <|im_end|>."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medscope_jax.dialogue import load_qwen_tokenizer
from medscope_jax.errors import UserError
from tests.dialogue import qwen_cases

SIZE = 1024  # ids of the model; the tokenizer has fewer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ends")
    (folder / "tokenizer.json").write_bytes(qwen_cases.tiny())
    return folder


@pytest.fixture(scope="module")
def tag(folder):
    return load_qwen_tokenizer(folder).tag


def ends(folder, **files):
    """The ends with these files; a file's values as JSON, or as they are where they are a text."""
    for name in ("generation_config", "config"):
        (folder / f"{name}.json").unlink(missing_ok=True)
    for name, values in files.items():
        text = values if isinstance(values, str) else json.dumps(values)
        (folder / f"{name}.json").write_text(text)
    return load_qwen_tokenizer(folder, SIZE).ends


def cases(tag):
    """(files, ids that transformers stops at)."""
    end, pad, start = tag("<|im_end|>"), tag("<|endoftext|>"), tag("<|im_start|>")
    kind = {"model_type": "qwen2_5_vl"}
    return [
        ({"generation_config": {"eos_token_id": [end, pad]}}, [end, pad]),
        ({"generation_config": {"eos_token_id": [pad, end, pad]}}, [end, pad]),
        ({"generation_config": {"eos_token_id": end}}, [end]),
        ({"generation_config": {"eos_token_id": SIZE - 1}}, [SIZE - 1]),  # no token, but an id
        ({"config": {**kind, "eos_token_id": pad}}, [pad]),
        ({"config": {**kind, "text_config": {"eos_token_id": [pad, start]}}}, [pad, start]),
        (
            {"config": {**kind, "eos_token_id": start, "text_config": {"eos_token_id": pad}}},
            [start],
        ),
        ({"generation_config": {"eos_token_id": pad}, "config": {"eos_token_id": start}}, [pad]),
    ]


def test_which_ids_end_a_turn(folder, tag):
    """The stated ones; <|im_end|> always, first, and alone where nothing is stated."""
    end = tag("<|im_end|>")
    for files, stated in cases(tag):
        assert ends(folder, **files) == (end, *(i for i in stated if i != end)), files
    assert ends(folder) == ends(folder, generation_config={}, config={}) == (end,)
    # A call's end is a call; the family's default is no id of a small model.
    assert ends(folder, generation_config={"eos_token_id": [tag("</tool_call>")]}) == (end,)
    assert ends(folder, config={"text_config": {"eos_token_id": 151645}}) == (end,)
    made = {"_from_model_config": True, "eos_token_id": 151645}
    assert ends(folder, generation_config=made) == (end,)


BAD = ["1", [[1]], [None], {}, True, 1.0, -1, [0, -1], 2**70, list(range(65))]


@pytest.mark.parametrize("value", BAD)
def test_what_is_no_id_is_one_line(folder, value):
    with pytest.raises(UserError, match=r"generation_config.json: eos_token_id is .* expected"):
        ends(folder, generation_config={"eos_token_id": value})
    with pytest.raises(UserError, match=r"[^_]config.json: eos_token_id is"):
        ends(folder, config={"eos_token_id": value})


def test_ids_that_end_nothing_are_refused(folder, tag):
    with pytest.raises(UserError, match="eos_token_id 151645 is beyond the 1024 ids"):
        ends(folder, generation_config={"eos_token_id": [tag("<|im_end|>"), 151645]})
    with pytest.raises(UserError, match=r"is '#' in this tokenizer, a word: .* <\|im_end\|>'s"):
        ends(folder, generation_config={"eos_token_id": tag("#")})
    for broken in ("", "[1]", '{"eos_token_id": 1, "eos_token_id": 2}', "{" * 9999):
        with pytest.raises(UserError, match="generation_config.json"):
            ends(folder, generation_config=broken)


@given(value=st.recursive(st.none() | st.integers(-2, SIZE + 2) | st.text(max_size=2), st.lists))
@settings(max_examples=100, deadline=None)
def test_any_value_is_read_or_refused(folder, tag, value):
    """Ids and lists of them, as far as they are no words, and nothing else."""
    try:
        found = ends(folder, generation_config={"eos_token_id": value})
    except UserError as error:
        assert "\n" not in str(error)
        return
    given_ids = value if isinstance(value, list) else [] if value is None else [value]
    close = tag("</tool_call>")
    assert set(found) == {tag("<|im_end|>"), *given_ids} - {close}


@pytest.mark.reference
def test_transformers_stops_at_the_same(folder, tag):
    transformers = pytest.importorskip("transformers")
    for files, stated in cases(tag):
        ours = ends(folder, **files)
        if "generation_config" in files:
            theirs = transformers.GenerationConfig.from_pretrained(folder)
        else:
            config = transformers.AutoConfig.from_pretrained(folder)
            theirs = transformers.GenerationConfig.from_model_config(config)
        found = theirs.eos_token_id
        found = set(found if isinstance(found, list) else [found])
        assert found == set(stated) and set(ours) == found | {tag("<|im_end|>")}
