"""Who a patient is stays in the file: planted in all sorts of tags and in its name, and sought."""

import contextlib
import logging
import os
import pickle
import signal
import tempfile
import traceback
import warnings
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    MPEG2MPML,
    DeflatedExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
)

from medscope_jax.video import VideoError, read_video
from medscope_jax.video.decode import iter_frames
from medscope_jax.video.dicom_header import open_header
from medscope_jax.video.dicom_tags import FRAME_GROUPS
from tests.video.dicom_cases import SECRETS, plant_everywhere, replace_bytes

SIZE = (64, 144)
NAME = "Doe^Planted_19480229"


def secrets_in(text: str) -> list[str]:
    return [secret for secret in SECRETS if secret in text]


@pytest.fixture
def planted(write_dicom):
    """(frames, name, **) -> path of a DICOM file with identifiers in many tags and in its name."""

    def write(frames, name, change=lambda data: None, **options):
        def plant(data):
            plant_everywhere(data)
            change(data)

        with pydicom.config.disable_value_validation():
            return write_dicom(frames, f"{NAME}_{name}.dcm", change=plant, **options)

    return write


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The folder in which temporary files are made."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def silence(capfd, caplog):
    """Asserts that nothing was printed or logged, at any level."""
    caplog.set_level(logging.DEBUG)
    yield
    output = capfd.readouterr()
    assert (output.out, output.err, caplog.text) == ("", "", "")


def plant_groups(data):
    """Functional groups with windows, and identifiers at every level around them."""
    groups = []
    for index in range(data.NumberOfFrames):
        window, content, group, other = Dataset(), Dataset(), Dataset(), Dataset()
        window.WindowCenter, window.WindowWidth = "2000", str(4000 + index)
        window.WindowCenterWidthExplanation = "planted window of Doe"
        content.FrameComments = "planted frame of Doe"
        content.FrameReferenceDateTime = "19480229"
        other.PatientID = "PLANTED-4711"
        content.OtherPatientIDsSequence = Sequence([other])
        group.FrameVOILUTSequence, group.FrameContentSequence = [window], [content]
        group.PatientName = "Doe^Planted"
        groups.append(group)
    data.PerFrameFunctionalGroupsSequence = Sequence(groups)
    data.SharedFunctionalGroupsSequence = Sequence([groups[0]])


def test_only_wanted_tags_are_held(planted, numbered):
    path = planted(numbered(6)[..., 0].astype(np.uint16), "groups", change=plant_groups)
    with open(path, "rb") as file, contextlib.ExitStack() as cleanup:
        elements = open_header(file, path, cleanup).elements
    assert len(elements.items[FRAME_GROUPS]) == 6
    assert not secrets_in(repr(elements)) and "4005" in repr(elements)


def test_a_video_says_nothing_about_its_patient(planted, numbered, silence):
    frames = numbered(12)
    encoded = [cv2.imencode(".jpg", frame)[1].tobytes() for frame in frames]
    deep = (frames[..., 0].astype(np.uint16) << 4, {"BitsStored": 12, "HighBit": 11})
    window = {"WindowCenter": "2000", "WindowWidth": "4000", "RescaleSlope": "1"}
    for path in (
        planted(frames, "rgb", BurnedInAnnotation="YES"),
        planted(deep[0], "grey", **deep[1]),
        planted(deep[0], "window", RescaleIntercept="0", **window, **deep[1]),
        planted(deep[0], "groups", change=plant_groups, **deep[1]),
        planted(frames, "deflated", syntax=DeflatedExplicitVRLittleEndian),
        planted(frames, "implicit", syntax=ImplicitVRLittleEndian),
        planted(
            frames,
            "jpeg",
            syntax=JPEGBaseline8Bit,
            encoded=encoded,
            PhotometricInterpretation="YBR_FULL_422",
        ),
    ):
        assert secrets_in(path) and secrets_in(Path(path).read_bytes().decode("latin-1"))
        video = read_video(path, fps=25.0, size=(40, 40), max_frames=5)
        assert len(video.times) == 5 and len(video.notes) >= 2, path
        assert not secrets_in(repr(video) + "".join(video.notes))


