"""Files that were made to harm: they open no other file, take no memory, and hold nothing up."""

import os
import struct
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from medscope_jax.video import VideoError, read_video
from medscope_jax.video.size_limits import MAX_PIXELS
from tests.video.corpus_write import Track, write

ROOT = Path(__file__).resolve().parents[2]
SIZE = (64, 160)
# A process of its own: its peak is that of reading the file, and a hang ends with it.
READ = """
import re, sys
from pathlib import Path
from medscope_jax.video import VideoError, read_video

def peak():  # getrusage's outlasts exec: it is that of whoever started this process
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

before = peak()
for path in sys.argv[1:]:
    try:
        video = read_video(path, 2.0, (64, 160))
        print("read", video.native_frames, *video.notes)
    except VideoError as error:
        print("refused", error.reason)
print((peak() - before) * 1024)
"""


def attempt(*paths) -> tuple[list[str], int]:
    """What a fresh process says of files, and the most bytes that they took."""
    command = [sys.executable, "-c", READ, *map(str, paths)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""
    *said, taken = done.stdout.splitlines()
    assert len(said) == len(paths)
    return said, int(taken)


def playlists(target: str) -> dict[str, bytes]:
    """Files that name another, as FFmpeg knows them."""
    return {
        "m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{target}\n".encode(),
        "ffconcat": f"ffconcat version 1.0\nfile '{target}'\n".encode(),
        "concat": f"file '{target}'\n".encode(),
        "mpd": (
            '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static">'
            f"<Period><AdaptationSet><Representation><BaseURL>{target}</BaseURL>"
            "</Representation></AdaptationSet></Period></MPD>"
        ).encode(),
        "sdp": b"v=0\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n",
        "asx": f'<asx version="3.0"><entry><ref href="{target}"/></entry></asx>'.encode(),
        "pls": f"[playlist]\nFile1={target}\nNumberOfEntries=1\n".encode(),
        "imf": f'<?xml version="1.0"?><AssetMap><Path>{target}</Path></AssetMap>'.encode(),
    }


@pytest.fixture
def patient(tmp_path):
    """The recording of another patient."""
    return write(tmp_path / "patient.ts", Track(numbers=range(25)))


@pytest.mark.parametrize("kind", sorted(playlists("")))
def test_a_playlist_never_opens_what_it_names(tmp_path, patient, kind):
    """Under any name, and with bytes that are no text: one of 0x80, an umlaut, a mark of UTF-16."""
    for target in (str(patient), f"file:{patient}", "patient.ts"):
        text = playlists(target)[kind]
        variants = (text, text + b"\x80", text + "\u00e4".encode(), b"\xef\xbb\xbf" + text)
        for number, data in enumerate(variants):
            for name in (f"list{number}.{kind}", f"list{number}.mp4", f"list{number}"):
                (tmp_path / name).write_bytes(data)
                with pytest.raises(VideoError) as caught:
                    read_video(tmp_path / name, 2.0, SIZE, frame_rate=25.0, partial=True)
                assert "\n" not in str(caught.value) and "patient" not in caught.value.reason


def test_an_mp4_that_keeps_its_pictures_in_another_file(tmp_path):
    """A data reference to a file beside it: another patient's."""
    victim = write(tmp_path / "victim.mp4", Track(numbers=range(25)))
    data = bytearray(victim.read_bytes())
    at = data.index(b"dref") + 12  # its one entry, which says: in this very file
    assert data[at + 4 : at + 12] == b"url \x00\x00\x00\x01"
    entry = b"url \x00\x00\x00\x00" + os.fsencode(f"file://{victim}") + b"\0"
    grown = len(entry) + 4 - struct.unpack_from(">I", data, at)[0]
    data[at : at + 12] = struct.pack(">I", len(entry) + 4) + entry
    for box in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
        begin = data.index(box) - 4
        struct.pack_into(">I", data, begin, struct.unpack_from(">I", data, begin)[0] + grown)
    # The pictures themselves are gone from this one.
    begin = data.index(b"mdat") + 4
    data[begin : data.index(b"moov") - 4] = bytes(data.index(b"moov") - 4 - begin)
    (tmp_path / "thief.mp4").write_bytes(data)
    with pytest.raises(VideoError, match="incomplete|nothing can be decoded|not a video"):
        read_video(tmp_path / "thief.mp4", 25.0, SIZE)


def test_pipes_devices_and_sockets_are_never_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    said, _ = attempt(tmp_path / "pipe.mp4", "/dev/zero", "/dev/stdin")
    assert all(line.startswith("refused not a regular file") for line in said)


def test_an_address_is_a_file_that_is_not_there():
    for path in ("http://127.0.0.1:9/x.mp4", "concat:a.ts|b.ts", "data:video/mp4;base64,AAAA"):
        with pytest.raises(VideoError, match="no such file"):
            read_video(path, 2.0, SIZE)


def _claim(data: bytes, width: int, height: int) -> bytes:
    """A recording of JPEG pictures whose frame headers claim another size."""
    data, at = bytearray(data), 0
    while (at := data.find(b"\xff\xc0\x00\x11\x08", at)) >= 0:
        struct.pack_into(">HH", data, at + 5, height, width)
        at += 9
    return bytes(data)


def test_pictures_of_any_size_take_no_memory(tmp_path):
    """Of all, and of those behind the first ones, which no header tells of."""
    path = write(tmp_path / "clip.avi", Track("mjpeg", pix_fmt="yuvj420p", numbers=range(40)))
    data, paths = path.read_bytes(), []
    for side in (5_800, 13_300, 65_500):
        assert side * side > MAX_PIXELS
        for share in (0, 2):
            begin = len(data) * share // 4
            paths.append(tmp_path / f"{side}.{share}.avi")
            paths[-1].write_bytes(data[:begin] + _claim(data[begin:], side, side))
    said, taken = attempt(*paths)
    assert all(line.startswith("refused") for line in said) and taken < 300e6, (said, taken)


def test_an_mp4_header_of_four_gigabytes(tmp_path):
    """Its index claims to be as large as the file, which is one hole."""
    headers = {
        "moov.mp4": struct.pack(">I4s", 0xFFFFFFF0, b"moov"),
        "long.mp4": struct.pack(">I4sQ", 1, b"moov", 1 << 32),
        "table.mp4": struct.pack(">I4sI4s", 0xFFFFFFF0, b"moov", 0xFFFFFF00, b"trak"),
    }
    for name, header in headers.items():
        with open(tmp_path / name, "wb") as file:
            file.write(struct.pack(">I4s4sI", 16, b"ftyp", b"isom", 0) + header)
            file.truncate(1 << 32)
    said, taken = attempt(*(tmp_path / name for name in headers))
    assert all(line.startswith("refused") for line in said) and taken < 300e6, (said, taken)


def test_tables_that_claim_a_billion_pictures(tmp_path):
    path = write(tmp_path / "clip.mp4", Track("mpeg4", numbers=range(10)))
    copies = []
    for box in (b"stts", b"stsz", b"stsc"):
        data = bytearray(path.read_bytes())
        place = data.index(box) + 8 + 4 * (box == b"stsz")
        struct.pack_into(">I", data, place, 1_000_000_000)
        copies.append(tmp_path / f"{box.decode()}.mp4")
        copies[-1].write_bytes(data)
    said, taken = attempt(*copies)
    assert taken < 500e6, (said, taken)


def test_times_of_years(tmp_path):
    """A stamp that says how long the recording is; nothing is made for each of its seconds."""
    paths = []
    for last in (10**9, 10**6):
        stamps = [0, 40, last * 1000]
        paths.append(tmp_path / f"{last}.mkv")
        track = Track("mjpeg", pix_fmt="yuvj420p", stamps=stamps, rate=1000, numbers=range(3))
        write(paths[-1], track)
    said, taken = attempt(*paths)
    assert all(line.startswith("refused its times reach") for line in said), said
    assert taken < 200e6, taken


def test_names_that_are_no_text(tmp_path):
    path = os.fsencode(tmp_path) + b"/\xff\xfe \n%03d.mp4"
    plain = write(tmp_path / "plain.mp4", Track("mpeg4", numbers=range(10)))
    os.rename(plain, path)
    assert read_video(os.fsdecode(path), 2.0, SIZE).native_frames == 10


def test_two_readers_share_nothing(tmp_path):
    """A picture that does not come is left out: never the memory of one that came before."""
    good = write(tmp_path / "good.mp4", Track("mpeg4", numbers=[1023] * 20))  # all white
    path = write(tmp_path / "bad.avi", Track("mjpeg", pix_fmt="yuvj420p", numbers=[0] * 20))
    data = bytearray(path.read_bytes())
    at = data.index(b"movi") + 4
    while data[at : at + 4] == b"00dc":  # each picture becomes zeros
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        data[at + 8 : at + 8 + length] = bytes(length)
        at += 8 + length + length % 2
    path.write_bytes(data)
    for _ in range(3):
        assert read_video(good, 25.0, SIZE).frames[:, 32, 8::16].min() > 200
        with pytest.raises(VideoError, match="nothing can be decoded"):
            read_video(path, 25.0, SIZE, partial=True)


def test_only_recordings_are_opened(tmp_path):
    """What FFmpeg would render, play or fetch, and no recorder writes."""
    with av.open(str(tmp_path / "sound.flac"), "w") as file:
        stream = file.add_stream("flac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        frame.sample_rate = 8000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            file.mux(packet)
    (tmp_path / "words.ass").write_text("[Script Info]\nTitle: x\n" * 50)
    (tmp_path / "art.ans").write_bytes(b"\x1b[31mhello\x1b[0m\n" * 400)
    for path in tmp_path.iterdir():
        with pytest.raises(VideoError):
            read_video(path, 2.0, SIZE)
