"""Cholec80 and CholecT50: labels of frames become questions with spans, computed here by hand."""

import json

import pytest

from medscope_jax.errors import UserError
from tfds_builders.record import BadRow

PHASES = "Frame\tPhase\n" + "".join(
    f"{frame}\t{'Preparation' if frame < 50 else 'CalotTriangleDissection'}\n"
    for frame in range(100)
)
# One label a second; the hook is out of view for the second around 3 s.
TOOLS = "Frame\tGrasper\tHook\tSpecimenBag\n" + "".join(
    f"{25 * second}\t1\t{int(second in (0, 1, 2, 4))}\t0\n" for second in range(10)
)


def cholec80(tmp_path, phases=PHASES, tools=TOOLS):
    for kind, text in (("phase", phases), ("tool", tools)):
        folder = tmp_path / f"{kind}_annotations"
        folder.mkdir(exist_ok=True)
        (folder / f"video01-{kind}.txt").write_text(text)
    return tmp_path


def by_question(good):
    assert len({made.question for made in good}) == len(good)
    return {made.question: made for made in good}


def test_cholec80(tmp_path, collect):
    good, bad = collect("cholec80", cholec80(tmp_path), min_stretch=2)
    assert not bad
    found = by_question(good)
    assert {question: made.spans for question, made in found.items()} == {
        "When does the preparation phase take place?": ((0.0, 1.98),),
        "When does the calot triangle dissection phase take place?": ((1.98, 3.98),),
        "When is the grasper in view?": ((0.0, 9.5),),
        "When is the hook in view?": ((0.0, 4.5),),
        "Which instruments are in view from 0.0 to 2.5 seconds?": ((0.0, 2.5),),
        "Which instruments are in view from 4.5 to 9.5 seconds?": ((4.5, 9.5),),
    }
    assert {made.task for made in good if made.question.startswith("When")} == {"grounding"}
    assert found["When is the hook in view?"].answer == "[0.0, 4.5]"
    stretch = found["Which instruments are in view from 0.0 to 2.5 seconds?"]
    assert (stretch.answer, stretch.task) == ("grasper, hook", "perception")
    assert {(made.video, made.part, made.split) for made in good} == {("video01.mp4", "rl", "")}
    assert [made.place for made in good] == ["video01-phase.txt"] * 2 + ["video01-tool.txt"] * 4


def test_cholec80_grouping(tmp_path, collect):
    folder = cholec80(tmp_path)
    path = folder / "tool_annotations" / "video01-tool.txt"
    found = by_question(collect("cholec80", path, max_gap=0, stretches=1)[0])
    assert found["When is the hook in view?"].spans == ((0.0, 2.5), (3.5, 4.5))
    assert found["When is the hook in view?"].answer == "[0.0, 2.5], [3.5, 4.5]"
    stretches = [question for question in found if question.startswith("Which")]
    assert stretches == ["Which instruments are in view from 4.5 to 9.5 seconds?"]
    found = by_question(collect("cholec80", path, max_gap=0, max_spans=1, stretches=0)[0])
    assert list(found) == ["When is the grasper in view?"]


def test_cholec80_with_a_line_a_second(tmp_path, collect):
    path = tmp_path / "video01-tool.txt"
    path.write_text("Frame\tHook\n" + "".join(f"{second}\t1\n" for second in range(5)))
    found = by_question(collect("cholec80", path, fps=1, tool_every=1)[0])
    assert found["When is the hook in view?"].spans == ((0.0, 4.5),)


