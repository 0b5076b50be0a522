"""The reference's side of benchmarks/model.py: python -m benchmarks.model_torch FOLDER REPEATS

transformers' Qwen2.5-VL in PyTorch, float32, with scaled-dot-product attention. Imports no JAX, so
that its memory is its own.
"""

import os
import sys
from pathlib import Path

import numpy as np
import torch
import transformers

from benchmarks.model_job import LEARNING_RATE, NEW_TOKENS, read_job
from benchmarks.model_side import run_side

# What Qwen's image processor subtracts and divides by, on a 0 to 1 scale.
MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)


def build(facts: dict, weights: dict[str, np.ndarray]) -> torch.nn.Module:
    """The reference model with these weights (hub names)."""
    config = transformers.Qwen2_5_VLConfig(**facts["hf_config"], attn_implementation="sdpa")
    model = transformers.Qwen2_5_VLForConditionalGeneration(config)
    state = {}
    for name, array in weights.items():
        inner = "model." + name if name.startswith("visual.") else name
        if name.startswith("model."):
            inner = name.replace("model.", "model.language_model.", 1)
        state[inner] = torch.from_numpy(array)
    if config.tie_word_embeddings:
        state["lm_head.weight"] = state["model.language_model.embed_tokens.weight"]
    model.load_state_dict(state)
    return model


def patches(vision, frames: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """(pixel_values, image_grid_thw) of frames uint8 [N, H, W, 3], in the processor's order."""
    count, height, width, channels = frames.shape
    patch, merge = vision.patch_size, vision.spatial_merge_size
    rows, columns = height // patch, width // patch
    x = (frames.astype(np.float32) / 255 - MEAN) / STD
    x = np.repeat(x.transpose(0, 3, 1, 2)[:, None], vision.temporal_patch_size, axis=1)
    x = x.reshape(count, -1, channels, rows // merge, merge, patch, columns // merge, merge, patch)
    x = x.transpose(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(count * rows * columns, -1)
    return torch.from_numpy(np.ascontiguousarray(x)), torch.tensor([[1, rows, columns]] * count)


def main(folder: Path, repeats: int) -> None:
    """Measures the three jobs and writes torch.json and torch.npz."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    facts, weights, batch = read_job(folder)
    model = build(facts, weights)
    visual = torch.from_numpy(batch["visual_index"] >= 0)
    ids = torch.from_numpy(batch["tokens"]).long()
    ids = torch.where(visual, model.config.image_token_id, ids)
    frames = batch["frames"].reshape(-1, *batch["frames"].shape[2:])
    pixels, grid = patches(model.config.vision_config, frames)
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": visual.long(),
        "pixel_values": pixels,
        "image_grid_thw": grid,
    }
    labels = torch.where(visual, -100, ids)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )
    outputs, losses = {}, []

    def prefill():
        with torch.no_grad():
            out = model.eval()(**inputs, use_cache=True, logits_to_keep=1)
        outputs["prefill"] = out.logits[:, -1].numpy()

    def sample():
        with torch.no_grad():
            out = model.eval().generate(
                **inputs,
                do_sample=False,
                max_new_tokens=NEW_TOKENS,
                min_new_tokens=NEW_TOKENS,
                pad_token_id=0,
            )
        outputs["sample"] = out[:, ids.shape[1] :].numpy()

    def train():
        loss = model.train()(**inputs, labels=labels, use_cache=False).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(float(loss.detach()))

    jobs = {"prefill": prefill, "sample": sample, "train": train}
    run_side(folder, "torch", jobs, repeats, lambda: {**outputs, "losses": np.array(losses)})


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
