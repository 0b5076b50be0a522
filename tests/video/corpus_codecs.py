"""Containers, codecs and pixel formats that nothing is wrong with."""

from fractions import Fraction

from tests.video.corpus_case import Case, steady
from tests.video.corpus_write import H264, Sound, Track, write

X265 = {"x265-params": "log-level=0:pools=1:frame-threads=1"}
_AV1 = {"preset": "11", "crf": "15", "svtav1-params": "lp=1"}
_NTSC = Fraction(30000, 1001)


def _x265(**parameters) -> dict[str, str]:
    more = "".join(f":{name.replace('_', '-')}={value}" for name, value in parameters.items())
    return {"x265-params": X265["x265-params"] + more}


def _with_timecode(stream) -> None:
    stream.metadata["timecode"] = "01:00:00:00"


def plain(ending: str, track: Track = H264, tag: str = "", **rest) -> Case:
    """A case of one stream of pictures with steady times from 0."""
    sound = rest.pop("sound", None)
    form, options = rest.pop("form", None), rest.pop("muxer", None)
    name = f"{ending}-{track.codec}-{track.pix_fmt}" + (f"-{tag}" if tag else "")
    tracks = [track] if sound is None else [track, sound]

    def make(folder):
        return write(folder / f"clip.{ending}", *tracks, form=form, options=options)

    rest.setdefault("times", steady(len(track.numbers), track.rate))
    return Case(name, make, shown=tuple(track.numbers), **rest)


_DTS = "ffprobe gives an AVI's packets, not its pictures, their stamps"
_PS = "MPEG-PS stamps only some pictures; ffprobe leaves the last ones out"