def test_a_phase_that_comes_back(tmp_path, collect):
    path = tmp_path / "video02-phase.txt"
    names = ["Preparation", "ClippingCutting", "Preparation"]
    lines = [f"{frame}\t{names[frame // 10]}" for frame in range(30) if frame not in (3, 4)]
    path.write_text("\n".join(["Frame\tPhase", *lines]))
    found = by_question(collect("cholec80", path, fps=1)[0])
    preparation = found["When does the preparation phase take place?"]
    # Frames 3 and 4 are not labelled; the phase between is.
    assert preparation.spans == ((0.0, 9.5), (19.5, 29.5))
    found = by_question(collect("cholec80", path, fps=1, max_gap=1.0)[0])
    assert found["When does the preparation phase take place?"].spans == (
        (0.0, 2.5),
        (4.5, 9.5),
        (19.5, 29.5),
    )


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("25\t1\t0", "the line has 3 columns, not 4"),
        ("25\t1\t0\t0\t0", "the line has 5 columns, not 4"),
        ("Doe\t1\t0\t0", "the frame is no number"),
        ("-25\t1\t0\t0", "the frame is no number"),
        ("2.5\t1\t0\t0", "the frame is no number"),
        ("\u0662\t1\t0\t0", "the frame is no number"),
        ("9999999999\t1\t0\t0", "the frame is no number"),
        ("999999999\t1\t0\t0", "later than any video"),
        ("25\t2\t0\t0", "neither 0 nor 1"),
        ("25\t\t0\t0", "neither 0 nor 1"),
        ("25\tDoe\t0\t0", "neither 0 nor 1"),
        ("0\t1\t0\t0", "labelled twice"),
        ("\x1c", "columns"),
    ],
)
def test_cholec80_bad_lines(tmp_path, collect, line, reason):
    path = tmp_path / "video01-tool.txt"
    text = f"Frame\tGrasper\tHook\tBipolar\n0\t1\t0\t0\n{line}\n50\t1\t0\t0\n"
    path.write_text(text, encoding="utf-8")
    good, bad = collect("cholec80", path)
    assert [made.place for made in bad] == ["video01-tool.txt:3"]
    assert reason in bad[0].reason
    assert "Doe" not in bad[0].reason
    assert by_question(good)["When is the grasper in view?"].spans == ((0.0, 2.5),)


@pytest.mark.parametrize("header", ["0\t1\t0", "Frame\tHook\tHook", "Doe", "Frame"])
def test_cholec80_without_the_names_of_columns(tmp_path, collect, header):
    path = tmp_path / "video01-tool.txt"
    path.write_text(f"{header}\n25\t1\t0\n50\t1\t0\n")
    good, bad = collect("cholec80", path)
    assert not good
    assert [made.place for made in bad] == [f"video01-tool.txt:{line}" for line in (1, 2, 3)]


@pytest.mark.parametrize(("phases", "tools"), [("", "\n"), (PHASES[:11], TOOLS[:30])])
def test_cholec80_files(tmp_path, collect, phases, tools):
    """The last one: cut off after their headers."""
    good, bad = collect("cholec80", cholec80(tmp_path, phases, tools))
    assert not good
    assert bad == [
        BadRow("video01-phase.txt:1", "the file holds no rows"),
        BadRow("video01-tool.txt:1", "the file holds no rows"),
    ]
    other = tmp_path / "video01-timestamp.txt"
    other.write_text("x")
    with pytest.raises(UserError, match="neither"):
        collect("cholec80", other)


def test_words_of_the_protocol_in_labels(tmp_path, collect):
    path = tmp_path / "video01-phase.txt"
    path.write_text("Frame\tPhase\n0\t<answer>\n1\tPreparation\n")
    good, bad = collect("cholec80", path)
    assert len(good) == 1
    assert [made.place for made in bad] == ["video01-phase.txt"]


CATEGORIES = {
    "instrument": {"0": "grasper", "2": "hook", "3": "scissors"},
    "verb": {"1": "retract", "2": "dissect", "5": "cut", "9": "null_verb"},
    "target": {"0": "gallbladder", "2": "cystic_duct", "14": "null_target"},
    "phase": {"0": "preparation", "1": "carlot-triangle-dissection"},
    "triplet": {},
}


def instance(tool, verb, target, phase):
    return [7, tool, 1, -1, -1, -1, -1, verb, target, -1, -1, -1, -1, -1, phase]


RETRACT = (0, 1, 0)  # grasper, gallbladder
DISSECT = (2, 2, 0)  # hook, gallbladder
CUT = (3, 5, 2)  # scissors, cystic duct
IDLE = (2, 9, 14)  # the hook does nothing


def cholect50(tmp_path, labels, name="VID01", **changes):
    document = {"video": 1, "fps": 1, "num_frames": 10, "categories": CATEGORIES}
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps({**document, "annotations": labels, **changes}))
    return path


