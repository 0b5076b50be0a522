"""Chosen frames of stored videos: their records are read and no others."""

import numpy as np
import pytest

from medscope_jax.bank import bank_file, make_bank
from medscope_jax.bank.bank_file import RECORD_BYTES, frames_of_record
from medscope_jax.errors import UserError
from tests.bank import stored_cases as case


def test_a_record_is_worth_a_read_and_little_more():
    """A 7B model's frame, 64 tokens of 3,584, is one; small ones go together."""
    assert frames_of_record((64, 3584), "bfloat16") == frames_of_record((64, 3584), "int8") == 1
    assert frames_of_record((64, 2048), "bfloat16") == 1  # of the 3B model
    assert frames_of_record((64, 2048), "int8") == 2
    assert frames_of_record((8, 96), "float32") == 32
    for width in (16, 100, 500, 1000, 4000):
        frames = frames_of_record((64, width), "bfloat16")
        assert frames == 1 or frames * 64 * width * 2 <= RECORD_BYTES


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """(the bank in memory, on the disk in records of three frames, what was read of it)."""
    monkeypatch.setattr(bank_file, "RECORD_BYTES", 3 * case.S * case.D * 2)
    videos, read, read_record = case.make_videos((70, 5)), [], bank_file._read
    built = case.build(tmp_path, videos)
    bank = case.load(tmp_path, built.key, videos)
    monkeypatch.setattr(bank_file, "_read", lambda r, n: read.append(n) or read_record(r, n))
    whole = make_bank(case.encoder("bfloat16"), list(videos.values()), case.stamp_ids, case.BATCH)
    return whole, bank, read


@pytest.mark.parametrize("frames", [[0], [69, 3, 3, 4], [], list(range(0, 70, 7)), list(range(70))])
def test_chosen_frames_are_those_of_the_whole_bank(stored, frames):
    whole, bank, read = stored
    frames = np.array(frames, int)
    found = bank.tokens.read(0, frames)
    np.testing.assert_array_equal(found, whole.padded().tokens[0][frames])
    description = 24  # the last record: 70 frames are 24 records
    assert read == [description, *sorted({frame // 3 for frame in frames.tolist()})]


def test_a_conversation_reads_what_it_shows(stored):
    """Visual tokens by their index, of a preview and a window, from the disk as from memory."""
    whole, bank, read = stored
    index = np.concatenate([np.arange(case.S) + case.S * frame for frame in (0, 35, 69, 35, 36)])
    found = bank.visual(0, index)
    np.testing.assert_array_equal(found, whole.visual(0, index))
    assert found.dtype == whole.tokens.dtype and read == [24, 0, 11, 12, 23]


def test_damage_is_told_of_what_is_read(tmp_path, stored):
    """A record that nobody asks for may be damaged; who asks for it is told in a line."""
    whole, bank, _ = stored
    path = tmp_path / "video-0.array_record"
    data = bytearray(path.read_bytes())
    record = whole.padded().tokens[0][30:33].tobytes()
    at = bytes(data).index(record)
    data[at + 5] ^= 1
    path.write_bytes(data)
    others = np.array([0, 29, 33, 69])
    np.testing.assert_array_equal(bank.tokens.read(0, others), whole.padded().tokens[0][others])
    with pytest.raises(UserError, match="video video-0 is damaged .*record 10.* make it") as told:
        bank.tokens.read(0, np.array([29, 31]))
    assert "\n" not in str(told.value)
    path.unlink()
    with pytest.raises(UserError, match="no bank of video video-0; make it again"):
        bank.tokens.read(0, others)
    bank.tokens.read(1, np.array([4]))