CASES = [
    plain("mp4"),
    plain("mp4", sound=Sound(), tag="sound"),
    plain("mp4", Track(options={"bf": "0"}), "no-b"),
    plain("mp4", Track(pix_fmt="yuv422p10le")),
    plain("mp4", Track(pix_fmt="yuv444p")),
    plain("mp4", Track(pix_fmt="gray")),
    plain("mp4", Track("libx265", options=X265)),
    plain("mp4", Track("libx265", options=_x265(keyint=10, open_gop=1)), "leading"),
    plain("mp4", Track("libx265", pix_fmt="yuv420p10le", options=X265)),
    plain("mp4", Track("mpeg4", options={"bf": "2"})),
    plain("mp4", Track("libsvtav1", options=_AV1)),
    plain("mp4", Track("libvpx-vp9")),
    plain("mp4", Track("mjpeg", pix_fmt="yuvj420p")),
    plain("mp4", Track(rate=_NTSC), "29.97"),
    plain("mp4", Track(rate=1000), "1000fps", tolerance=2e-4),
    plain("mp4", Track(rate=1, numbers=range(12)), "1fps"),
    plain("mp4", Track(numbers=[5]), "one-picture"),
    plain("mp4", Track(options={"x264-params": "keyint=10:open-gop=1:bframes=3"}), "open-gop"),
    plain("mp4", muxer={"movflags": "faststart"}, tag="index-first"),
    plain("mp4", muxer={"movflags": "frag_keyframe+empty_moov"}, tag="fragments"),
    *(
        plain(
            ending,
            Track("mpeg4", numbers=[3, 4]),
            "two-pictures",
            probe=_PS if ending == "mpg" else "",
        )
        for ending in ("mp4", "mkv", "avi")
    ),
    plain("mov", Track(stream=_with_timecode), "timecode"),
    *(
        plain(
            ending,
            Track(rate=rate),
            f"{float(rate):.3f}",
            probe=_DTS if ending == "avi" else "",
        )
        for ending in ("mp4", "mkv", "ts", "avi", "flv")
        for rate in (Fraction(24000, 1001), Fraction(60000, 1001), Fraction(25, 2), Fraction(1, 2))
    ),
    plain("mp4", Track(options={"x264-params": "intra-refresh=1:keyint=20"}), "refresh"),
    plain("ts", Track(options={"x264-params": "bframes=8:b-pyramid=normal:ref=6"}), "pyramid"),
    plain("mp4", Track(size=(66, 162)), "odd-size"),
    plain("avi", Track("mjpeg", pix_fmt="yuvj420p", size=(63, 161)), "odd-size"),
    plain("mp4", muxer={"movflags": "hybrid_fragmented"}, tag="hybrid"),
    plain("mp4", muxer={"movflags": "cmaf+frag_keyframe+delay_moov"}, tag="cmaf"),
    plain("mpg", Track("mpeg2video"), "dvd", form="dvd", sound=Sound("mp2"), probe=_PS),
    plain("mpg", Track("mpeg1video"), "vcd", form="vcd", sound=Sound("mp2"), probe=_PS),
    plain("ts", Track(start=90_000.0), "from-25-hours"),
    plain("mkv", Track(start=90_000.0), "from-25-hours"),
    plain("mov", Track("prores_ks", pix_fmt="yuv422p10le")),
    plain("mov", Track("prores_ks", pix_fmt="yuva444p10le", options={"profile": "4"})),
    plain(
        "mov", Track("dnxhd", size=(128, 320), pix_fmt="yuv422p", options={"profile": "dnxhr_sq"})
    ),
    plain("mov", Track("qtrle", pix_fmt="rgb24")),
    plain("mov", Track("png", pix_fmt="rgb24")),
    plain("mov", Track("rawvideo", pix_fmt="rgb24")),
    plain("mov", Track("cinepak", pix_fmt="rgb24", numbers=range(30))),
    plain("mov", Track("jpeg2000", pix_fmt="yuv420p")),
    plain("mov", Track("mjpeg", pix_fmt="yuvj422p")),
    plain("avi", Track("mpeg4")),
    plain("avi", Track("mpeg4", options={"bf": "2"}), "b-frames", probe=_DTS),
    plain("avi", Track(), "b-frames", probe=_DTS),
    plain("avi", Track("mjpeg", pix_fmt="yuvj420p"), sound=Sound("pcm_s16le"), tag="sound"),
    plain("avi", Track("rawvideo", pix_fmt="bgr24")),
    plain("avi", Track("rawvideo", pix_fmt="yuv420p")),
    plain("avi", Track("huffyuv", pix_fmt="yuv422p")),
    plain("avi", Track("utvideo", pix_fmt="gbrp")),
    plain("avi", Track("ffv1", pix_fmt="bgr0")),
    plain("avi", Track("msmpeg4v2")),
    plain("avi", Track("msvideo1", pix_fmt="rgb555le")),
    plain("avi", Track("zmbv", pix_fmt="bgr0")),
    plain("avi", Track("mpeg2video", options={"bf": "2"}), "b-frames", probe=_DTS),
    plain("mkv"),
    plain("mkv", sound=Sound(), tag="sound"),
    plain("mkv", Track("libx265", options=_x265(keyint=10, open_gop=1)), "leading"),
    plain("mkv", Track("mpeg2video", options={"bf": "2"})),
    plain("mkv", Track("mpeg4", options={"bf": "2"})),
    plain("mkv", Track("ffv1", pix_fmt="gray10le")),
    plain("mkv", Track("ffv1", pix_fmt="gray16le")),
    plain("mkv", Track("ffv1", pix_fmt="yuva420p")),
    plain("mkv", Track("mjpeg", pix_fmt="yuvj444p")),
    plain("mkv", Track("rawvideo", pix_fmt="yuv420p")),
    plain("mkv", Track(rate=_NTSC), "29.97"),
    plain("mkv", Track(rate=1000), "1000fps", tolerance=2e-4),
    plain("mkv", Track(numbers=[5]), "one-picture"),
    plain("webm", Track("libvpx", options={"lag-in-frames": "16", "auto-alt-ref": "1"}), "alt-ref"),
    plain(
        "webm",
        Track("libvpx-vp9", options={"lag-in-frames": "16", "auto-alt-ref": "1"}),
        "alt-ref",
    ),
    plain("webm", Track("libsvtav1", options=_AV1)),
    plain("ts"),
    plain("ts", sound=Sound("mp2"), tag="sound"),
    plain("ts", Track(options={"x264-params": "keyint=10:open-gop=1:bframes=3"}), "open-gop"),
    plain("ts", Track("libx265", options=_x265(keyint=10, open_gop=1)), "leading"),
    plain("ts", Track("mpeg2video", options={"bf": "2"})),
    plain("ts", Track(rate=_NTSC), "29.97"),
    plain("m2ts", muxer={"mpegts_m2ts_mode": "1"}, form="mpegts"),
    plain("mpg", Track("mpeg1video", options={"bf": "2"}), probe=_PS),
    plain("mpg", Track("mpeg2video", options={"bf": "2"}), probe=_PS),
    plain("vob", Track("mpeg2video"), sound=Sound("mp2"), form="vob", probe=_PS),
    plain("mpg", form="mpeg", probe=_PS),
    plain("wmv", Track("wmv2"), form="asf"),
    plain("wmv", Track("wmv1"), sound=Sound("mp2"), form="asf"),
    plain("asf", Track("msmpeg4"), form="asf"),
    plain("flv", Track("flv")),
    plain("flv", Track()),
    plain("mxf", Track("mpeg2video", pix_fmt="yuv422p")),
    plain("mxf", Track(options={"bf": "0"})),
    plain("mxf", Track("mpeg2video", options={"bf": "2"}), "b-frames"),
    plain("mxf", Track("jpeg2000", pix_fmt="yuv422p")),
    plain("3gp", Track("h263", size=(144, 176))),
    plain("3gp", Track("mpeg4")),
    plain("dv", Track("dvvideo", size=(576, 720))),
    plain("ogv", Track("libvpx")),
    plain("nut", Track("mpeg4")),
]
