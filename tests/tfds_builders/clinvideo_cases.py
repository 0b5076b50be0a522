"""A manual folder as hospitals have them: names of patients in file names, faults of all kinds."""

import hashlib
import json
import shutil
from pathlib import Path

import cv2
import numpy as np

from medscope_jax.data.built import newest
from medscope_jax.data.stored_rows import Rows, record_of
from medscope_jax.dialogue import protocol
from tests.video import dicom_cases
from tfds_builders.build import build
from tfds_builders.record import Annotation, BadRow

VIDEO = {"fps": 2.0, "height": 24, "width": 32, "max_frames": 40, "min_frames": 1}
THOUGHT = "<think>It is there.</think>"
ANSWER = f"{THOUGHT}<answer>left</answer>"
TURNS = (
    THOUGHT + protocol.crop_call(1.0, 2.5),
    THOUGHT + protocol.frame_call(3.1),
    ANSWER,
)
# Nothing that is built or said may hold one of these.
SECRETS = (*dicom_cases.SECRETS, "Mustermann", "Erika")


def write_video(path: Path, seconds: float, seed: int, fps: float = 8.0) -> None:
    """A recording of smooth random pictures."""
    rng = np.random.default_rng(seed)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), fps, (64, 48))
    for _ in range(round(seconds * fps)):
        small = rng.integers(0, 255, (3, 4, 3), dtype=np.uint8)
        writer.write(cv2.resize(small, (64, 48), interpolation=cv2.INTER_NEAREST))
    writer.release()


def row(video: str, part: str = "rl", number: int = 0, **fields) -> dict:
    """An annotation as the stand-in reader finds it; its place is a row number."""
    known = {"place": f"Mustermann.json:{number}", "video": video, "part": part, "task": "vqa"}
    return known | {"question": f"Where is it, number {number}?", "answer": "left"} | fields


def read_rows(reader: str, path: Path, options: dict):
    """The stand-in reader: a JSON list of Annotations' fields, or of a place and a reason."""
    assert reader == "stand_in" and options == {}
    for fields in json.loads(path.read_text()):
        if "reason" in fields:
            yield BadRow(**fields)
        elif fields == {"fault": True}:
            raise KeyError("Erika Mustermann")
        else:
            lists = ("options", "spans", "turns")
            tuples = {name: tuple(fields[name]) for name in lists if name in fields}
            yield Annotation(**{**fields, **tuples})


def write_suite(root: Path, rows: dict[str, list[dict]], **changes) -> None:
    """suite.json and the annotations of each source; videos are in root/SOURCE/videos."""
    sources = []
    for name, listed in rows.items():
        (root / name / "videos").mkdir(parents=True, exist_ok=True)
        (root / name / "rows.json").write_text(json.dumps(listed))
        sources.append({"name": name, "reader": "stand_in", "videos": f"{name}/videos"})
        sources[-1]["annotations"] = f"{name}/rows.json"
    (root / "suite.json").write_text(json.dumps({"video": VIDEO, "sources": sources} | changes))


def write_folder(root: Path) -> None:
    """Two sources; see the rows for what is wrong with them."""
    videos = root / "scope" / "videos"
    videos.mkdir(parents=True)
    other = root / "echo" / "videos"
    other.mkdir(parents=True)
    write_video(videos / "Mustermann_Erika.mp4", 6, seed=1)
    write_video(videos / "b.mp4", 5.5, seed=2)
    shutil.copy(videos / "b.mp4", other / "Doe_again.mp4")
    whole = (videos / "b.mp4").read_bytes()
    (videos / "cut_Erika.mp4").write_bytes(whole[: len(whole) // 2])
    rng = np.random.default_rng(3)
    dicom_cases.write(
        other,
        rng.integers(0, 255, (30, 24, 32, 3), dtype=np.uint8),
        "Doe.dcm",
        change=dicom_cases.plant_everywhere,
        FrameTime="100",
    )
    write_suite(root, {"scope": scope_rows(), "echo": echo_rows()})


def scope_rows() -> list[dict]:
    """Rows 0 to 6 are good, the others not."""
    erika = "Mustermann_Erika.mp4"
    return [
        row(erika, "cap", 0, split="train", task="caption", window=[1.0, 4.0], turns=[ANSWER]),
        row(erika, "vcot", 1, split="train", spans=[[1.2, 2.4], [4.0, 7.5]], turns=list(TURNS)),
        row(erika, "rl", 2, split="train", spans=[[2.05, 2.1]]),
        row(erika, "rl", 3, frame_time=3.3),
        row("b", "eval", 4, split="test", spans=[[0.0, 5.0]], options=["left", "right"]),
        row("b.mp4", "rl", 5, spans=[[0.5, 1.0]]),
        row(erika, "qa", 6, window=[0.0, 2.0], spans=[[1.0, 2.0]], turns=[ANSWER]),
        {"place": "Mustermann.json:7", "reason": "line 7 has no question"},
        row("cut_Erika.mp4", "rl", 8),
        row("nowhere.mp4", "rl", 9),
        row("../../secret.mp4", "rl", 10),
        row(erika, "rl", 11, spans=[[61.5, 62.0]]),
        row(erika, "rl", 12, question="What is </answer>?"),
        row(erika, "vcot", 13, turns=[TURNS[0].replace("video.mp4", "Doe.mp4"), ANSWER]),
        row(erika, "movie", 14),
    ]


def echo_rows() -> list[dict]:
    """The copy of b is in the split of b, whatever row 2 says; nothing is read behind the fault."""
    return [
        row("Doe.dcm", "cot", 0, split="train", turns=[ANSWER]),
        row("Doe.dcm", "rl", 1, frame_time=1.0),
        row("Doe_again.mp4", "rl", 2, split="train"),
        row("Doe_again.mp4", "eval", 3, frame_time=2.0),
        row("Doe_again.mp4", "cot", 4, turns=[ANSWER]),
        {"fault": True},
        row("Doe.dcm", "rl", 6, frame_time=1.0),
    ]


def build_all(manual: Path, data: Path, **options) -> dict:
    """build() of every part, with the stand-in reader."""
    return build("clinvideo_suite", manual, data, read=read_rows, **options)


def stored_videos(dataset: Path, split: str) -> list[dict]:
    """What a data set of frames stores of each video of a split, but for the frames."""
    return list(Rows(newest(dataset), split, _but_frames, "again"))


def _but_frames(example: dict) -> dict:
    return record_of({name: value for name, value in example.items() if name != "frames"})


def digest(folder: Path) -> dict[str, str]:
    """A hash of every file below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
