"""Tables and lists as other programs write them: line ends, encodings, delimiters, headers."""

import json

import pytest

from tests.tfds_builders.readers.test_readers_fuzz import NAMES, SAMPLES, VALID
from tfds_builders.readers import read_source, source_names
from tfds_builders.readers._files import json_rows
from tfds_builders.record import Annotation

TABLE = "video,question,answer,spans\na.mp4,What is cut?,the duct,\nb.mp4,When?,,2.0-9.5\n"
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le-mark", "utf-16-be-mark"]


def encoded(text, encoding):
    if encoding.endswith("-mark"):
        return ("\ufeff" + text).encode(encoding.removesuffix("-mark"))
    return text.encode(encoding)


def samples(reader):
    """(name, text with line feeds) of a file that the reader reads."""
    if reader in SAMPLES:
        yield NAMES[reader], SAMPLES[reader].decode()
        return
    rows = [VALID[reader], VALID[reader] | {"question": "Why \u00e9?", "caption": "Ein Stich."}]
    yield "rows.jsonl", "\n".join(map(json.dumps, rows)) + "\n"
    yield "rows.json", json.dumps(rows, indent=1, ensure_ascii=False)
    if reader == "plain":
        yield "rows.csv", TABLE
        yield "rows.tsv", TABLE.replace(",", "\t")


@pytest.mark.parametrize("reader", source_names())
def test_line_ends_and_encodings(tmp_path, reader):
    (tmp_path / "gsub_val.json").write_text('{"10": {"location": {"1": [[1, 2]]}}}')
    for name, text in samples(reader):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8", newline="")
        expected = list(read_source(reader, path))
        assert any(isinstance(made, Annotation) for made in expected)
        for end in ("\n", "\r\n", "\r"):
            for encoding in ENCODINGS:
                path.write_bytes(encoded(text.replace("\n", end), encoding))
                assert list(read_source(reader, path)) == expected, (name, end, encoding)


def test_line_ends_of_the_public_formats(tmp_path, collect):
    """The three files of a report on Excel for Mac, made anew."""
    table = tmp_path / "plain.csv"
    table.write_bytes(b"video,question,answer\ra.mp4,What is cut?,the duct\rb.mp4,What?,a hook")
    assert len(collect("plain", table)[0]) == 2
    sentences = tmp_path / "charades_sta_test.txt"
    sentences.write_bytes(b"AO8RW 0.0 6.9##a person opens.\rAO8RX 1.0 5.5##a person sits.\r")
    good, bad = collect("charades", sentences)
    assert [made.place[-1] for made in good] == ["1", "2"] and not bad
    phases = tmp_path / "video01-phase.txt"
    labels = ["Preparation"] * 100 + ["CalotTriangleDissection"] * 100
    rows = ["Frame\tPhase", *(f"{i}\t{label}" for i, label in enumerate(labels))]
    phases.write_bytes("\r".join(rows).encode())
    good, bad = collect("cholec80", phases)
    assert [made.spans for made in good] == [((0.0, 3.98),), ((3.98, 7.98),)] and not bad


def test_places_in_a_list_with_carriage_returns(tmp_path):
    path = tmp_path / "rows.json"
    path.write_bytes(b'[{"a": 1},\r\r{"a": 2},\r\n{"a": 3}]\r')
    assert [place for place, _ in json_rows(path)] == [
        "1, element 1",
        "3, element 2",
        "4, element 3",
    ]


@pytest.mark.parametrize(
    "data",
    [
        "a,b\n".encode("utf-16") + b"\x00",  # half a character
        b"\xff\xfe\x00\xd8\x00\x00\n\x00",  # half a pair
        "video,question\nv.mp4,Why?\n".encode("utf-16-le"),  # without its mark
        b"\xef\xbb\xbfvideo,question,answer\nv.mp4,Wh\xffy?,It.\n",
    ],
)
def test_what_is_no_text(tmp_path, collect, data):
    path = tmp_path / "rows.csv"
    path.write_bytes(data)
    good, bad = collect("plain", path)
    assert not good
    assert bad


@pytest.mark.parametrize(
    "text",
    [
        TABLE,
        TABLE.replace(",", "\t"),
        TABLE.replace(",", ";"),
        "sep=;\n" + TABLE.replace(",", ";"),
        TABLE.replace(",", ";").replace("2.0-9.5", "2,0-9,5"),
        TABLE.replace(",", ";").replace("2.0-9.5", '"2,0 s - 00:09,500"'),
        TABLE.replace("video,question,answer,spans", "Video,QUESTION, Answer ,Spans"),
        TABLE + ",,,\n , ,,\n",
        "note," + TABLE.replace("\n", "\n,").removesuffix(","),
    ],
)
def test_dialects_of_tables(tmp_path, collect, text):
    path = tmp_path / "rows.csv"
    path.write_text(text)
    (cut, when), bad = collect("plain", path)
    assert not bad
    assert (cut.video, cut.question, cut.answer, cut.task) == (
        "a.mp4",
        "What is cut?",
        "the duct",
        "vqa",
    )
    # Spans without an answer: they are what is asked for.
    assert (when.task, when.answer, when.spans) == ("grounding", "[2.0, 9.5]", ((2.0, 9.5),))


def test_columns_with_blanks_in_their_names(tmp_path, collect):
    path = tmp_path / "rows.csv"
    path.write_text('Video;Question;Answer;Frame Time\nv.mp4;Why;"One, two";4,5\n')
    (made,), bad = collect("plain", path)
    assert not bad
    assert (made.frame_time, made.answer) == (4.5, "One, two")


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("video,question,awnser", "nobody knows, 'awnser' (did you mean 'answer'?)"),
        ("video,question,answer,bleeding", "nobody knows, 'bleeding'; known are id, video,"),
        ("video,question,answer,frame-tim", "(did you mean 'frame_time'?)"),
        ("vidoe,question,answer", "lacks the column video, but has 'vidoe'"),
        (
            "Mustermann.mp4,What is cut?,It.",
            "lacks the column video; the first line names",
        ),
        (",video,question,answer", "a column without a name"),
        ("video;question;answer;Mustermann 12:30:00 left", "a field that nobody knows; known are"),
    ],
)
def test_unknown_columns_are_named(tmp_path, collect, header, words):
    path = tmp_path / "rows.csv"
    path.write_text(f"{header}\nv.mp4,What?,It.\n")
    good, bad = collect("plain", path)
    assert not good
    assert words in bad[0].reason
    assert "mustermann" not in bad[0].reason


def test_an_unknown_field_is_named(write_rows, collect):
    row = {"video": "v.mp4", "question": "What?", "answer": "It."}
    rows = [row | {"frametime": 1}, row | {"Doe, Jane (1950)": 1}, row | {"Answer ": "That."}]
    good, bad = collect("plain", write_rows("rows.jsonl", rows))
    assert not good
    assert "nobody knows, 'frametime' (did you mean 'frame_time'?)" in bad[0].reason
    assert "Doe" not in bad[1].reason
    assert bad[2].reason == "answer is there twice"
