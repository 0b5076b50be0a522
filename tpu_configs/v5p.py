"""TPU v5p: the phantom suite, ten times larger, and a decoder of 12 layers.

`v5p.py` is the 4-chip slice 2x2x1, `v5p.py:topology=2x2x2` a larger one. A chip offers
95.73 GiB; `python -m medscope_jax.plan --config tpu_configs/v5p.py` says what is used of it,
on any machine. Steps and rates are scaled up from cpu.py's, not tuned on this hardware.

`v5p.py:7b,topology=2x4x4` trains Qwen2.5-VL's 7B by adapters, `3b,full` all weights of its 3B:
`medscope_jax/published.py` says what such a size changes below.
"""

from ml_collections import ConfigDict

from medscope_jax.published import read_target, use_published_size


def get_config(arg: str = "") -> ConfigDict:
    """arg: parts such as "topology=SHAPE" (in chips) or "7b,full", see medscope_jax.published."""
    target = read_target(arg, topology="2x2x1")
    config = ConfigDict()
    config.seed = 0
    config.device = ConfigDict(
        {
            "platform": "tpu",
            "kind": "v5p",
            "count": target.chips,
            "topology": f"v5p:{target.topology}",
        }
    )
    config.mesh = ConfigDict({"data": -1, "fsdp": 2, "tensor": 2})  # -1: the rest

    # Procedures a split and source; laparoscopic ones are held out, out-of-domain.
    config.suite = ConfigDict(
        {
            "data_dir": "",  # of tfds_builders.build: your videos in place of phantom procedures
            "seed": 0,
            "train_ophthalmic": 1900,
            "train_endoscopic": 900,
            "validation_ophthalmic": 60,
            "validation_endoscopic": 30,
            "test_ophthalmic": 120,
            "test_endoscopic": 80,
            "test_laparoscopic": 100,
        }
    )
    config.video = ConfigDict(
        {
            "fps": 1.0,
            "height": 56,
            "width": 112,
            "max_frames": 240,  # of the frame bank, a video
            "resample": "area",  # how a recording asked about is resized; "bicubic": as Qwen's
            "stored_bank": "",  # "bfloat16", "int8", "float32": frame tokens are kept in DIR/banks
            "native_pairs": False,  # True: two frames share a bank frame, as in Qwen's video mode
        }
    )
    config.dialogue = ConfigDict(
        {
            "vocab_size": 2048,
            "preview_frames": 12,
            "window_frames": 16,
            "frame_format": "{frame}{time:.1f}",
            "response_format": "<tool_response>{response}</tool_response>",
            "length": 1024,  # slots of an episode
            "clip_length": 384,  # slots of a stage-1 episode: one clip, no tools
            "max_tool_turns": 5,
        }
    )
    config.model = ConfigDict(
        {
            # Start from imported weights (a folder of convert import): their shapes stand for
            # those below, their tokenizer for the suite's. "": random weights.
            "checkpoint": "",
            "vision": {
                "depth": 6,
                "hidden_size": 256,
                "intermediate_size": 512,
                "num_heads": 4,
                "patch_size": 14,
                "spatial_merge_size": 2,
                "temporal_patch_size": 2,
                "window_size": 56,
                "fullatt_block_indexes": (2, 5),
                "initializer_range": 0.02,
            },
            "text": {
                "hidden_size": 512,
                "intermediate_size": 1536,
                "num_hidden_layers": 12,
                "num_attention_heads": 8,
                "num_key_value_heads": 4,
                "rope_theta": 10000.0,
                "mrope_section": (16, 8, 8),
                "tie_word_embeddings": True,
                "initializer_range": 0.02,
            },
            "dtype": "bfloat16",
            "param_dtype": "float32",
            "remat": True,
            "lora": {
                "rank": 64,  # 0: no adapters, every stage trains whole weights
                "alpha": 128.0,  # an adapter's product counts alpha / rank
                "targets": "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj",
                "base": "bfloat16",  # frozen weights: float32, bfloat16, int8 (decoder's kernels)
            },
        }
    )

    optimizer = {"warmup": 0.05, "weight_decay": 0.01, "clip_norm": 1.0, "final_scale": 0.1}
    # What trains: at first all; then the decoder, by adapters where model.lora.rank is not 0.
    everything = {"train_vision": True, "lora": False, **optimizer}
    decoder = {"train_vision": False, "lora": True, **optimizer}
    # Stage 1, warm-up SFT: captions and questions about clips; the vision tower trains.
    config.warm_up = ConfigDict(
        {"steps": 2000, "batch_size": 128, "learning_rate": 1e-3, **everything}
    )
    # Stage 2, visual-CoT cold start: tool trajectories and easy questions, from the frame bank.
    config.cold_start = ConfigDict(
        {"steps": 1000, "batch_size": 128, "learning_rate": 5e-4, **decoder}
    )
    # The baseline that cannot look: the same start, data and steps, answers from the preview.
    config.passive = ConfigDict(
        {"steps": 1000, "batch_size": 128, "learning_rate": 5e-4, **decoder}
    )
    # Stage 3, GA-GRPO.
    config.ga_grpo = ConfigDict({"steps": 200, "batch_size": 64, "learning_rate": 1e-4, **decoder})
    config.rl = ConfigDict(
        {
            "group_size": 8,  # rollouts a question; ga_grpo.batch_size counts questions
            "updates": 1,  # optimizer steps on one batch of rollouts
            "micro_batch": 128,  # rows of one forward and backward pass
            "kl_coefficient": 0.0,
            "kl_reference": "start",  # the policy that stage 3 starts from; "base": adapters off
        }
    )
    config.rollout = ConfigDict(
        {
            "temperature": 1.0,
            "top_p": 1.0,
            "turn_tokens": 48,
            "call_tokens": 40,
            "prefill_rows": 32,
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
            "crop_reward": "smooth",  # "step" is the paper's; benchmarks/ablation.py compares them
            "looks": "last",  # "each" is the paper's; benchmarks/ablation.py compares them
        }
    )
    config.advantage = ConfigDict(
        {
            "mode": "binary",
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
        {"clip_low": 0.2, "clip_high": 0.2, "dual_clip": 3.0, "aggregation": "token-mean"}
    )
    config.judge = ConfigDict(
        {"url": "", "model": "", "timeout": 30.0, "concurrency": 8}  # no url: the built-in judge
    )
    config.evaluation = ConfigDict({"samples": 8, "rollouts": 512, "traces": 6})
    config.log = ConfigDict({"every": 10, "checkpoint_every": 200})
    use_published_size(config, target)
    return config
