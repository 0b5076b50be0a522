"""Interlaced pictures: two half pictures of two moments, woven line by line, made whole again.

By FFmpeg's bwdif filter (w3fdif's and yadif's successor), one picture for each of the container's
with that one's time: the lines of its first field stay, the others are made from them and from the
pictures before and after it. Pictures that are marked progressive pass unchanged.
"""

from collections.abc import Generator, Iterable
from fractions import Fraction

import av
from av.filter import Graph

FILTER = "bwdif"
NOTE = f"interlaced: each picture was made whole by FFmpeg's {FILTER} filter"
_UNIT = Fraction(1, 25)  # of the stamps within the filter, which are numbers of pictures


def deinterlaced(
    pictures: Iterable[tuple[int, av.VideoFrame, bool]], every: bool = False
) -> Generator[tuple[int, av.VideoFrame, bool], None, None]:
    """The pictures that are wanted, progressive.

    The filter sees no more than the wanted pictures and their neighbours.

    Args:
      pictures: (number, picture, wanted) in the order in which they are shown.
      every: all are interlaced, marked or not.

    Yields:
      (number, picture, whether it was interlaced) of those wanted, in the same order.
    """
    graph = shape = before = None
    pushed = 0  # how many pictures went into the filter
    owed: dict[int, tuple[int, bool]] = {}  # place in the filter -> number, interlaced

    def drained(graph: Graph) -> Generator[tuple[int, av.VideoFrame, bool], None, None]:
        while True:
            try:
                frame = graph.vpull()
            except (av.BlockingIOError, av.EOFError):
                return
            assert frame.pts is not None and frame.time_base is not None  # the filter's own
            place = round(frame.pts * frame.time_base / _UNIT)
            if place in owed:
                number, interlaced = owed.pop(place)
                yield number, frame, interlaced

    for number, frame, wanted in pictures:
        if graph and owed and shape != _shape(frame):  # nothing of this shape follows
            graph.vpush(None)
            yield from drained(graph)
            graph = None
        if not owed and not (wanted and (every or frame.interlaced_frame)):
            if wanted:
                yield number, frame, False
            before = (frame, False)
            continue
        if graph is None or shape != _shape(frame):
            graph, shape = _graph(frame, every), _shape(frame)
        if before and not before[1] and _shape(before[0]) == shape:
            _push(graph, before[0], pushed)
            pushed += 1
        _push(graph, frame, pushed)
        if wanted:
            owed[pushed] = number, every or frame.interlaced_frame
        before, pushed = (frame, True), pushed + 1
        yield from drained(graph)
    if graph and owed:
        graph.vpush(None)
        yield from drained(graph)


def _shape(frame: av.VideoFrame) -> tuple:
    return frame.width, frame.height, frame.format.name, frame.colorspace, frame.color_range


def _graph(frame: av.VideoFrame, every: bool) -> Graph:
    """The filter, for pictures like this one: for `every` one, or for those that are marked."""
    graph = Graph()
    graph.threads = 1
    ends = (
        graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=_UNIT
        ),
        graph.add(FILTER, mode="send_frame", parity="auto", deint="all" if every else "interlaced"),
        graph.add("buffersink"),
    )
    graph.link_nodes(*ends).configure()
    return graph


def _push(graph: Graph, frame: av.VideoFrame, place: int) -> None:
    """Puts a picture into the filter; its stamp becomes its place there."""
    frame.pts, frame.time_base = place, _UNIT
    graph.vpush(frame)
