"""Annotations as users have them, through a whole build: what is read, cut, refused, and said."""

import itertools
import json
import shutil
import unicodedata
from pathlib import Path

import jax
import pytest

from medscope_jax.config import load_config
from medscope_jax.data.clinvideo_reader import ClinvideoReader
from medscope_jax.data.open_suite import open_suite
from medscope_jax.distributed import make_mesh
from medscope_jax.errors import UserError
from medscope_jax.training.config_checks import check_config, needed_parts
from medscope_jax.training.from_config import STAGES
from tests.tfds_builders import clinvideo_cases as cases
from tfds_builders.build import build
from tfds_builders.card.__main__ import main as card
from tfds_builders.clinvideo_frames.clinvideo_frames import ClinvideoFrames

ROOT = Path(__file__).resolve().parent.parent.parent
TABLE = """Video;Question;Answer;Spans
Op\u00e9ration.mp4;When is the clip closed?;;2,0-9,0
Op\u00e9ration.mp4;When is the clip opened?;;5,9-5000
1;What is cut?;A vein.;00:01-00:02,500
"""


def write(manual, sources, videos=("v/a.mp4",)):
    for number, name in enumerate(videos):
        (manual / name).parent.mkdir(parents=True, exist_ok=True)
        cases.write_video(manual / name, 6, seed=number)
    suite = {"video": cases.VIDEO, "splits": {"train": 1}, "sources": sources}
    (manual / "suite.json").write_text(json.dumps(suite))


