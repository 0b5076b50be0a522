"""A folder of JPEG or PNG frames: order, times, and every way in which it can be wrong."""

import struct
import zlib

import cv2
import numpy as np
import pytest

from medscope_jax.video import VideoError, read_video

SIZE = (64, 144)


@pytest.fixture
def fill(tmp_path, numbered_frame):
    """(names, times) -> path of a folder whose k-th name shows frame number k."""

    def write(names, times=None):
        folder = tmp_path / "Doe^Planted"
        folder.mkdir(exist_ok=True)
        for index, name in enumerate(names):
            assert cv2.imwrite(str(folder / name), numbered_frame(index))
        if times is not None:
            rows = [f"{name},{time}" for name, time in zip(names, times, strict=True)]
            (folder / "times.csv").write_text("\n".join(["file,time", *rows]) + "\n")
        return folder

    return write


@pytest.fixture
def refused(capfd):
    """(folder, pattern) -> asserts one clear line that names no file in it, and silence."""

    def check(folder, pattern, **options):
        options = {"frame_rate": 5.0, **options}
        with pytest.raises(VideoError, match=pattern) as caught:
            read_video(folder, fps=5.0, size=SIZE, **options)
        assert str(caught.value).startswith(f"{folder}: {caught.value.reason}")
        assert "\n" not in str(caught.value) and "Doe" not in caught.value.reason
        output = capfd.readouterr()
        assert (output.out, output.err) == ("", "")

    return check


def test_natural_order_at_a_given_rate(fill, index_of):
    # As a plain sort would not have it: frame10 before frame2.
    folder = fill([f"frame{i}.{('png', 'jpg', 'JPEG')[i % 3]}" for i in range(25)])
    (folder / ".frame3.png").write_bytes(b"hidden")
    (folder / "notes.txt").write_text("no frame")
    (folder / "more").mkdir()
    video = read_video(folder, fps=5.0, size=SIZE, frame_rate=5.0)
    np.testing.assert_array_equal(index_of(video.frames), np.arange(25))
    np.testing.assert_allclose(video.times, np.arange(25) / 5)
    assert video.duration == pytest.approx(5.0)
    assert (video.native_frames, video.notes) == (25, ())

    video = read_video(folder, fps=1.0, size=SIZE, frame_rate=5.0, max_frames=2)
    np.testing.assert_array_equal(index_of(video.frames), [0, 20])
    assert "thinned" in video.notes[0]


@pytest.mark.parametrize(
    "names",
    [
        ["1.jpg", "2.jpg", "3.jpg"],
        ["000025.png", "000050.png", "000075.png"],  # every 25th frame of a film
        ["v2_9.jpg", "v2_10.jpg", "v2_11.jpg"],
        ["a.jpg", "b.jpg", "c1.jpg"],
        ["t0033.jpg", "t0067.jpg", "t0100.jpg"],  # time stamps, not counts
    ],
)
def test_names_that_count(fill, index_of, names):
    video = read_video(fill(names), fps=4.0, size=SIZE, frame_rate=4.0)
    np.testing.assert_array_equal(index_of(video.frames), np.arange(len(names)))
    np.testing.assert_allclose(video.times, np.arange(len(names)) / 4)


def test_times_of_its_own(fill, index_of):
    """Times decide the order, whatever the names and the caller's rate say; they start at 0."""
    times = [2.5, 0.5, 1.0, 4.0]
    folder = fill(["a.jpg", "b.png", "c.jpg", "d.jpg"], times)
    video = read_video(folder, fps=2.0, size=SIZE, frame_rate=99.0)
    np.testing.assert_array_equal(index_of(video.frames), [1, 2, 0, 3])
    np.testing.assert_allclose(video.times, [0.0, 0.5, 2.0, 3.5])
    assert video.duration == pytest.approx(3.5 + 1.5)  # the usual interval behind the last
    assert video.notes == ("times.csv starts at 0.5 s; times are counted from there",)


def test_a_missing_number_never_shifts_times(fill, refused, index_of):
    folder = fill([f"f{i:03d}.jpg" for i in range(10)])
    (folder / "f004.jpg").unlink()
    refused(folder, "10 frames promised .* 9 there")
    video = read_video(folder, fps=5.0, size=SIZE, frame_rate=5.0, partial=True)
    shown = index_of(video.frames)
    np.testing.assert_array_equal(shown, [0, 1, 2, 3, 5, 6, 7, 8, 9])
    np.testing.assert_allclose(video.times, shown / 5)
    assert "10 frames promised" in video.notes[0]