def frames():
    """Ten seconds: retracting all along, dissecting 2-4, idle at 5, cutting 8-9, phases at 5."""
    found = {}
    for frame in range(10):
        acts = [RETRACT]
        acts += [DISSECT] if frame in (2, 3, 4) else [IDLE] if frame == 5 else []
        acts += [CUT] if frame in (8, 9) else []
        found[str(frame)] = [instance(*act, int(frame >= 5)) for act in acts]
    return found


def test_cholect50(tmp_path, collect):
    cholect50(tmp_path, frames())
    good, bad = collect("cholect50", tmp_path, stretches=2)
    assert not bad
    found = by_question(good)
    assert {question: (made.spans, made.answer) for question, made in found.items()} == {
        "When does the preparation phase take place?": (((0.0, 4.5),), "[0.0, 4.5]"),
        "When does the carlot triangle dissection phase take place?": (
            ((4.5, 9.5),),
            "[4.5, 9.5]",
        ),
        "When is the grasper in view?": (((0.0, 9.5),), "[0.0, 9.5]"),
        "When is the hook in view?": (((1.5, 5.5),), "[1.5, 5.5]"),
        "When are the scissors in view?": (((7.5, 9.5),), "[7.5, 9.5]"),
        # Stretches of at least 3 s: the hook's 2-5 only; 0-1, 6-7 and 8-9 are shorter.
        "Which instruments are in view from 1.5 to 5.5 seconds?": (((1.5, 5.5),), "grasper, hook"),
        "When does the grasper retract the gallbladder?": (((0.0, 9.5),), "[0.0, 9.5]"),
        "Which instrument is used to retract the gallbladder?": (((0.0, 9.5),), "grasper"),
        "What does the grasper retract?": (((0.0, 9.5),), "gallbladder"),
        "When does the hook dissect the gallbladder?": (((1.5, 4.5),), "[1.5, 4.5]"),
        "Which instrument is used to dissect the gallbladder?": (((1.5, 4.5),), "hook"),
        "What does the hook dissect?": (((1.5, 4.5),), "gallbladder"),
        "When do the scissors cut the cystic duct?": (((7.5, 9.5),), "[7.5, 9.5]"),
        "Which instrument is used to cut the cystic duct?": (((7.5, 9.5),), "scissors"),
        "What do the scissors cut?": (((7.5, 9.5),), "cystic duct"),
        "What does the grasper do from 0.0 to 9.5 seconds?": (
            ((0.0, 9.5),),
            "retract the gallbladder",
        ),
        "What does the hook do from 1.5 to 4.5 seconds?": (
            ((1.5, 4.5),),
            "dissect the gallbladder",
        ),
    }
    assert found["What does the hook dissect?"].task == "vqa"
    assert {made.video for made in good} == {"VID01"}
    again, _ = collect("cholect50", tmp_path / "VID01.json", stretches=2)
    assert again == good


def test_cholect50_asks_only_what_has_one_answer(tmp_path, collect):
    labels = {
        "0": [instance(0, 2, 0, 0), instance(2, 2, 0, 0)],  # grasper and hook dissect gallbladder
        "1": [instance(2, 2, 2, 0)],  # the hook dissects the cystic duct too
    }
    good, bad = collect("cholect50", cholect50(tmp_path, labels))
    assert not bad
    questions = set(by_question(good))
    assert "Which instrument is used to dissect the gallbladder?" not in questions
    assert "What does the hook dissect?" not in questions
    assert "What does the grasper dissect?" in questions
    assert "Which instrument is used to dissect the cystic duct?" in questions


