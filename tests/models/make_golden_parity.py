"""Makes golden_parity.npz with transformers: what the parity tests without PyTorch compare with.

    python -m tests.models.make_golden_parity

Weights, pixels and conversations are not stored: parity_cases makes them again from their seeds.
"""

from pathlib import Path

import numpy as np

from tests.models import parity_cases

TARGET = Path(__file__).with_name("golden_parity.npz")
MODELS = ("gqa2", "gqa8-tied")
KEPT = 5  # of a row's positions, the last ones: each has seen the whole conversation


def last_positions(valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the last KEPT valid slots of every row."""
    slots = np.stack([np.flatnonzero(row)[-KEPT:] for row in valid])
    return np.arange(len(valid))[:, None], slots


def main() -> None:
    """Runs the reference on every case and stores tokens, positions, logits and texts."""
    from tests.models import parity_reference, torch_reference

    values = {}
    for name in MODELS:
        config = parity_cases.FAMILY[name]
        model = torch_reference.build(config, parity_cases.random_weights(config))
        for clip, pixels in enumerate(parity_cases.make_clips()):
            tokens, _ = parity_reference.tower(model, config, pixels)
            values[f"{name}/clip{clip}"] = tokens[:, ::4].astype(np.float32)
        for side in ("left", "right"):
            said = parity_cases.lay_out(
                config, list(parity_cases.ROWS.values()), parity_cases.LENGTH, side == "left"
            )
            places = parity_reference.positions(model, config, said)
            values[f"{name}/{side}/positions"] = places.astype(np.int16)
            scores = parity_reference.logits(model, config, said)
            values[f"{name}/{side}/logits"] = scores[last_positions(said.valid)]
            if side == "left":  # generate wants its prompts to end together
                texts = parity_reference.generate(model, config, said, parity_cases.GENERATED)
                values[f"{name}/texts"] = texts.astype(np.int16)
    np.savez_compressed(TARGET, **values)
    print(f"{TARGET.name}: {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main()