def test_grey_deep_and_transparent_pictures(fill):
    folder = fill(["0.png"])
    ramp = np.tile(np.arange(256, dtype=np.uint8), (64, 1))
    cv2.imwrite(str(folder / "0.png"), ramp)
    cv2.imwrite(str(folder / "1.png"), ramp.astype(np.uint16) << 8)
    cv2.imwrite(str(folder / "2.png"), np.dstack([ramp, ramp, ramp, np.full_like(ramp, 255)]))
    cv2.imwrite(str(folder / "3.png"), np.dstack([ramp.astype(np.uint16) << 8] * 3))
    video = read_video(folder, fps=1.0, size=(64, 256), frame_rate=1.0)
    for frame in video.frames:
        np.testing.assert_array_equal(frame, np.repeat(ramp[..., None], 3, axis=-1))


def test_pictures_are_shown_upright(fill):
    """EXIF's orientation is obeyed, as a viewer does."""
    folder = fill(["0.jpg"])
    picture = np.full((64, 64, 3), 20, np.uint8)
    picture[:32] = 235  # white on top
    data = cv2.imencode(".jpg", picture)[1].tobytes()
    tiff = b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0)  # turn right
    exif = b"Exif\0\0" + tiff
    marker = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    (folder / "0.jpg").write_bytes(data[:2] + marker + data[2:])
    frame = read_video(folder, fps=1.0, size=(64, 64), frame_rate=1.0).frames[0]
    assert frame[:, :24].mean() < 40 and frame[:, 40:].mean() > 215


def test_no_frames_or_foreign_ones(fill, refused, tmp_path):
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "a directory without JPEG or PNG frames")
    folder = fill(["1.jpg", "2.jpg"])
    (folder / "3.tif").write_bytes(b"II*\0")
    refused(folder, "1 pictures that are neither JPEG nor PNG beside 2")


def test_no_times(fill, refused):
    pattern = "without times .put a times.csv .* give its frame rate with frame_rate=RATE"
    refused(fill(["1.jpg", "2.jpg"]), pattern, frame_rate=None)


def test_an_open_order(fill, refused):
    for names in (["1.jpg", "01.jpg"], ["1.jpg", "1.png"], ["A.jpg", "a.png"]):
        folder = fill(names)
        refused(folder, "same name or number")
        for name in names:
            (folder / name).unlink()
    folder = fill(["1.jpg", "01.jpg"], [0.0, 1.0])
    assert read_video(folder, fps=1.0, size=SIZE).native_frames == 2


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("", "must have the columns file,time"),
        ("name,seconds\n1.jpg,0\n", "must have the columns file,time"),
        ("file,time\n1.jpg,0\n2.jpg,soon\n", "line 3: the time is no number"),
        ("file,time\n1.jpg,0\n2.jpg,nan\n", "line 3: the time is no number"),
        ("file,time\n1.jpg,0\n2.jpg\n", "line 3: the time is no number"),
        ("file,time\n1.jpg,0\n1.jpg,1\n", "line 3: a frame that was named before"),
        ("file,time\n1.jpg,0\n", "no time for frames in the folder: 1 of"),
        ("file,time\n1.jpg,0\n2.jpg,1\n3.jpg,2\n", "line 4: a frame that is not in the folder"),
        ("file,time\n1.jpg,1\n2.jpg,1\n", "two frames the same time"),
        ("file,time\n1.jpg,\xff", "cannot be read"),
    ],
)
def test_bad_times(fill, refused, text, pattern):
    folder = fill(["1.jpg", "2.jpg"])
    (folder / "times.csv").write_bytes(text.encode("latin-1"))
    refused(folder, pattern)


@pytest.mark.parametrize("name", ["3.jpg", "3.png"])
def test_broken_pictures(fill, refused, index_of, name):
    folder = fill(["1.jpg", "2.jpg", name, "4.jpg"])
    whole = (folder / name).read_bytes()
    for data in (b"", b"no picture", whole[: len(whole) * 2 // 3], whole[:40]):
        (folder / name).write_bytes(data)
        refused(folder, "picture 3 of 4 is cut short or no picture")
        video = read_video(folder, fps=5.0, size=SIZE, frame_rate=5.0, partial=True)
        shown = index_of(video.frames)
        np.testing.assert_array_equal(shown, [0, 1, 3])
        np.testing.assert_allclose(video.times, shown / 5)
        assert video.notes == ("incomplete: 1 of 4 pictures are broken",)
    for path in folder.iterdir():
        path.write_bytes(b"nothing")
    refused(folder, "none of its pictures can be decoded", partial=True)


def test_two_sizes(fill, refused):
    folder = fill(["1.jpg", "2.jpg"])
    cv2.imwrite(str(folder / "2.jpg"), np.zeros((10, 20, 3), np.uint8))
    refused(folder, "picture 2 of 2 is 10x20, not 64x144")


def test_a_bomb_is_refused(fill, refused):
    """A PNG of a few bytes that says it is 60000 x 60000 pixels."""
    folder = fill(["1.jpg"])
    header = b"IHDR" + struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    (folder / "2.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk)
    refused(folder, "picture 2 of 2")
