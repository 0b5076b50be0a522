"""A suite of made-up records in memory, which worker processes can be handed."""

import dataclasses
from pathlib import Path

import numpy as np

from medscope_jax.data.stored_rows import VideoOutline
from medscope_jax.dialogue import Layout

LAYOUT = Layout(
    length=150,
    preview_frames=3,
    window_frames=4,
    grid=(1, 2),
    frame_format="{frame}{time:.1f}",
    max_tool_turns=2,
)
CALL = (
    '<think>look</think><tool_call>{"name": "crop_video", "arguments": {"video_path": "video.mp4", '
    '"start_time": 2.0, "end_time": %.1f}}</tool_call>'
)
END = "<think>seen</think><answer>left</answer>"
OUTLINES = {
    "a": VideoOutline("made", np.arange(9.0), 9.0),
    "b": VideoOutline("made", np.arange(4.0) / 2, 2.0),
}


@dataclasses.dataclass(frozen=True)
class MemorySuite:
    """What row_lengths asks of a Suite; records differ by number in every way that counts."""

    folder: Path
    count: int
    version: str = "1"

    @property
    def lengths_folder(self) -> Path:
        return self.folder / "lengths"

    def fingerprint(self, part: str) -> str:
        return f"{part} {self.version}"

    def splits(self, part: str) -> tuple[str, ...]:
        return ("train", "test")

    def outlines(self, split: str) -> dict[str, VideoOutline]:
        return OUTLINES

    def records(self, part: str, split: str, fields: tuple[str, ...] = ()) -> list[dict]:
        rows = (self.record(part, number) for number in range(self.count))
        return [{name: row[name] for name in fields or row if name in row} for row in rows]

    def record(self, part: str, number: int) -> dict:
        """Every seventh one is too long, every eleventh one asks nothing."""
        turns = [CALL % (3.0 + number % 4)] * (number % 3 if part == "vcot" else 0) + [END]
        words = " left" * (300 if number % 7 == 3 else number % 5)
        return {
            "id": f"{part}-{number}",
            "video": "ab"[number % 2],
            "question": "" if number % 11 == 5 else f"Where is it{words}?",
            "turns": turns,
            "window": np.array([0.5, 1.0 + number % 6], np.float32),
        }