def listed(manual):
    lines = (manual / "quarantine.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_a_table_from_a_spreadsheet(tmp_path, capsys):
    manual, data = tmp_path / "manual", tmp_path / "data"
    name = unicodedata.normalize("NFD", "Op\u00e9ration.mp4")
    source = {"name": "rows", "reader": "plain", "annotations": "rows.csv", "videos": "v"}
    write(manual, [source], (f"v/{name}", "v/001.mp4"))
    (manual / "rows.csv").write_bytes(TABLE.replace("\n", "\r").encode("utf-16"))
    build("clinvideo_suite", manual, data)
    said = capsys.readouterr().out
    cut, plain = ClinvideoReader(data).records("rl", "train")
    assert cut["answer"] == "[2.0, 6.0]" and cut["evidence"].tolist() == [[2.0, 6.0]]
    assert plain["evidence"].tolist() == [[1.0, 2.5]]
    assert len(ClinvideoReader(data).outlines("train")) == 2
    kept, bad = sorted(listed(manual), key=lambda line: line["place"])
    assert (kept["place"], kept["kept"]) == ("rows.csv:2", True)
    assert bad["place"] == "rows.csv:3" and "lies mostly after the video's end" in bad["reason"]
    assert "1 of them with times cut at the end of their video" in said
    assert "1 rows and videos quarantined" in said
    assert "without one example: cap, qa, cot, vcot, passive, eval" in said
    assert card(["--data_dir", str(data)]) == 0
    page = (data / "card.html").read_text()
    assert "lies mostly after the video&#39;s end at # s" in page
    assert "its evidence cut at the video&#39;s end at # s" in page


def test_not_one_example_says_why_and_where(tmp_path):
    manual, data = tmp_path / "manual", tmp_path / "data"
    source = {"name": "rows", "reader": "plain", "annotations": "rows.csv", "videos": "v"}
    write(manual, [source])
    (manual / "rows.csv").write_text("video,question,awnser\na.mp4,What?,It.\na.mp4,Why?,It.\n")
    for name in ("clinvideo_frames", "clinvideo_suite"):
        with pytest.raises(UserError) as caught:
            build(name, manual, data, quiet=True)
        assert "not one example; 2 rows or videos were quarantined, 2 of them" in str(caught.value)
        assert "nobody knows, 'awnser' (did you mean 'answer'?)" in str(caught.value)
        assert "quarantine.jsonl says where each stands" in str(caught.value)
    # The videos are there, but no row about them can be used.
    (manual / "rows.csv").write_text("video,question,answer,spans\na.mp4,When?,,7-8\n")
    with pytest.raises(UserError, match="starts after the video's end at # s. quarantine.jsonl"):
        build("clinvideo_suite", manual, data, quiet=True)


@pytest.mark.parametrize(
    "data, said",
    [
        ("video,question\na.mp4,What?".encode("utf-16-le"), "write it as UTF-8. quarantine.jsonl"),
        (b"\xe9,question\na.mp4,What?\n", "the row is not UTF-8 text. quarantine.jsonl"),
        (b"video\n" + b"x" * (2**24 + 9) + b"\n", "the row is longer than 16 MiB. quarantine.jso"),
        (b"video,question,answer\na.mp4,What?\n", "the row has # columns, the header #. quarant"),
    ],
)
def test_what_is_said_of_many_rows_keeps_its_limits(tmp_path, data, said):
    """Only the numbers of a row itself are left out, where rows are counted by their reasons."""
    source = {"name": "rows", "reader": "plain", "annotations": "rows.csv", "videos": "v"}
    write(tmp_path, [source])
    (tmp_path / "rows.csv").write_bytes(data)
    with pytest.raises(UserError) as caught:
        build("clinvideo_suite", tmp_path, tmp_path / "data", quiet=True)
    assert said in str(caught.value)


def test_files_that_annotations_name_stay_inside(tmp_path):
    manual = tmp_path / "manual"
    source = {"name": "gqa", "reader": "nextgqa", "annotations": "val.csv", "videos": "v"}
    header = "video_id,question,answer,qid,a0,a1,a2,a3,a4"
    outside = tmp_path / "spans.json"
    outside.write_text('{"a": {"location": {"1": [[1, 2]]}}}')
    for options in ({"spans_file": "../spans.json"}, {"video_map": str(outside)}):
        write(manual, [source | {"options": options}])
        (manual / "val.csv").write_text(f"{header}\na,why,b,1,a,b,c,d,e\n")
        with pytest.raises(UserError, match="not one example|must be a path below"):
            build("clinvideo_suite", manual, tmp_path / "data", quiet=True)
    (manual / "gsub_val.json").symlink_to(outside)
    write(manual, [source])
    with pytest.raises(UserError, match="leads out of the folder"):
        build("clinvideo_suite", manual, tmp_path / "data", quiet=True)
    assert [line["place"] for line in listed(manual)] == ["gsub_val.json"]


def test_a_damaged_description_of_a_built_suite_is_one_line(tmp_path):
    manual, data = tmp_path / "manual", tmp_path / "data"
    source = {"name": "rows", "reader": "plain", "annotations": "rows.csv", "videos": "v"}
    write(manual, [source])
    (manual / "rows.csv").write_text("video,question,answer\na.mp4,What?,It.\n")
    build("clinvideo_frames", manual, data, quiet=True)
    (info,) = data.rglob("dataset_info.json")
    for text in ("", "[]", '{"a":', "{}"):
        info.write_text(text)
        for overwrite in (False, True):
            with pytest.raises(UserError, match="1.0.0 is damaged or edited .*delete that folder"):
                build("clinvideo_frames", manual, data, quiet=True, overwrite=overwrite)
    shutil.rmtree(info.parent)
    build("clinvideo_frames", manual, data, quiet=True)
    assert len(ClinvideoReader(data).outlines("train")) == 1


def test_a_defect_is_not_blamed_on_a_folder_that_is_not_there(tmp_path, monkeypatch):
    def broken(builder):
        raise ModuleNotFoundError("No module named 'x'")

    monkeypatch.setattr(ClinvideoFrames, "_info", broken)
    with pytest.raises(ModuleNotFoundError):
        ClinvideoFrames(data_dir=tmp_path)
    (tmp_path / "clinvideo_frames" / "1.0.0").mkdir(parents=True)
    (tmp_path / "clinvideo_frames" / "1.0.0" / "dataset_info.json").write_text("{}")
    with pytest.raises(UserError, match="1.0.0 is damaged or edited"):
        ClinvideoFrames(data_dir=tmp_path)


def indented(page: str, before: str) -> str:
    """The block of indented lines that follows a line of the page."""
    lines = iter(page.splitlines())
    for line in lines:
        if before in line:
            break
    block = itertools.dropwhile(lambda line: not line.startswith("    "), lines)
    return "\n".join(line[4:] for line in itertools.takewhile(bool, block)) + "\n"


def test_the_least_suite_of_the_manual_trains(tmp_path):
    """docs/data.md's own rows.csv and suite.json, word for word, are enough for the CPU config."""
    page = (ROOT / "docs" / "data.md").read_text()
    manual, data = tmp_path / "manual", tmp_path / "data"
    (manual / "videos").mkdir(parents=True)
    (manual / "rows.csv").write_text(indented(page, "This `rows.csv` has one of each"))
    (manual / "suite.json").write_text(indented(page, "beside this `suite.json`"))
    for number, name in enumerate(("one", "two")):
        cases.write_video(manual / "videos" / f"{name}.mp4", 8, seed=number)
    build("clinvideo_suite", manual, data, quiet=True)
    assert listed(manual) == []
    config = load_config(str(ROOT / "tpu_configs" / "cpu.py:smoke"), [f"suite.data_dir={data}"])
    mesh = make_mesh({}, jax.devices()[:1])
    check_config(config, mesh, open_suite(config, tmp_path))


def test_all_that_a_run_lacks_is_told_at_once(tmp_path):
    manual, data = tmp_path / "manual", tmp_path / "data"
    source = {"name": "rows", "reader": "plain", "annotations": "rows.csv", "videos": "v"}
    write(manual, [source], ("v/a.mp4",))
    (manual / "rows.csv").write_text("video,question,answer,spans\na.mp4,When?,,1-2\n")
    build("clinvideo_suite", manual, data, quiet=True)
    config = load_config(str(ROOT / "tpu_configs" / "cpu.py"), [f"suite.data_dir={data}"])
    with pytest.raises(UserError) as error:
        ClinvideoReader(data).check(config.video, needed_parts(STAGES))
    for lacking in ("cap or qa, split train", "vcot or cot, split train", "eval, split test"):
        assert lacking in str(error.value)
    assert "part rl" not in str(error.value)
