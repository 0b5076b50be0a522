"""The phantom suite's configuration: how many procedures, which records, how the teacher errs."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

from medscope_jax.errors import UserError, closest
from medscope_jax.phantom.procedure import SOURCES, SPLITS, Procedure, make_procedure

# Raised whenever the same configuration gives other bytes; a suite of another format is not reused.
FORMAT = 7


@dataclasses.dataclass(frozen=True)
class TeacherConfig:
    """How the cold-start teacher errs: imperfect windows, as real annotators draw them.

    Attributes:
      phase_jitter: seconds by which either end of the first window may be off.
      margin_max: the second window is too wide by 0 to this many seconds on each side, m of them
        with a chance proportional to m + 1: mostly much too wide, to be safe.
      frame_jitter_max: seconds by which a get_frame timestamp may be off, j with a chance
        proportional to |j| + 1.
      get_frame_share: how often the second call is get_frame where evidence is a frame time.
      trajectories_min, trajectories_max: independent trajectories a question.
    """

    phase_jitter: int = 2
    margin_max: int = 6
    frame_jitter_max: int = 2
    get_frame_share: float = 0.6
    trajectories_min: int = 1
    trajectories_max: int = 2


@dataclasses.dataclass(frozen=True)
class SuiteConfig:
    """Everything that decides the suite's bytes.

    Attributes:
      seed: of every procedure and record.
      train_ophthalmic ... test_laparoscopic: procedures a split and source. Laparoscopic ones are
        out-of-domain and exist in the test split only.
      bank_fps: bank frames a second; must be 1, since events are placed on whole seconds.
      frame_height, frame_width: pixels of a bank frame.
      preview_frames: frames of the whole-video preview; no event shows in any of them.
      window_frames: most frames that a window shows.
      captions_per_video: clips of the cap part.
      caption_log_share: how many of them name every frame; the others describe the clip.
      qa_windows: local windows a hard question of the qa part.
      teacher: the cold-start teacher.
    """

    seed: int = 0
    train_ophthalmic: int = 290
    train_endoscopic: int = 130
    validation_ophthalmic: int = 12
    validation_endoscopic: int = 6
    test_ophthalmic: int = 24
    test_endoscopic: int = 16
    test_laparoscopic: int = 20
    bank_fps: float = 1.0
    frame_height: int = 28
    frame_width: int = 56
    preview_frames: int = 12
    window_frames: int = 16
    captions_per_video: int = 24
    caption_log_share: float = 0.25
    qa_windows: int = 2
    teacher: TeacherConfig = TeacherConfig()

    def count(self, split: str, source: str) -> int:
        """How many procedures a split has of a source."""
        return getattr(self, f"{split}_{source}", 0)


def suite_config(section: Mapping[str, Any] | None = None) -> SuiteConfig:
    """Makes a SuiteConfig of a config file's section; what it does not name keeps its default.

    Raises:
      UserError: an unknown key (names the closest), or a value out of range.
    """
    config = _replace(SuiteConfig(), section or {}, "suite")
    if config.bank_fps != 1:
        raise UserError(
            f"suite.bank_fps is {config.bank_fps}, but phantom events lie on whole seconds: use 1.0"
        )
    if config.preview_frames < 8 or config.window_frames < 2:
        raise UserError(
            "suite.preview_frames must be at least 8 and suite.window_frames at least 2, got "
            f"{config.preview_frames} and {config.window_frames}"
        )
    if config.teacher.trajectories_min > config.teacher.trajectories_max:
        raise UserError("suite.teacher.trajectories_min is above trajectories_max")
    return config


def smoke_suite(**changes: Any) -> SuiteConfig:
    """The tiny suite of the smoke config and of tests: 16 / 8 / 8 procedures."""
    sizes = {
        "train_ophthalmic": 10,
        "train_endoscopic": 6,
        "validation_ophthalmic": 4,
        "validation_endoscopic": 4,
        "test_ophthalmic": 3,
        "test_endoscopic": 3,
        "test_laparoscopic": 2,
    }
    return SuiteConfig(**{**sizes, **changes})


def fingerprint(config: SuiteConfig | Mapping[str, Any]) -> str:
    """A short hash of everything that decides the suite's bytes; config may be config_to_json's."""
    values = config if isinstance(config, Mapping) else config_to_json(config)
    text = json.dumps([FORMAT, values], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def procedures(config: SuiteConfig) -> list[Procedure]:
    """Every script of the suite, in a fixed order; no two splits share one."""
    return [
        make_procedure(config.seed, split, source, index, config.preview_frames)
        for split in SPLITS
        for source in SOURCES
        for index in range(config.count(split, source))
    ]


def config_to_json(config: SuiteConfig) -> dict:
    """The configuration as plain dicts."""
    return dataclasses.asdict(config)


def _replace(config: Any, section: Mapping[str, Any], name: str) -> Any:
    """config with the section's values, nested dataclasses included."""
    fields = {field.name: field for field in dataclasses.fields(config)}
    changes = {}
    for key, value in section.items():
        if key not in fields:
            raise UserError(f"unknown key {name}.{key}{closest(key, fields)}")
        old = getattr(config, key)
        if dataclasses.is_dataclass(old):
            if not isinstance(value, Mapping):
                raise UserError(f"{name}.{key} must be a section, got {value!r}")
            changes[key] = _replace(old, value, f"{name}.{key}")
        else:
            if not isinstance(value, (int, float)) or not 0 <= value < math.inf:
                raise UserError(f"{name}.{key} must be a number of 0 or more, got {value!r}")
            changes[key] = type(old)(value)
    return dataclasses.replace(config, **changes)
