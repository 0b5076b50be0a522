"""The peers' loop around transformers: PyTorch encodes the frames and `generate` writes the turns.

The host part is that of benchmarks/peers.py: text, calls, recordings. Of transformers it uses what
is best for it: scaled-dot-product attention, all rows in one batch padded on the left, its own
key-value cache within a turn, and visual tokens that are handed over encoded (5.23 and newer), so
that nothing is encoded twice within a turn and, with `keep`, within a rollout. A turn begins by
reading the whole conversation again, as its `generate` does for a batch of rows of unequal length.

The policy step is plain PyTorch: batches of rows padded to their longest, scores only where a token
was generated, the loss of medscope_jax.rl.policy_loss written once more, AdamW on the decoder.
"""

import os
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling

from benchmarks import peers as peers_lib
from benchmarks.model_torch import build, patches
from medscope_jax.dialogue import Role, Tokenizer, protocol
from medscope_jax.models import ModelConfig, export_hf
from medscope_jax.models.hf.hf_config import hf_config

_ENCODED = 128  # frames of one call of the vision tower


def build_net(params: dict, model: ModelConfig, tokenizer: Tokenizer) -> torch.nn.Module:
    """transformers' model with these parameters, on a GPU or all cores that are given to this."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    facts = hf_config(model) | {"image_token_id": tokenizer.tag(protocol.IMAGE)}
    weights = {name: np.array(array) for name, array in export_hf(params, model).items()}
    net = build({"hf_config": facts}, weights).eval()
    return net.to("cuda" if torch.cuda.is_available() else "cpu")


def encode_windows(
    net: torch.nn.Module, params: None, windows: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """Visual tokens [F, S, D] of each window of frames [F, H, W, 3]; as peers_device.encode_all."""
    if not windows:
        return []
    frames, parts = np.concatenate(windows), []
    with torch.inference_mode():
        for first in range(0, len(frames), _ENCODED):
            pixels, grid = patches(net.config.vision_config, frames[first : first + _ENCODED])
            pixels, grid = pixels.to(net.device), grid.to(net.device)
            found = net.get_image_features(pixels, grid, return_dict=True).pooler_output
            parts.append(torch.stack(list(found)).cpu().numpy())
    ends = np.cumsum([len(window) for window in windows])
    return np.split(np.concatenate(parts), ends[:-1])


def generate_turn(
    peers: peers_lib.Peers, rows: Sequence[peers_lib.Conversation], clock: peers_lib.Stopwatch
) -> int:
    """One greedy assistant turn of every row by transformers; returns the decoding steps.

    peers.device is the model.
    """
    net, tag, length = peers.device, peers.tokenizer.tag, peers.layout.length
    ends = [*peers.tokenizer.ends, tag(protocol.TOOL_CALL_END)]
    width = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), width), tag(protocol.PAD))
    valid = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, width - len(row.ids) :] = torch.tensor(row.ids)
        valid[i, width - len(row.ids) :] = 1
    ids, valid = ids.to(net.device), valid.to(net.device)
    with clock("generate"), torch.inference_mode():
        features = torch.from_numpy(np.concatenate([f for row in rows for f in row.features]))
        out = net.generate(
            input_ids=ids,
            attention_mask=valid,
            **_visuals(net, ids, features, peers.layout.grid),
            do_sample=False,
            max_new_tokens=min(
                peers.config.turn_tokens, length - min(len(row.ids) for row in rows)
            ),
            eos_token_id=ends,
            pad_token_id=tag(protocol.PAD),
        )
    with clock("text"):
        for row, turn in zip(rows, out[:, width:].tolist(), strict=True):
            stop = next((i for i, token in enumerate(turn, 1) if token in ends), len(turn))
            peers_lib.end_turn(peers, row, turn[: min(stop, length - len(row.ids))])
    return out.shape[1] - width - 1


def _visuals(
    net: torch.nn.Module, ids: torch.Tensor, features: torch.Tensor, grid: tuple[int, int]
) -> dict:
    """What says that `features` [R, D] stand, in order, where ids [B, N] are the image token."""
    merge = net.config.vision_config.spatial_merge_size
    count, features = len(features) // (grid[0] * grid[1]), features.to(net.device)
    shape = torch.tensor([[1, grid[0] * merge, grid[1] * merge]] * count, device=net.device)
    return {
        "mm_token_type_ids": (ids == net.config.image_token_id).long(),
        "image_grid_thw": shape,
        "mm_encoder_outputs": {"image": BaseModelOutputWithPooling(pooler_output=(features,))},
    }


def make_update(
    net: torch.nn.Module, stage: Mapping, loss: Mapping, micro_batch: int, grid: tuple[int, int]
) -> Callable[[dict[str, np.ndarray], np.ndarray, np.ndarray], dict[str, float]]:
    """A policy step (episode, advantages [B], bank [R, D]) -> loss and gradient norm.

    episode: tokens, role and logprobs [B, L] of medscope_jax.dialogue.Episode, and index [B, L],
    rows of bank (-1: text). stage, loss and micro_batch: a config's ga_grpo and loss sections and
    its rl.micro_batch. Its learning rate has no schedule.
    """
    decoder = [*net.model.language_model.parameters(), *net.lm_head.parameters()]
    net.requires_grad_(False)
    for parameter in decoder:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(
        decoder,
        lr=stage["learning_rate"],
        betas=(0.9, 0.98),
        weight_decay=stage["weight_decay"],
        fused=True,
    )
    low, high, dual = 1 - loss["clip_low"], 1 + loss["clip_high"], loss["dual_clip"]

    def update(episode, advantages, bank):
        optimizer.zero_grad(set_to_none=True)
        total, count = 0.0, int(np.sum(episode["role"] == Role.GENERATED))
        for first in range(0, len(advantages), micro_batch):
            rows = {name: array[first : first + micro_batch] for name, array in episode.items()}
            new, old, row = _logprobs(net, rows, bank, grid)
            weights = torch.from_numpy(advantages[first : first + micro_batch]).to(net.device)[row]
            ratio = torch.exp(torch.clamp(new - old, -20, 20))
            plain, clipped = -weights * ratio, -weights * ratio.clamp(low, high)
            values = torch.maximum(plain, clipped)
            values = torch.where(weights < 0, torch.minimum(-weights * dual, values), values)
            part = values.sum() / count
            part.backward()
            total += float(part.detach())
        norm = torch.nn.utils.clip_grad_norm_(decoder, stage["clip_norm"])
        optimizer.step()
        return {"loss": total, "gradient_norm": float(norm)}

    return update


def _logprobs(net, rows: dict[str, np.ndarray], bank: np.ndarray, grid: tuple[int, int]):
    """(new, old log-probabilities, row) of all N generated tokens of rows, each [N]."""
    width = int(np.max(np.sum(rows["role"] != Role.PADDING, axis=1)))
    tokens, index, role, old = (
        torch.from_numpy(np.array(rows[name][:, :width])).to(net.device)
        for name in ("tokens", "index", "role", "logprobs")
    )
    ids = torch.where(index >= 0, net.config.image_token_id, tokens.long())
    features = torch.from_numpy(bank[index[index >= 0].cpu().numpy()])
    hidden = net.model(
        input_ids=ids,
        attention_mask=(role != int(Role.PADDING)).long(),
        **_visuals(net, ids, features, grid),
        use_cache=False,
    ).last_hidden_state
    row, slot = torch.nonzero(role == int(Role.GENERATED), as_tuple=True)
    scores = torch.log_softmax(net.lm_head(hidden[row, slot - 1]), dim=-1)
    return scores.gather(1, ids[row, slot][:, None])[:, 0], old[row, slot], row
