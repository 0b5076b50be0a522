"""The keys of a config, each once: its type, its range, and what it means.

    python -m medscope_jax.train --help     lists them; docs/config.md is the same as a page

The values stand in the config files: tpu_configs/cpu.py has one for every key, other files change
some of them. A new key is a line here and one in cpu.py.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Key:
    """What a key of a config may hold.

    Attributes:
      kind: bool, int, float (whole numbers too), str, or tuple (of whole numbers).
      about: what it means, in words that say nothing of its range.
      least, most: bounds of a number, or of the numbers of a tuple, that it may reach.
      above: a bound that it may not reach.
      choices: all that a text may be, where that is checked here.
      optional: whether it may be None.
      folder: whether it names a folder.
      earlier: the value of runs that were started before there was this key; None: no such runs.
    """

    kind: type
    about: str
    least: float | None = None
    most: float | None = None
    above: float | None = None
    choices: tuple[str, ...] = ()
    optional: bool = False
    folder: bool = False
    earlier: float | str | None = None

    @property
    def takes(self) -> str:
        """Its type and range in words, such as "int, at least 1"."""
        kind = "tuple of int" if self.kind is tuple else self.kind.__name__
        words = [kind + (" or None" if self.optional else "")]
        if self.least is not None and self.most is not None:
            words.append(f"{self.least} to {self.most}")
        elif self.least is not None:
            words.append(f"at least {self.least}")
        if self.above is not None:
            words.append(f"above {self.above}" + (f", at most {self.most}" if self.most else ""))
        if self.choices:
            words.append(" or ".join(map(repr, self.choices)))
        return ", ".join(words)


def _whole(about: str, least: int | None = None, **more: Any) -> Key:
    return Key(int, about, least, **more)


def _number(about: str, least: float | None = None, most: float | None = None, **more: Any) -> Key:
    return Key(float, about, least, most, **more)


def _text(about: str, *choices: str, **more: Any) -> Key:
    return Key(str, about, choices=choices, **more)


def _switch(about: str, **more: Any) -> Key:
    return Key(bool, about, **more)


def _stage(about: str, **more: Key) -> dict[str, Any]:
    return {
        "": about,
        "steps": _whole("optimizer steps; 0: as many as `epochs` need", 0),
        "epochs": _number(
            "how often each record of the suite is seen; 0: as often as in `steps`", 0, earlier=0.0
        ),
        "batch_size": _whole("rows a step, of a conversation or packed", 1),
        "learning_rate": _number("the highest, after warming up", 0),
        "train_vision": _switch("whether the vision tower trains"),
        "lora": _switch("whether adapters train in place of whole weights, if there are any"),
        "warmup": _number("share of the steps in which the rate rises", 0, 1),
        "weight_decay": _number("of AdamW", 0),
        "clip_norm": _number("norm that gradients are clipped to", above=0),
        "final_scale": _number("share of the rate that is left at the end of a cosine", 0),
        **more,
    }


def _supervised(about: str) -> dict[str, Any]:
    micro_batch = _whole("rows of one forward and backward pass; 0: all of a step's", 0, earlier=0)
    return _stage(about, micro_batch=micro_batch)


_DTYPES = ("float32", "bfloat16", "float16")

# Sections by name, keys within them; what a section is for stands under "".
_TREE: dict[str, Any] = {
    "seed": _whole("of weights, batches and samples", 0, most=2**32 - 1),
    "stages": _text(
        "which stages a run does: some of warm_up,passive,cold_start,ga_grpo",
        earlier="warm_up,passive,cold_start,ga_grpo",
    ),
    "start_from": _text(
        "WORKDIR:STAGE, the model that a finished stage of another run ended with: its shapes and "
        "its tokenizer are the run's; '': model.checkpoint, or random weights",
        earlier="",
        folder=True,
    ),
    "device": {
        "": "The devices that the run is for.",
        "platform": _text("'cpu', 'gpu' or 'tpu'"),
        "kind": _text("part of the device's name (H100), or a TPU generation (v5e); '': any"),
        "count": _whole("how many the run uses"),
        "topology": _text("TPU slice that plan compiles for, such as v5e:2x4; '': none"),
        "slices": _whole(
            "such slices, joined by the data centre's network: mesh.data's parts", 1, earlier=1
        ),
    },
    "mesh": {
        "": "How many parts each axis splits the devices into; -1: all that the others leave.",
        "data": _whole("copies of the weights, each with its rows of a batch"),
        "fsdp": _whole("parts of the weights, and of a batch's rows"),
        "context": _whole("parts of a row in training; rollouts split their questions over it"),
        "tensor": _whole("parts of every layer"),
    },
    "suite": {
        "": "The data: phantom procedures, as many a split and source, or your videos. "
        "Laparoscopic procedures are held out, out-of-domain.",
        "data_dir": _text("of tfds_builders.build: videos in place of phantoms", folder=True),
        "seed": _whole("of the phantom procedures"),
        "train_ophthalmic": _whole("procedures"),
        "train_endoscopic": _whole("procedures"),
        "validation_ophthalmic": _whole("procedures"),
        "validation_endoscopic": _whole("procedures"),
        "test_ophthalmic": _whole("procedures"),
        "test_endoscopic": _whole("procedures"),
        "test_laparoscopic": _whole("procedures"),
    },
    "video": {
        "": "How recordings become frames.",
        "fps": _number("frames a second of the frame bank", above=0),
        "height": _whole("pixels of a frame", 1),
        "width": _whole("pixels of a frame", 1),
        "max_frames": _whole("most frames of a video in the frame bank", 1),
        "min_frames": _whole("of a recording that has as many: a short one is read faster", 1),
        "resample": _text(
            "how recordings' frames are resized; 'bicubic': as Qwen's", "area", "bicubic"
        ),
        "stored_bank": _text(
            "'bfloat16', 'int8', 'float32': frame tokens are kept in DIR/banks and read from there"
        ),
        "native_pairs": _switch("whether two frames share a bank frame, as in Qwen's video mode"),
    },
    "dialogue": {
        "": "How conversations become tokens.",
        "vocab_size": _whole("of the tokenizer that the run makes", 1),
        # Phantom procedures are written for at least eight.
        "preview_frames": _whole("frames of the whole video that a question comes with", 8),
        "window_frames": _whole("most frames that a tool shows", 2),
        "frame_format": _text("how a frame and its time in seconds are written"),
        "response_format": _text("how that which a tool shows is written"),
        "length": _whole("positions of an episode", 1),
        "clip_length": _whole("positions of a stage-1 episode: one clip, no tools", 1),
        "packed": Key(
            bool,
            "whether a row of warm_up, cold_start and passive holds several conversations, as many "
            "as fit; their batch_size counts rows",
            earlier=False,
        ),
        "max_tool_turns": _whole("most turns of an episode that call a tool", 1),
    },
    "model": {
        "": "The model: how it starts, and how it computes.",
        "checkpoint": _text(
            "folder of convert import to start from: its shapes stand for those below, its "
            "tokenizer for the suite's; '': random weights",
            folder=True,
        ),
        "vision": {
            "": "The vision tower's shape.",
            "depth": _whole("blocks", 1),
            "hidden_size": _whole("width of a patch", 1),
            "intermediate_size": _whole("width within a block's MLP", 1),
            "num_heads": _whole("attention heads", 1),
            "patch_size": _whole("pixels a side of a patch", 1),
            "spatial_merge_size": _whole("patches a side that become one token", 1),
            "temporal_patch_size": _whole("frames a patch", 1),
            "window_size": _whole("pixels a side of an attention window", 1),
            "fullatt_block_indexes": Key(tuple, "blocks that attend over the whole frame", 0),
            "initializer_range": _number("standard deviation of random weights", above=0),
        },
        "text": {
            "": "The decoder's shape.",
            "hidden_size": _whole("width of a token", 1),
            "intermediate_size": _whole("width within a layer's MLP", 1),
            "num_hidden_layers": _whole("layers", 1),
            "num_attention_heads": _whole("heads of queries", 1),
            "num_key_value_heads": _whole("heads of keys and values", 1),
            "rope_theta": _number("base of the rotary frequencies", above=0),
            "mrope_section": Key(tuple, "rotary frequencies for time, height and width", 0),
            "tie_word_embeddings": _switch("whether one table embeds tokens and scores them"),
            "initializer_range": _number("standard deviation of random weights", above=0),
        },
        "dtype": _text("of activations and matrix products", *_DTYPES),
        "param_dtype": _text("of the weights that train", *_DTYPES),
        "remat": _switch("whether the backward pass computes layers again: less memory"),
        "remat_policy": _text(
            "what a layer keeps all the same: 'full' nothing, 'attention' what attention gave, "
            "'dots' the result of every matrix product"
        ),
        "lora": {
            "": "Adapters on the decoder's projections.",
            "rank": _whole("0: no adapters, every stage trains whole weights"),
            "alpha": _number("an adapter's product counts alpha / rank"),
            "targets": _text("the projections that have one"),
            "base": _text("frozen weights: 'float32', 'bfloat16', 'int8' (decoder's kernels)"),
        },
    },
    "warm_up": _supervised("Stage 1, warm-up SFT: captions and questions about clips."),
    "cold_start": _supervised(
        "Stage 2, visual-CoT cold start: tool trajectories and easy questions, from the frame bank."
    ),
    "passive": _supervised(
        "The baseline that cannot look: the same start and data as stage 2, answers from the "
        "preview."
    ),
    "ga_grpo": _stage("Stage 3, GA-GRPO; its batch_size counts questions."),
    "rl": {
        "": "How stage 3 samples and learns.",
        "group_size": _whole("rollouts a question; a group of one has no advantage", 2),
        "updates": _whole("optimizer steps on one batch of rollouts", 1),
        "parts": _whole("of a batch: the judge reads one while the next rolls out", 1),
        "lag": _whole(
            "1: a batch is rolled out by the weights before the last update, on the device while "
            "the batch before is judged; 0: by the newest weights, exactly on-policy",
            0,
            most=1,
            earlier=0,
        ),
        "resample": _whole(
            "most further batches to roll out, a step, for groups to take the place of those whose "
            "rollouts are all rewarded alike (DAPO's dynamic sampling)",
            0,
        ),
        "micro_batch": _whole("rows of one forward and backward pass", 1),
        "kl_coefficient": _number(
            "keeps what stage 2 knew: without, answers out of domain suffer; the paper: 0 or 0.04",
            0,
        ),
        "kl_reference": _text("'start': the policy stage 3 starts from; 'base': adapters off"),
    },
    "rollout": {
        "": "How conversations are sampled.",
        "temperature": _number("of the sampling", above=0),
        "top_p": _number("share of the probability that is sampled from", most=1, above=0),
        "turn_tokens": _whole("most tokens of a turn; a longer one ends its rollout", 1),
        "call_tokens": _whole("most tokens of a tool call", 1),
        "prefill_rows": _whole("rows whose prompts or observations are read together", 1),
        "slots": _whole(
            "rows that run at once on each device's part of a batch; one that is done makes room "
            "for the next, so none waits for the longest; 0: all",
            0,
        ),
        "prefill_tokens": _whole(
            "of a prompt or an observation, read at a time: bounds attention's scores; 0: all", 0
        ),
        "kv_dtype": _text("of the key-value cache; '': the model's", "", "int8"),
        "weights_dtype": _text(
            "of the decoder's kernels in stage 3's rollouts; '': the trained ones'. With int8 the "
            "policy that samples is another: see loss.importance_cap",
            "",
            "int8",
            earlier="",
        ),
        "tensor": _whole(
            "parts of every layer in rollouts, a multiple of mesh.tensor, also where there are "
            "fewer key-value heads; 0: mesh.tensor",
            0,
            earlier=0,
        ),
    },
    "reward": {
        "": "What a rollout earns: rl/rewards.py. benchmarks/ablation.py compares.",
        "h0": _number("IoU from which a window counts as on target", 0, 1),
        "delta": _number("IoU gain of one bonus step above h0", above=0),
        "eta": _number("bonus of one step", 0),
        "alpha": _number("scale of the crop reward's main term", 0),
        "frame_window": _number("seconds over which a frame time's reward falls to 0", above=0),
        "answer_weight": _number("of the answer, in the total", 0),
        "format_weight": _number("of the format, in the total", 0),
        "evidence_weight": _number("of the evidence, in the total", 0),
        "overlong": _whole("written tokens from which a rollout loses 1; 0: none", 0, earlier=0),
        "overlong_buffer": _whole("tokens below that, over which it begins", 0, earlier=0),
        "crop_reward": _text("'smooth', or 'step' as in the paper"),
        "scored_calls": _text("'last', or 'each' as in the paper"),
    },
    "advantage": {
        "": "How evidence modulates a group's advantages: rl/advantages.py.",
        "mode": _text("'binary', 'continuous', or 'none': plain group advantages"),
        "baseline": _text("'mean' of the group, or 'leave-one-out' (RLOO)", earlier="mean"),
        "per_source": _switch(
            "whether advantages are divided by their source's deviation", earlier=False
        ),
        "good_scale": _number("binary: factor where advantage and evidence agree", 0),
        "bad_scale": _number("binary: factor where they disagree", 0),
        "alpha": _number("continuous: slope", 0),
        "clip": _number("continuous: bound of the fidelity", 0),
        "min_scale": _number("continuous: smallest factor", 0),
        "normalize_by_std": _switch("whether advantages are divided by their group's deviation"),
        "std_epsilon": _number("added to that deviation", above=0),
    },
    "loss": {
        "": "The policy loss: rl/loss.py.",
        "kind": _text("'ppo', 'gspo' or 'cispo'", earlier="ppo"),
        "clip_low": _number("the ratio is at least 1 - clip_low", 0, 1),
        "clip_high": _number("the ratio is at most 1 + clip_high", 0),
        "dual_clip": _number(
            "more than 1: bounds the loss where the advantage is negative", above=0
        ),
        "aggregation": _text(
            "'token-mean' over all tokens; 'seq-mean-token-sum' and 'seq-mean-token-mean': over "
            "a rollout's tokens, then a mean over rollouts; 'constant-length': by `horizon`"
        ),
        "horizon": _whole("tokens that 'constant-length' divides by, else 0", 0, earlier=0),
        "entropy": _number("coefficient of an entropy bonus", 0, earlier=0.0),
        "importance_cap": _number(
            "tokens weigh as the learning policy's probability to the sampler's, at most so much "
            "(truncated importance sampling; often 2): for rollout.weights_dtype and rl.lag; "
            "0: the clipped ratio is to the sampler's",
            0,
            earlier=0.0,
        ),
        "sequence_bound": _number(
            "leaves a rollout out whose mean ratio to the sampler is beyond this factor; 0: none",
            0,
            earlier=0.0,
        ),
    },
    "judge": {
        "": "Who judges answers: docs/judges.md. All of it may change when a run goes on.",
        "url": _text("of an OpenAI-compatible endpoint; '': the built-in judge"),
        "model": _text("its model's name"),
        "timeout": _number("seconds, of an attempt from its first byte to its last", above=0),
        "concurrency": _whole("requests in flight at once", 1),
        "temperature": _number(
            "None: left out, for models that take only their own", 0, optional=True, earlier=0.0
        ),
        "max_failed": _number(
            "share of a batch's answers without a score that ends the run", 0, 1, earlier=0.25
        ),
        "unscored": _text(
            "a rollout without a score is left out of its group, or has 0",
            *("left_out", "zero"),
            earlier="left_out",
        ),
    },
    "evaluation": {
        "": "Evaluation on a held out split.",
        "samples": _whole("of each grounding question, beside the greedy answer", 1),
        "rollouts": _whole("rows of one batch", 1),
        "traces": _whole("evidence traces in the report", 0),
        "every": _whole(
            "steps of a stage after which it is validated, its best checkpoint kept; 0: never",
            0,
            earlier=0,
        ),
        "questions": _whole("asked in a validation, at most", 1, earlier=64),
    },
    "log": {
        "": "What is written while training. It may change when a run goes on.",
        "every": _whole("steps a line of metrics.jsonl; stage 3 writes one a step", 1),
        "checkpoint_every": _whole("steps a checkpoint", 1),
        "checkpoint_minutes": _number("minutes a checkpoint, beside; 0: none", 0, earlier=0.0),
        "profile": _text(
            "FIRST:LAST, steps of each stage that are traced into DIR/profile; '': none", earlier=""
        ),
    },
}


def _leaves(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


_LEAVES = dict(_leaves(_TREE, ""))
# Every key by its dotted name, such as "rl.group_size".
KEYS: dict[str, Key] = {name: key for name, key in _LEAVES.items() if isinstance(key, Key)}
# What every section is for, by its dotted name, such as "model.lora".
SECTIONS: dict[str, str] = {
    name[:-1]: about for name, about in _LEAVES.items() if isinstance(about, str)
}
