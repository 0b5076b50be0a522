"""A built data set is whole or not there, of what the manual folder has, and as it was written."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from medscope_jax.data.clinvideo_reader import ClinvideoReader
from medscope_jax.data.listing import read_listing
from medscope_jax.errors import UserError
from medscope_jax.locks import alone
from tests.tfds_builders import clinvideo_cases as cases
from tests.tfds_builders.clinvideo_cases import digest
from tfds_builders.build import build
from tfds_builders.clinvideo_suite.clinvideo_suite import ClinvideoSuite

ANSWERS = ("left", "right")


@pytest.fixture
def manual(tmp_path):
    """A folder of two short recordings, a question about each."""
    folder = tmp_path / "manual"
    folder.mkdir()
    rows = [cases.row(f"{name}.mp4", "rl", i, split="train") for i, name in enumerate("ab")]
    cases.write_suite(folder, {"scope": rows})
    for seed, name in enumerate("ab"):
        cases.write_video(folder / "scope" / "videos" / f"{name}.mp4", 1, seed)
    return folder


def annotate(manual: Path, *answers: str) -> None:
    """The answers that the questions have from now on."""
    rows = [
        cases.row(f"{name}.mp4", "rl", i, split="train", answer=answer)
        for i, (name, answer) in enumerate(zip("ab", answers, strict=False))
    ]
    (manual / "scope" / "rows.json").write_text(json.dumps(rows))


def build_rl(manual: Path, data: Path, **options) -> None:
    cases.build_all(manual, data, config="rl", quiet=True, **options)


def answers(data: Path) -> list[str]:
    return [record["answer"] for record in ClinvideoReader(data).records("rl", "train")]


def test_withdrawn_answers_are_not_kept(manual, tmp_path, capsys):
    data = tmp_path / "data"
    build_rl(manual, data)
    frames = digest(data / "clinvideo_frames")
    annotate(manual, "right", "left")
    with pytest.raises(UserError, match=r"other annotations .*: build it again with --overwrite"):
        build_rl(manual, data)
    # TFDS's own way says the same.
    builder = ClinvideoSuite(data_dir=data, config="rl", spread=map, read=cases.read_rows)
    with pytest.raises(UserError, match="other annotations"):
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(manual_dir=manual)
        )
    build_rl(manual, data, overwrite=True)
    assert answers(data) == ["right", "left"]
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=manual))
    assert digest(data / "clinvideo_frames") == frames
    cases.build_all(manual, data, config="rl")
    assert capsys.readouterr().out.count("was there already") == 2
    # A part that has no row any more is not there any more.
    (manual / "scope" / "rows.json").write_text(json.dumps([cases.row("a.mp4", "eval")] * 2))
    with pytest.raises(UserError, match="not one example"):
        build_rl(manual, data, overwrite=True)
    assert ClinvideoReader(data).splits("rl") == ()
    # Frames are kept: a disk may not be mounted.
    for path in (manual / "scope" / "videos").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="not one example"):
        build("clinvideo_frames", manual, data, read=cases.read_rows, overwrite=True, quiet=True)
    assert len(read_listing(data / "clinvideo_frames" / "1.0.0")) == 1


def test_what_one_part_is_made_of_is_no_matter_of_another(manual, tmp_path):
    data = tmp_path / "data"
    rows = [cases.row("a.mp4", "rl", split="train")]
    rows += [cases.row("b.mp4", "qa", split="train", window=[0, 0.5], turns=[cases.ANSWER])]
    (manual / "scope" / "rows.json").write_text(json.dumps(rows))
    cases.build_all(manual, data, quiet=True)
    rows[1]["answer"] = "right"
    (manual / "scope" / "rows.json").write_text(json.dumps(rows))
    build_rl(manual, data)
    with pytest.raises(UserError, match="clinvideo_suite/qa.* other annotations"):
        cases.build_all(manual, data, quiet=True)


def test_overwrite_builds_the_frames_again_where_they_are_others(manual, tmp_path):
    data = tmp_path / "data"
    build_rl(manual, data)
    videos = manual / "scope" / "videos"
    times = os.stat(videos / "a.mp4")
    data_a, data_b = (videos / "a.mp4").read_bytes(), (videos / "b.mp4").read_bytes()
    changed = data_b[: len(data_a)].ljust(len(data_a), b"\0")  # of the same size and time
    (videos / "a.mp4").write_bytes(changed)
    os.utime(videos / "a.mp4", ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(UserError, match="other videos, .*: build it again with --overwrite"):
        build_rl(manual, data)
    build("clinvideo_frames", manual, data, read=cases.read_rows, overwrite=True, quiet=True)
    with pytest.raises(UserError, match=r"clinvideo_suite.* was built from other videos than"):
        answers(data)
    (videos / "a.mp4").write_bytes(data_a)
    build_rl(manual, data, overwrite=True)
    assert len(ClinvideoReader(data).outlines("train")) == 2 and answers(data) == ["left", "left"]


def kills(kill_at, manual: Path, folder: Path, moments) -> int:
    """Kills builds, first and overwriting ones, and checks what the next one makes of the rest."""
    new, old = folder / "new", folder / "old"
    annotate(manual, *ANSWERS)
    build_rl(manual, new)
    wanted = digest(new)
    annotate(manual, "left", "left")
    build_rl(manual, old)
    count = 0
    for moment in moments:
        data = folder / f"first{moment}"
        annotate(manual, *ANSWERS)
        killed = kill_at(moment, folder, "build", str(manual), str(data), False)
        build_rl(manual, data)
        assert digest(data) == wanted, moment

        again = folder / f"again{moment}"
        annotate(manual, "left", "left")
        build_rl(manual, again)
        annotate(manual, *ANSWERS)
        killed |= kill_at(moment, folder, "build", str(manual), str(again), True)
        try:  # without --overwrite: the old one, which is refused, or the new one
            build_rl(manual, again)
        except UserError as error:
            assert "other annotations" in str(error)
            annotate(manual, "left", "left")
            build_rl(manual, again)
            assert digest(again) == digest(old), moment
            annotate(manual, *ANSWERS)
        build_rl(manual, again, overwrite=True)
        assert digest(again) == wanted, moment
        if not killed:
            break
        count += 1
    return count


def test_a_killed_build_leaves_the_old_one_or_nothing(kill_at, manual, tmp_path):
    assert kills(kill_at, manual, tmp_path, (25, 45)) == 2


@pytest.mark.invariant
def test_a_build_killed_at_any_moment(kill_at, manual, tmp_path):
    assert kills(kill_at, manual, tmp_path, range(1, 200, 3)) > 15


def test_two_builds_at_once_and_a_killed_one(kill_at, manual, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    with alone(data / ".lock"), pytest.raises(UserError, match=rf"process {os.getpid()}.: wait"):
        build_rl(manual, data)
    assert kill_at(20, tmp_path, "build", str(manual), str(data), False)
    (data / "tmp.results").mkdir()  # of a killed one over Beam: it names recordings
    assert (data / ".lock").read_text()  # a killed process's number, which blocks nobody
    build_rl(manual, data)
    assert answers(data) == ["left", "left"] and not (data / "tmp.results").exists()


def everything(data: Path) -> list:
    """All that is read of a data folder."""
    suite = ClinvideoReader(data)
    videos = [
        (np.asarray(v.frames).tobytes(), v.times.tobytes(), v.duration, v.notes)
        for v in suite.videos("train")
    ]
    listing = read_listing(data / "clinvideo_frames" / "1.0.0")
    rows = [repr(sorted(record.items())) for record in suite.records("rl", "train")]
    frames = cases.stored_videos(data / "clinvideo_frames", "train")
    stored = [(video["id"], video["source"], video["split"]) for video in frames]
    return [stored, videos, rows, list(listing.items())]


def damages(data: Path, step: int):
    """(path, what of it was changed, its damaged bytes or None for a folder in its place)."""
    for path in sorted(path for path in data.rglob("*") if path.is_file() and "1.0.0" in str(path)):
        whole = path.read_bytes()
        used = [place for place, byte in enumerate(whole) if byte]
        for place in used[:: max(1, len(used) // step)]:
            yield path, place, whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
        yield path, "cut", whole[: len(whole) // 2]
        yield path, "longer", whole + whole[:9]
        yield path, "empty", b""
        yield path, "folder", None


def check_damages(manual: Path, data: Path, step: int) -> None:
    build_rl(manual, data)
    wanted, refused = everything(data), 0
    for path, what, damaged in damages(data, step):
        whole = path.read_bytes()
        path.unlink()
        path.mkdir() if damaged is None else path.write_bytes(damaged)
        try:
            assert everything(data) == wanted, (path, what)
        except UserError as error:
            refused += 1
            assert "again with --overwrite" in str(error) or "has no clinvideo" in str(error)
        path.rmdir() if damaged is None else path.unlink()
        path.write_bytes(whole)
    assert refused > 10
    assert everything(data) == wanted


def test_damaged_data_sets_are_one_line(manual, tmp_path):
    check_damages(manual, tmp_path / "data", step=1)


@pytest.mark.invariant
def test_data_sets_damaged_anywhere(manual, tmp_path):
    check_damages(manual, tmp_path / "data", step=30)


def test_overwrite_mends_what_is_damaged(manual, tmp_path):
    data = tmp_path / "data"
    build_rl(manual, data)
    wanted = digest(data)
    for path in sorted(data.rglob("1.0.0/*"))[::4]:
        path.unlink()
        with pytest.raises(UserError, match="build it again with --overwrite"):
            build_rl(manual, data)
        build_rl(manual, data, overwrite=True)
        assert digest(data) == wanted


def test_a_pipe_is_not_waited_for(manual, tmp_path):
    data = tmp_path / "data"
    build_rl(manual, data)
    for name in ("dataset_info.json", "features.json"):
        path = data / "clinvideo_frames" / "1.0.0" / name
        path.rename(tmp_path / name)
        os.mkfifo(path)
        for overwrite in (False, True):
            with pytest.raises(UserError, match=rf"{name} is no regular file .*: move it away"):
                build_rl(manual, data, overwrite=overwrite)
        (tmp_path / name).replace(path)
    build_rl(manual, data)


def test_names_of_other_encodings_are_listed_and_read_again(manual, tmp_path):
    name = os.fsdecode("m\xfcller.mp4".encode("latin-1"))
    rows = [cases.row(name), cases.row("a.mp4")]
    (manual / "scope" / "rows.json").write_text(json.dumps(rows))
    for _ in range(2):
        cases.build_all(manual, tmp_path / "data", quiet=True)
    lines = [json.loads(line) for line in (manual / "quarantine.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in lines] == ["videos", "rl"]
    assert all("m\\udcfcller.mp4" in line.get("video", line["place"]) for line in lines)


@pytest.mark.parametrize(
    "line",
    ["", "{", "[]", '{"stage": 3, "source": "a", "place": "b", "reason": "c"}', "\xff", "NaN"],
)
def test_a_damaged_quarantine_is_found_before_the_work(manual, tmp_path, line):
    (manual / "quarantine.jsonl").write_bytes(line.encode("latin-1") + b"\n")
    with pytest.raises(UserError, match=r"quarantine.jsonl .*line 1: .*: delete it"):
        build_rl(manual, tmp_path / "data")
    assert not list((tmp_path / "data").rglob("*.array_record*"))
    (manual / "quarantine.jsonl").unlink()
    (manual / "quarantine.jsonl").mkdir()
    with pytest.raises(UserError, match="quarantine.jsonl can't be read .*: delete it"):
        build_rl(manual, tmp_path / "data")
