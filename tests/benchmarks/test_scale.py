"""The benchmarks of large suites: what they build can be read, and what they time is waiting."""

import itertools
import time

import numpy as np

from benchmarks import scale_bank, scale_start
from benchmarks.input_wait import UNTIMED, waited
from medscope_jax.data.built import newest
from medscope_jax.data.clinvideo_reader import ClinvideoReader
from tfds_builders import stored_videos


def test_a_multiplied_suite_is_a_built_one(tmp_path, monkeypatch):
    monkeypatch.setattr(stored_videos, "_decode", stored_videos._decode)  # put back at the end
    scale_start.build_small(tmp_path, 140)
    before = list(ClinvideoReader(tmp_path / "data").records("cap", "train"))
    for name in scale_start.DATA_SETS:
        scale_start.multiply(newest(tmp_path / "data" / name), 3, 64)
    suite = ClinvideoReader(tmp_path / "data")
    records, outlines = list(suite.records("cap", "train")), suite.outlines("train")
    assert len(records) == 3 * len(before) and len(outlines) == 3 * scale_start.SMALL
    files = list(newest(tmp_path / "data" / "clinvideo_suite" / "cap").glob("*.array_record*"))
    assert len(files) == -(-len(records) // 64)
    for copy, (first, record) in itertools.product(range(3), enumerate(before)):
        found = records[copy * len(before) + first]
        assert found["answer"] == record["answer"] and found["video"] in outlines
    assert len({record["video"] for record in records}) == 3 * len({r["video"] for r in before})
    assert suite.videos("train")[-1].frames[3:5].shape == (2, 28, 56, 3)


def test_waiting_is_told_from_working():
    def slow():
        while True:
            time.sleep(0.03)
            yield {}

    hungry = waited(slow(), lambda batch: None, 5)
    fed = waited(itertools.repeat({}), lambda batch: time.sleep(0.03), 5)
    assert hungry["wait_share"] > 0.9 and hungry["wait_seconds"] >= 0.03
    assert fed["wait_share"] < 0.1 and fed["step_seconds"] >= 0.03


def test_a_hosts_share_is_read_from_a_stored_bank(tmp_path, monkeypatch):
    monkeypatch.setattr(scale_bank, "TOKENS", 4)
    monkeypatch.setattr(scale_bank, "WIDTH", 8)
    found = scale_bank.measure(tmp_path, 64, 0.0, 3)
    stored = sum(path.stat().st_size for path in tmp_path.glob("*.array_record")) / 2**20
    batches = UNTIMED + 3  # each video is read once
    assert 0 < found["mb_a_batch"] * batches < stored
    assert found["rows"] == 2 and found["alone_mb_per_second"] > 0


def test_a_conversation_shows_all_of_its_video():
    row = scale_bank.conversation(3, 400)
    shown = row.visual_index[row.visual_index >= 0]
    assert np.array_equal(shown, np.arange(3 * scale_bank.TOKENS))
