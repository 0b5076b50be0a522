"""A folder of JPEG or PNG frames: order, times, and every way in which it can be wrong."""

import os
import struct

import cv2
import numpy as np
import pytest

from medscope_jax.video import VideoError, read_video

SIZE = (64, 144)


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


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_times_of_its_own(fill, index_of, end):
    """Times decide the order, whatever the names and the caller's rate say; they start at 0."""
    times = [2.5, 0.5, 1.0, 4.0]
    folder = fill(["a.jpg", "b.png", "c.jpg", "d.jpg"], times)
    table = folder / "times.csv"
    table.write_bytes(b"\xef\xbb\xbf" + table.read_bytes().replace(b"\n", end))
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
        ("file,time\n1.jpg,0\n2.jpg,1_0\n", "line 3: the time is no number"),
        ('file,time\n1.jpg,0\n2.jpg,"1,5"\n', "line 3: the time is no number"),
        ("file;time\n1.jpg;0\n2.jpg;1,5,5\n", "line 3: the time is no number"),
        ("file,time,note\n1.jpg,0,a\n2.jpg,1,b\n", "must have the columns file,time"),
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


def test_pipes_and_devices_are_no_pictures(fill, refused, index_of):
    folder = fill(["1.png", "2.png"])
    os.mkfifo(folder / "3.png")
    (folder / "4.png").symlink_to("/dev/zero")
    (folder / "5.png").symlink_to(folder / "nowhere")
    (folder / "6.png").mkdir()
    video = read_video(folder, fps=5.0, size=SIZE, frame_rate=5.0)
    np.testing.assert_array_equal(index_of(video.frames), [0, 1])
    os.mkfifo(folder / "times.csv")
    refused(folder, "times.csv is no file of at most")
    (folder / "times.csv").unlink()
    (folder / "times.csv").symlink_to("/dev/zero")
    refused(folder, "times.csv is no file of at most")


def test_links_to_pictures_are_pictures(fill, tmp_path, index_of):
    folder = fill(["1.png", "2.png"])
    (folder / "2.png").rename(tmp_path / "elsewhere.png")
    (folder / "2.png").symlink_to(tmp_path / "elsewhere.png")
    video = read_video(folder, fps=5.0, size=SIZE, frame_rate=5.0)
    np.testing.assert_array_equal(index_of(video.frames), [0, 1])


@pytest.mark.parametrize("times", [[0.0, 1e9], [0.0, 604_801.0], [-1e308, 1e308], [0.0, 1e308]])
def test_times_that_are_years(fill, refused, times, recwarn):
    refused(fill(["1.png", "2.png"], times), "its times reach .* at most 604,800 s")
    assert not recwarn.list


@pytest.mark.parametrize("time", ["inf", "-inf", "nan", "1e999", "", "0x10"])
def test_times_that_are_no_numbers(fill, refused, time):
    refused(fill(["1.png", "2.png"], ["0", time]), "line 3: the time is no number of seconds")


def test_negative_times_count_from_the_first(fill):
    video = read_video(fill(["1.png", "2.png"], [-2.5, -2.0]), fps=5.0, size=SIZE)
    np.testing.assert_allclose(video.times, [0.0, 0.5])
    assert "starts at -2.5 s" in video.notes[0]


def test_a_rate_that_makes_years(fill, refused):
    refused(fill(["1.png", "2.png"]), "its times reach", frame_rate=1e-9)


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_any_line_ends(fill, ends, mark, index_of):
    folder = fill(["1.png", "2.png", "3.png"])
    rows = ["file,time", "3.png,0", "2.png,1.5", "1.png,2"]
    text = mark + ends.join([*rows, ""])
    (folder / "times.csv").write_bytes(text.encode())
    video = read_video(folder, fps=5.0, size=SIZE)
    np.testing.assert_array_equal(index_of(video.frames), [2, 1, 0])
    np.testing.assert_allclose(video.times, [0.0, 1.5, 2.0])


@pytest.mark.parametrize(
    "table",
    [
        "File;Time\n3.png;0\n2.png;1,5\n1.png;2,0\n",
        "TIME\tFILE\r0\t3.png\r1.5\t2.png\r2\t1.png\r",
        '\ufeff"file","time"\r\n"3.png","0"\r\n"2.png","1.5"\r\n"1.png","2e0"\r\n',
        " file , Time \n3.png, 0\n2.png, 1.5 \n1.png, 2\n\n",
    ],
)
def test_a_spreadsheets_table(fill, table, index_of):
    folder = fill(["1.png", "2.png", "3.png"])
    (folder / "times.csv").write_bytes(table.encode())
    video = read_video(folder, fps=5.0, size=SIZE)
    np.testing.assert_array_equal(index_of(video.frames), [2, 1, 0])
    np.testing.assert_allclose(video.times, [0.0, 1.5, 2.0])


@pytest.mark.parametrize(
    "text",
    [
        b"file,time\n1.png,0\n2.png," + b"9" * 200_000,
        b"file,time\n1.png,0\n2.png," + b"9" * 130_000 + b"x\n",
        b"a" * 3_000_000,
        b"file,time\n1.png,0\n2\0.png,1\n",
        b"file,time\n1.png,0\n2.png,1\0\n",
        b"\0" * 5000,
        b"file,time\n" + b"x.png,1\n" * 100_000,
        b"file,time\n1.png,0\n2.png," + b"9" * 5000 + b"\n",
        b'file,time\n"1.png,0\n2.png,1\n',
        b"file,time\n" + b"\n" * 1_000_000,
    ],
)
def test_tables_that_are_none(fill, refused, text):
    folder = fill(["1.png", "2.png"])
    (folder / "times.csv").write_bytes(text)
    refused(folder, "times.csv")


def test_a_table_that_is_too_long(fill, refused):
    folder = fill(["1.png", "2.png"])
    with open(folder / "times.csv", "wb") as file:
        file.truncate(1 << 27)
    refused(folder, "times.csv is no file of at most 64 MiB")


def test_numbers_that_leap(fill, refused, index_of):
    for last in ("frame_19480229.png", "frame_999999999999.png"):
        folder = fill(["frame_0.png", "frame_1.png", last])
        for partial in (False, True):
            refused(folder, "leap too far to count frames; put", partial=partial)
        (folder / last).unlink()
    # Two numbers are one step apart, whatever that is; so are long ones that no float tells apart.
    long = [f"{10**200 + i}.png" for i in range(3)]
    for few in (["frame_0.png", "frame_999999999999.png"], long):
        folder = fill(few)
        for path in folder.iterdir():
            if path.name not in few:
                path.unlink()
        video = read_video(folder, fps=5.0, size=SIZE, frame_rate=5.0)
        np.testing.assert_array_equal(index_of(video.frames), range(len(few)))
        np.testing.assert_allclose(video.times, np.arange(len(few)) / 5)


def test_numbers_of_many_digits(fill, index_of):
    folder = fill(["a" + "9" * 240 + ".png", "a" + "9" * 239 + ".png"])
    video = read_video(folder, fps=5.0, size=SIZE, frame_rate=5.0)
    np.testing.assert_array_equal(index_of(video.frames), [1, 0])


def test_remedies(fill):
    folder = fill(["1.png", "2.png", "4.png"])
    for options, remedy in (({}, "frame_rate"), ({"frame_rate": 5.0}, "partial")):
        with pytest.raises(VideoError) as caught:
            read_video(folder, fps=5.0, size=SIZE, **options)
        assert caught.value.remedy == remedy
        assert remedy not in caught.value.reason
