"""What a recording lacks: its packets held against the pictures that came of them.

A header's count or duration never refuses a recording that plays whole; it may add a note.
"""

import dataclasses

import numpy as np

from medscope_jax.video.clock import Clock
from medscope_jax.video.demux import Packets
from medscope_jax.video.formats import TABLED
from medscope_jax.video.frames import VideoError
from medscope_jax.video.streams import FROM_ZERO, Stream

# Lost frames that are noted but tolerated: encoders do leave an undecodable frame or two (a last
# one never flushed, one that a disk spoilt).
_TOLERATED_FRAMES = 2
_TOLERATED_SHARE = 0.01
# The picture may begin this many frames after the container's first stamp without a word.
_LATE_FRAMES = 1.5
# The same where containers' clocks start at 0, and encoders leave room for pictures out of order.
_LATER_FRAMES = 2.5
# How far a header's seconds may be from those of the pictures without a word, in frames.
_SHORT_FRAMES = 0.75


@dataclasses.dataclass(frozen=True)
class Account:
    """What is known of a recording before it is decoded.

    Attributes:
      packets, stream: as streams.list_packets gave them.
      clock: its pictures' times.
      shown: the path that errors name.
      partial: whether it may lack pictures.
      promised: how many pictures there are by another's word; None if nobody says.
    """

    packets: Packets
    clock: Clock
    stream: Stream
    shown: str
    partial: bool
    promised: int | None


def judge(account: Account, came: np.ndarray, interlaced: bool) -> list[str]:
    """Notes on what did not come.

    Args:
      account: of the recording.
      came: bool [N], packets of which a picture came.
      interlaced: whether pictures are made of two fields, which may be two packets.

    Raises:
      VideoError: too many pictures to overlook did not come, and not `partial`.
    """
    packets, stream = account.packets, account.stream
    missing = ~packets.hidden & ~came
    if stream.codec == "mpeg4":
        missing &= ~packets.tiny | packets.damaged  # "as before": a header without a picture
    if interlaced:
        missing = _without_second_fields(missing, came)
    head = _undecodable_heads(packets, account.clock.parts, missing, came)
    decoded, lost = int(came.sum()), int((missing & ~head).sum())
    behind = _behind_the_end(account)
    lost += behind
    if account.promised:
        lost = max(lost, account.promised - decoded - int(head.sum()))
    account_of = f"{decoded + lost} frames promised, {decoded} decoded"
    if stream.missing_bytes and behind:
        account_of += f" ({stream.missing_bytes} bytes are missing at its end)"
    elif behind:
        account_of += " (it ends within a frame)"
    cut = behind or (stream.missing_bytes and packets.damaged[-1])
    many = lost > max(_TOLERATED_FRAMES, _TOLERATED_SHARE * (decoded + lost))
    if (cut or many) and not account.partial:
        raise VideoError(f"incomplete: {account_of}", account.shown, "partial")
    notes = [f"incomplete: {account_of}"] if lost else []
    if head.any():
        count = int(head.sum())
        what = "frame belongs" if count == 1 else "frames belong"
        notes.append(
            f"it begins inside a group of pictures: {count} {what} to one that can't be decoded"
        )
    if stream.errors:
        notes.append(f"its container is damaged in {stream.errors} places")
    if account.promised and account.promised < decoded:
        notes.append(
            f"its header says {account.promised} frames, {decoded} are there: all are read"
        )
    if not behind:
        notes += _header_notes(account)
    return [*notes, *stream.notes, *account.clock.notes, *_late_notes(account)]


def _behind_the_end(account: Account) -> int:
    """How many pictures a file lacks that was cut short; 0 for one that was not.

    It takes two witnesses: bytes that are missing, and headers that say how much there was.
    """
    stream, packets = account.stream, account.packets
    if not (stream.missing_bytes or (len(packets) and packets.damaged[-1])):
        return 0
    if stream.count:
        return max(0, stream.count - len(packets))
    return max(0, round(_short_seconds(account) / account.clock.interval))


def _without_second_fields(missing: np.ndarray, came: np.ndarray) -> np.ndarray:
    """missing, less the packets of second fields, where pictures are stored as two.

    A decoder makes one picture of both and names the packet of the first, or of the second.
    """
    if missing.sum() < 0.8 * came.sum():
        return missing
    after = np.concatenate([[False], came[:-1]])
    before = np.concatenate([came[1:], [False]])
    return missing & ~(after if (after & missing).sum() >= (before & missing).sum() else before)


def _undecodable_heads(
    packets: Packets, parts: np.ndarray, missing: np.ndarray, came: np.ndarray
) -> np.ndarray:
    """bool [N]: missing pictures at the head of a part that begins inside a group of pictures."""
    head = np.zeros(len(packets), bool)
    starts = [0, *np.flatnonzero(parts), len(packets)]
    for first, last in zip(starts[:-1], starts[1:], strict=True):
        shown = np.flatnonzero(~packets.hidden[first:last])
        made = np.flatnonzero(came[first:last])
        if not len(shown) or not len(made):
            continue
        begin = first + made[0]
        if not packets.key[first + shown[0]]:
            head[first:begin] = missing[first:begin]
        # Pictures that follow the first one as it is stored and are shown before it.
        leading = (packets.pts[first:last] < packets.pts[begin]) & missing[first:last]
        head[first:last] |= leading & (np.arange(first, last) > begin)
    return head


def _late_notes(account: Account) -> list[str]:
    """No or one note that the picture begins after the container's clock does."""
    made = account.clock
    first = float(np.nanmin(made.times))
    if first > _LATE_FRAMES * made.interval:
        return [f"the picture starts at {first:.2f} s, after the sound: times are the container's"]
    begins = account.stream.begins
    if account.stream.format in FROM_ZERO and begins > _LATER_FRAMES * made.interval:
        return [f"its clock starts at {begins:.2f} s: times are counted from there"]
    return []


def _short_seconds(account: Account) -> float:
    """Seconds that the headers say more than there are pictures for; 0 where they do not say."""
    made, stated = account.clock, account.stream.stated
    if made.parts.any() or not stated:
        return 0.0
    return stated - (made.end - float(np.nanmin(made.times)))


def _header_notes(account: Account) -> list[str]:
    """Notes on headers that say another number of pictures, or of seconds, than there are."""
    stream, stored = account.stream, len(account.packets)
    if stream.count > stored and stream.format in TABLED:
        return [f"the file's edit list shows {stored} of the {stream.count} frames stored"]
    if stream.count and stream.count != stored:
        return [f"its header says {stream.count} frames, {stored} are there"]
    short = _short_seconds(account)
    if abs(short) <= max(_SHORT_FRAMES * account.clock.interval, 2e-3):
        return []
    if short < 0:
        return [f"its header says {stream.stated:.2f} s, its pictures go on {-short:.2f} s longer"]
    what = f"its header says {stream.stated:.2f} s, its pictures end {short:.2f} s before"
    return [f"incomplete: {what}"]
