"""A laptop: two cores, 6 GB of memory, no accelerator; the whole job in some 20 minutes.

`cpu.py:smoke` walks the same path in two to four minutes, too small and short to learn much.
What each key means, its type and range: `python -m medscope_jax.train --help`, which is
medscope_jax/config_schema.py. Every other config has exactly these keys.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """arg: "" for the default run, "smoke" for the short one."""
    if arg not in ("", "smoke"):
        raise ValueError(f"unknown argument {arg!r}: leave it out, or say 'smoke'")
    config = ConfigDict()
    config.seed = 0
    config.stages, config.start_from = "warm_up,passive,cold_start,ga_grpo", ""
    config.device = ConfigDict(
        {"platform": "cpu", "kind": "", "count": 1, "topology": "", "slices": 1}
    )
    config.mesh = ConfigDict({"data": 1, "fsdp": 1, "context": 1, "tensor": 1})

    config.suite = ConfigDict(
        {
            "data_dir": "",
            "seed": 0,
            "train_ophthalmic": 290,
            "train_endoscopic": 130,
            "validation_ophthalmic": 12,
            "validation_endoscopic": 6,
            "test_ophthalmic": 24,
            "test_endoscopic": 16,
            "test_laparoscopic": 20,
        }
    )
    config.video = ConfigDict(
        {
            "fps": 1.0,
            "height": 28,
            "width": 56,
            "max_frames": 240,
            "min_frames": 8,
            "resample": "area",
            "stored_bank": "",
            "native_pairs": False,
        }
    )
    config.dialogue = ConfigDict(
        {
            "vocab_size": 1024,
            "preview_frames": 12,
            "window_frames": 16,
            "frame_format": "{frame}{time:.1f}",
            "response_format": "<tool_response>{response}</tool_response>",
            "length": 256,
            "clip_length": 224,
            "packed": True,
            "max_tool_turns": 5,
        }
    )
    config.model = ConfigDict(
        {
            "checkpoint": "",
            "vision": {
                "depth": 2,
                "hidden_size": 64,
                "intermediate_size": 128,
                "num_heads": 2,
                "patch_size": 14,
                "spatial_merge_size": 2,
                "temporal_patch_size": 2,
                "window_size": 28,
                "fullatt_block_indexes": (1,),
                "initializer_range": 0.05,
            },
            "text": {
                "hidden_size": 128,
                "intermediate_size": 384,
                "num_hidden_layers": 4,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "rope_theta": 100.0,
                "mrope_section": (8, 4, 4),
                "tie_word_embeddings": True,
                "initializer_range": 0.05,
            },
            "dtype": "float32",
            "param_dtype": "float32",
            "remat": False,
            "remat_policy": "full",
            "lora": {
                "rank": 0,
                "alpha": 128.0,
                "targets": "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj",
                "base": "bfloat16",
            },
        }
    )

    optimizer = {"warmup": 0.05, "weight_decay": 0.01, "clip_norm": 1.0, "final_scale": 0.1}
    # What trains: at first all; then the decoder, by adapters where model.lora.rank is not 0.
    everything = {"train_vision": True, "lora": False, **optimizer}
    decoder = {"train_vision": False, "lora": True, **optimizer}
    # Packed, a step holds about 32 conversations, of the passive baseline 23.
    supervised = {"epochs": 0.0, "micro_batch": 0}
    config.warm_up = ConfigDict(
        {"steps": 800, "batch_size": 14, **supervised, "learning_rate": 2e-3, **everything}
    )
    config.cold_start = ConfigDict(
        {"steps": 430, "batch_size": 28, **supervised, "learning_rate": 1e-3, **decoder}
    )
    config.passive = ConfigDict(
        {"steps": 300, "batch_size": 8, **supervised, "learning_rate": 1e-3, **decoder}
    )
    config.ga_grpo = ConfigDict(
        {"steps": 45, "epochs": 0.0, "batch_size": 16, "learning_rate": 2e-4, **decoder}
    )
    config.rl = ConfigDict(
        {
            "group_size": 8,
            "updates": 1,
            "parts": 1,
            "lag": 0,
            "resample": 0,
            "micro_batch": 32,
            "kl_coefficient": 0.04,
            "kl_reference": "start",
        }
    )
    config.rollout = ConfigDict(
        {
            "temperature": 1.0,
            "top_p": 1.0,
            "turn_tokens": 48,
            "call_tokens": 40,
            "prefill_rows": 8,
            "slots": 0,
            "prefill_tokens": 0,
            "kv_dtype": "",
            "weights_dtype": "",
            "tensor": 0,
        }
    )
    config.reward = ConfigDict(
        {
            "h0": 0.5,
            "delta": 0.05,
            "eta": 0.1,
            "alpha": 1.0,
            "frame_window": 1.0,
            "answer_weight": 1.0,
            "format_weight": 1.0,
            "evidence_weight": 1.0,
            "overlong": 0,
            "overlong_buffer": 0,
            "crop_reward": "smooth",
            "scored_calls": "last",
        }
    )
    config.advantage = ConfigDict(
        {
            "mode": "binary",
            "baseline": "mean",
            "per_source": False,
            "good_scale": 1.2,
            "bad_scale": 0.8,
            "alpha": 0.2,
            "clip": 1.0,
            "min_scale": 0.1,
            "normalize_by_std": False,
            "std_epsilon": 1e-6,
        }
    )
    config.loss = ConfigDict(
        {
            "kind": "ppo",
            "clip_low": 0.2,
            "clip_high": 0.2,
            "dual_clip": 3.0,
            "aggregation": "token-mean",
            "horizon": 0,
            "entropy": 0.0,
            "importance_cap": 0.0,
            "sequence_bound": 0.0,
        }
    )
    config.judge = ConfigDict(
        {
            "url": "",
            "model": "",
            "timeout": 30.0,
            "concurrency": 8,
            "temperature": 0.0,
            "max_failed": 0.25,
            "unscored": "left_out",
        }
    )
    config.evaluation = ConfigDict(
        {"samples": 8, "rollouts": 128, "traces": 6, "every": 0, "questions": 64}
    )
    config.log = ConfigDict(
        {"every": 10, "checkpoint_every": 100, "checkpoint_minutes": 0.0, "profile": ""}
    )

    if arg == "smoke":
        config.model.text.num_hidden_layers = 2  # most of its time is compiling
        config.suite.train_ophthalmic, config.suite.train_endoscopic = 10, 6
        config.suite.validation_ophthalmic, config.suite.validation_endoscopic = 2, 2
        config.suite.test_ophthalmic, config.suite.test_endoscopic = 3, 3
        config.suite.test_laparoscopic = 2
        for stage in (config.warm_up, config.cold_start, config.passive):
            stage.steps, stage.batch_size = 12, 8
        config.ga_grpo.steps, config.ga_grpo.batch_size, config.rl.group_size = 2, 8, 4
        config.rollout.prefill_rows = 8
        # As stage 3 does: one program samples for both.
        config.evaluation.samples, config.evaluation.rollouts = 4, 32
        config.log.every, config.log.checkpoint_every = 3, 6
    return config
