"""Tokenizers: no text is lost, tags and ticks are single ids, training is deterministic."""

import os
import random
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medscope_jax.dialogue import (
    load_tokenizer,
    pad_vocabulary,
    protocol,
    save_tokenizer,
    train_tokenizer,
)
from medscope_jax.dialogue.tokenizer import sentencepiece_tokenizer
from medscope_jax.errors import UserError

# Anything at all, and texts that are rich in what the tokenizer treats specially.
SPECIAL = [*protocol.TAGS, *protocol.CALL_PHRASES, "0.0", "240.0", "1", ".", " ", "  ", "\n", "\t"]
SPECIAL += ["\0", "\x01", "\x7f", "\r\n", "\u2581", "\ufeff", "\u200b", "<unk>", "<0x0A>", "</s>"]
TEXTS = st.one_of(st.text(), st.lists(st.sampled_from(SPECIAL) | st.text(max_size=3)).map("".join))


@given(text=TEXTS)
@settings(max_examples=600, deadline=None)
def test_every_text_comes_back(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert b"".join(tokenizer.pieces[i] for i in ids) == text.encode()
    assert all(tokenizer.pieces[i] for i in ids), "an id that stands for nothing"


@given(before=TEXTS, tag=st.sampled_from(protocol.TAGS[:-1]), after=TEXTS)
@settings(max_examples=300, deadline=None)
def test_a_tag_is_one_id_wherever_it_stands(tokenizer, before, tag, after):
    """The rollout finds </tool_call> by its id; no neighbour may swallow a part of it."""
    text = before + tag + after
    ids = tokenizer.encode(text)
    assert tokenizer.tag(tag) in ids
    for mark in protocol.TAGS[:-1]:  # the last is the newline, which phrases hold too
        assert ids.count(tokenizer.tag(mark)) == text.count(mark)


def test_ticks_are_single_ids_also_inside_a_call(tokenizer):
    ticks = [f"{second}.0" for second in range(241)]
    ids = [tokenizer.tag(tick) for tick in ticks]
    assert len(set(ids)) == 241
    call = tokenizer.encode(protocol.crop_call(87.0, 240.0))
    assert ids[87] in call and ids[240] in call
    # The phantom teacher's calls are short: tags, three phrases and two times.
    assert len(call) == 7
    assert len(tokenizer.encode(protocol.frame_call(3.0))) == 5
    # A time that is no tick is no single id, but it is whole text all the same.
    with pytest.raises(ValueError, match=r"'12.5' is \d tokens in this tokenizer, not one"):
        tokenizer.tag("12.5")


def test_tags_a_model_writes_hide_in_no_other_piece(tokenizer):
    written = [t for t in protocol.TAGS if t not in ("\n", "<tools>", "</tools>")]
    system = [p.encode() for p in protocol.constant_phrases(80)]
    for tag in written:
        holders = [p for p in tokenizer.pieces if tag.encode() in p and p not in system]
        assert holders == [tag.encode()]


def test_the_system_prompt_is_short(tokenizer):
    closing = protocol.prompt_closing_parts("", True)
    text = protocol.prompt_opening(True) + "".join(part for part, _ in closing)
    assert len(tokenizer.encode(text)) < 50 < len(text) / 20


def test_training_is_deterministic(tokenizer, corpus):
    again = train_tokenizer(iter(corpus), 1024, 241)
    assert again.serialized == tokenizer.serialized and again.pieces == tokenizer.pieces
    other = train_tokenizer(("anything else", "at all"), 1024, 241)
    assert other.serialized != tokenizer.serialized


def test_training_is_deterministic_across_processes(tokenizer, corpus):
    """Neither hash seeds nor the order of sets reach the vocabulary."""
    program = (
        "import sys; from medscope_jax.dialogue import train_tokenizer;"
        f"sys.stdout.buffer.write(train_tokenizer({corpus!r}, 1024, 241).serialized)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout == tokenizer.serialized


def test_save_and_load(tokenizer, tmp_path):
    path = tmp_path / "run" / "tokenizer.model"
    save_tokenizer(tokenizer, path)
    names = {p.name for p in path.parent.iterdir()}
    assert names == {"tokenizer.model", "tokenizer.model.sha256"}
    done = subprocess.run(["sha256sum", "-c", f"{path.name}.sha256"], cwd=path.parent)
    assert done.returncode == 0
    loaded = load_tokenizer(path)
    assert loaded.pieces == tokenizer.pieces
    assert loaded.encode("the left edge\u2581") == tokenizer.encode("the left edge\u2581")


def test_a_save_that_fails_leaves_the_old_file(tokenizer, tmp_path, monkeypatch):
    path = tmp_path / "tokenizer.model"
    save_tokenizer(tokenizer, path)

    def interrupted(descriptor):
        os.ftruncate(descriptor, len(tokenizer.serialized) // 2)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_tokenizer(tokenizer, path)
    assert load_tokenizer(path).pieces == tokenizer.pieces
    assert set(os.listdir(tmp_path)) == {path.name, f"{path.name}.sha256"}


def test_a_flipped_bit_is_noticed(tokenizer, tmp_path):
    path = tmp_path / "tokenizer.model"
    save_tokenizer(tokenizer, path)
    for place in range(0, len(tokenizer.serialized), 97):
        data = bytearray(tokenizer.serialized)
        data[place] ^= 1 << place % 8
        path.write_bytes(data)
        with pytest.raises(UserError, match="tokenizer.model is not what .* put back a copy"):
            load_tokenizer(path)
    path.unlink()  # as the message says: made again, it is the same
    save_tokenizer(tokenizer, path)
    assert load_tokenizer(path).pieces == tokenizer.pieces
    path.unlink()
    with pytest.raises(UserError, match="would not become what it was"):
        save_tokenizer(train_tokenizer(["where?"] * 5, 600, 10), path)


def test_a_run_of_an_earlier_version_has_no_checksum(tokenizer, tmp_path, caplog):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(tokenizer.serialized)
    assert load_tokenizer(path).pieces == tokenizer.pieces
    assert "tokenizer.model has no checksum beside it" in caplog.text


def test_a_damaged_model_is_read_or_refused(tokenizer):
    """Whatever the library says of it: pieces that are no text, specs that are gone.

    What is read all the same loses no text; that a bit is another shows by the file's checksum.
    """
    draw, whole, refused = random.Random(0), tokenizer.serialized, 0
    for _ in range(300):
        place, end = draw.randrange(len(whole)), draw.randrange(len(whole))
        turned = bytearray(whole)
        turned[place] ^= 1 << draw.randrange(8)
        for damaged in (bytes(turned), whole[:end]):
            try:
                found = sentencepiece_tokenizer(damaged)
            except RuntimeError:
                refused += 1
                continue
            assert damaged != whole[:end]
            assert found.decode(found.encode("Look at 12.0")) == "Look at 12.0"
    assert refused > 400


def test_missing_and_broken_files_are_one_line(tmp_path):
    with pytest.raises(UserError, match="no tokenizer there"):
        load_tokenizer(tmp_path / "tokenizer.model")
    (tmp_path / "broken").write_bytes(b"not a model")
    with pytest.raises(UserError, match="not a SentencePiece model"):
        load_tokenizer(tmp_path / "broken")


def test_ids_beyond_the_pieces_are_silent():
    """A model's rows are rounded up, and an untrained one samples all of them."""
    tokenizer = train_tokenizer(["where?"] * 5, 600, 10)
    padded = pad_vocabulary(tokenizer, tokenizer.vocab_size + 30)
    ids = tokenizer.encode("where?")
    assert padded.decode([*ids, padded.vocab_size - 1]) == "where?"
    assert padded.pieces[: tokenizer.vocab_size] == tokenizer.pieces
    assert padded.encode("where?") == ids
    assert pad_vocabulary(tokenizer, 10).pieces == tokenizer.pieces
