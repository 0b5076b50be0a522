"""Where loss or gradients stop being finite: the run ends, and keeps the batch that showed it."""

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from medscope_jax.errors import NotFiniteError
from medscope_jax.files import write_bytes
from medscope_jax.training.train_state import SKIPS_TO_STOP, TrainState

_PIXELS = "frames"  # may show names, and being bytes are always finite


def stop_if_not_finite(
    state: TrainState, stage: str, folder: Path, batch: Callable[[], Mapping[str, Any]]
) -> None:
    """Ends a run whose last SKIPS_TO_STOP steps had no finite loss and gradient.

    Such steps change nothing (see apply_gradients), so the last checkpoint is good: with the cause
    mended, the run goes on from there. Waits for the device.

    Args:
      state: after an update.
      folder: where to keep the batch.
      batch: gives the arrays of the batch that the last of these steps was made of. Token ids,
        places and numbers are kept; pixels are not.

    Raises:
      NotFiniteError: one line, which names the file with the batch.
    """
    if int(state.skipped_in_row) < SKIPS_TO_STOP:
        return
    arrays: dict[str, Any] = {
        name: np.asarray(array) for name, array in batch().items() if name != _PIXELS
    }
    process = f"_process{jax.process_index()}" if jax.process_count() > 1 else ""
    step = int(state.step)
    path = folder / f"not_finite_{stage}_{step:06d}{process}.npz"
    data = io.BytesIO()
    np.savez_compressed(data, **arrays)
    write_bytes(path, data.getvalue())
    raise NotFiniteError(
        f"{stage} stopped at its optimizer step {step}: loss or gradient was not finite "
        f"{SKIPS_TO_STOP} times in a row; the last of these batches is in {path}; no weight has "
        "changed and the last checkpoint is good: mend the cause, then run the same command again"
    )