def _refused(planted, frames):
    """Paths of planted files that cannot be used, each for another reason."""
    yield planted(frames[:1], "one")
    yield planted(frames, "timeless", FrameTime=None)
    yield planted(frames, "liar", NumberOfFrames=99)
    yield planted(frames, "colour", PhotometricInterpretation="PLANTED")
    yield planted(frames, "flat", Columns=0)
    yield planted(frames, "deep", BitsAllocated=24)
    yield replace_bytes(planted(frames, "time", FrameTime="12345678"), b"12345678", b"Doe^Plan")
    grey = frames[..., 0]
    for tag in ("WindowCenter", "RescaleSlope"):
        options = {"WindowWidth": "8", "RescaleIntercept": "0", tag: "12345678"}
        yield replace_bytes(planted(grey, tag, **options), b"12345678", b"Doe^Plan")
    yield replace_bytes(
        planted(frames, "syntax"), b"1.2.840.10008.1.2.1\0", b"Doe^Planted^Syntax\0\0"
    )
    for share in (0.02, 0.2, 0.6):
        path = Path(planted(frames, f"cut{share}"))
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
        yield str(path)


def test_no_error_quotes_a_header(planted, numbered, silence):
    for path in _refused(planted, numbered(6)):
        with pytest.raises(VideoError) as caught:
            read_video(path, fps=25.0, size=SIZE)
        error = caught.value
        # Whoever named the file sees which one it is; what may be logged does not say.
        assert str(error).startswith(f"{path}: {error.reason}") and error.path == path
        assert "\n" not in str(error) and not secrets_in(error.reason), error.reason
        shown = "".join(traceback.format_exception(error)).replace(path, "")
        assert not secrets_in(shown), shown


def test_reasons_name_no_file(tmp_path):
    """Nor do those about files that are no DICOM; and processes hand them on as they are."""
    made = {
        f"{NAME}.mp4": bytes(range(256)) * 8,
        f"{NAME}.txt": b"Doe^Planted was here\n" * 40,
        f"{NAME}.jpg": b"\xff\xd8\xff" + bytes(600),
        f"{NAME}.mov": b"\0\0\0\x10ftypqt  " + bytes(600),
        f"{NAME}.avi": b"",
    }
    for name, data in made.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / NAME).mkdir()
    for name in (*made, NAME, f"{NAME}_none.mp4"):
        path = str(tmp_path / name)
        with pytest.raises(VideoError) as caught:
            read_video(path, fps=1.0, size=SIZE)
        error = pickle.loads(pickle.dumps(caught.value))
        assert error.path == path and str(error) == str(caught.value)
        assert error.reason == caught.value.reason and not secrets_in(error.reason)


def test_what_is_inflated_has_no_name(planted, numbered, temporary, silence):
    """It holds the whole header: nobody can open it, and nothing is left of it."""
    path = planted(numbered(6), "deflated", syntax=DeflatedExplicitVRLittleEndian)
    for _ in iter_frames(path, 25.0, SIZE):
        assert not list(temporary.rglob("*"))


def test_only_the_stream_leaves_an_mpeg_dicom(
    planted, write_video, index_of, silence, tmp_path, temporary
):
    stream = Path(write_video(fps=5.0, count=30)).read_bytes()
    frames = np.zeros((30, *SIZE, 3), np.uint8)
    path = planted(frames, "mpeg", syntax=MPEG2MPML, encoded=[stream])
    looked = 0
    for _ in (frames := iter_frames(path, 1.0, SIZE)):
        # Nameless while it is read, so it is gone however the process ends.
        assert not list(temporary.rglob("*"))
        for file in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # another thread's, closed meanwhile
                if not os.readlink(file).startswith(str(temporary)):
                    continue
                content = file.read_bytes()
                looked += content.startswith(stream)  # padded to an even length
                assert not secrets_in(content.decode("latin-1"))
    assert looked
    assert not secrets_in(repr(frames.ending))
    # A consumer that stops early, or never starts, leaves nothing behind either.
    for _ in iter_frames(path, 1.0, SIZE):
        break
    iter_frames(path, 1.0, SIZE)
    assert not list(temporary.rglob("*"))


@pytest.mark.skipif(not hasattr(os, "fork") or not Path("/proc").exists(), reason="Linux")
def test_a_killed_read_leaves_nothing(planted, write_video, temporary, silence):
    stream = Path(write_video(fps=5.0, count=30)).read_bytes()
    frames = np.zeros((30, *SIZE, 3), np.uint8)
    for name, how in (
        ("mpeg", {"syntax": MPEG2MPML, "encoded": [stream]}),
        ("deflated", {"syntax": DeflatedExplicitVRLittleEndian}),
    ):
        path = planted(frames, name, **how)
        with warnings.catch_warnings(action="ignore"):  # the child runs nothing but this reader
            child = os.fork()
        if not child:
            try:
                for _ in iter_frames(path, 1.0, SIZE, threads=1):
                    os.kill(os.getpid(), signal.SIGKILL)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        assert not list(temporary.rglob("*"))