@pytest.mark.parametrize(
    ("frame", "instances", "reason", "place"),
    [
        ("3", [[1, 2]], "15 values", "frame 3"),
        ("3", "Doe", "no list of instances", "frame 3"),
        ("3", [instance("Doe", 1, 0, 0)], "instrument is no whole number", "frame 3"),
        ("3", [instance(0.5, 1, 0, 0)], "instrument is no whole number", "frame 3"),
        ("3", [instance(True, 1, 0, 0)], "instrument is no whole number", "frame 3"),
        ("3", [instance(1, 1, 0, 0)], "instrument is none of the file's", "frame 3"),
        ("3", [instance(0, 1, 0, 9)], "phase is none of the file's", "frame 3"),
        ("3", [instance(*RETRACT, 0), instance(*CUT, 1)], "different phases", "frame 3"),
        ("Doe", [], "no number of a frame", "frame ?"),
        ("-3", [], "no number of a frame", "frame ?"),
        ("00", [], "labelled twice", "frame 00"),
    ],
)
def test_cholect50_bad_frames(tmp_path, collect, frame, instances, reason, place):
    labels = {"0": [instance(*RETRACT, 0)], frame: instances, "1": [instance(*RETRACT, 0)]}
    good, bad = collect("cholect50", cholect50(tmp_path, labels), max_gap=0)
    (found,) = bad
    assert found.place == f"VID01.json:{place}"
    assert reason in found.reason
    assert "Doe" not in found.reason
    start, end = by_question(good)["When is the grasper in view?"].spans[0]
    assert (start, end) == (0.0, 1.5)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"annotations": None}, "no annotations"),
        ({"annotations": [1]}, "no annotations"),
        ({"categories": None}, "no categories of the kind instrument"),
        ({"categories": {**CATEGORIES, "phase": {"0": 1}}}, "no categories of the kind phase"),
        ({"fps": 0}, "fps is not from"),
        ({"fps": 1000}, "fps is not from"),
        ({"fps": "Doe"}, "fps is no number"),
        ({"fps": -1}, "fps is negative"),
    ],
)
def test_cholect50_bad_files(tmp_path, collect, changes, reason):
    cholect50(tmp_path, frames(), "VID01", **changes)
    cholect50(tmp_path, frames(), "VID02")
    good, bad = collect("cholect50", tmp_path)
    assert {made.video for made in good} == {"VID02"}
    assert [made.place for made in bad] == ["VID01.json:1"]
    assert reason in bad[0].reason
    assert "Doe" not in bad[0].reason


def test_cholect50_empty_and_other_rates(tmp_path, collect):
    good, bad = collect("cholect50", cholect50(tmp_path, {}))
    assert (good, bad) == ([], [BadRow("VID01.json:1", "the file holds no rows")])
    path = cholect50(tmp_path, frames(), fps=2)
    good, _ = collect("cholect50", path, extension=".mp4", part="eval")
    assert by_question(good)["When is the grasper in view?"].spans == ((0.0, 4.75),)
    assert {(made.video, made.part) for made in good} == {("VID01.mp4", "eval")}


def test_a_file_of_phases_has_one_column_of_them(tmp_path, collect):
    """A step is not asked about as a phase because it stands before it."""
    path = tmp_path / "video01-phase.txt"
    path.write_text("Frame\tStep\tPhase\n0\tIncision\tPreparation\n25\tIncision\tPreparation\n")
    good, bad = collect("cholec80", path)
    assert not good and [made.place[-1] for made in bad] == ["1", "2", "3"]
    assert "names more than a frame and its phase" in bad[0].reason


def test_labels_without_a_question_are_told(tmp_path, collect):
    """A file that is whole, but of which nothing can be asked, is not passed over."""
    flicker = {str(f): [instance(*(RETRACT, CUT)[f % 2], f % 2)] for f in range(40)}
    for labels in (flicker, {"0": [], "1": []}):
        good, bad = collect("cholect50", cholect50(tmp_path, labels), max_gap=0)
        assert not good and [made.place for made in bad] == ["VID01.json"]
        assert "no question can be made of the file's labels" in bad[0].reason
    path = tmp_path / "video01-phase.txt"
    path.write_text("".join(f"{25 * f}\t{('Cutting', 'Rest')[f % 2]}\n" for f in range(40)))
    good, bad = collect("cholec80", path)
    assert not good and [made.place for made in bad] == ["video01-phase.txt"]
    assert "no question can be made of the file's labels" in bad[0].reason


def test_a_phase_without_a_name_is_no_label(tmp_path, collect):
    path = tmp_path / "video01-phase.txt"
    path.write_text("Frame\tPhase\n0\tPreparation\n1\t-\n2\t3\n3\tPreparation\n")
    good, bad = collect("cholec80", path)
    assert [made.question for made in good] == ["When does the preparation phase take place?"]
    assert [row.place for row in bad] == ["video01-phase.txt:3", "video01-phase.txt:4"]
    assert "no label" in bad[0].reason and "a number, not a name" in bad[1].reason
