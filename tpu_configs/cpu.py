"""A laptop: two cores, 6 GB of memory, no accelerator; the whole job in under 20 minutes.

`cpu.py:smoke` walks the same path in under two minutes, too small and short to learn much.
This file is also the schema: every other config has exactly these keys.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    """arg: "" for the default run, "smoke" for the short one."""
    if arg not in ("", "smoke"):
        raise ValueError(f"unknown argument {arg!r}: leave it out, or say 'smoke'")
    config = ConfigDict()
    config.seed = 0
    config.device = ConfigDict({"platform": "cpu", "kind": "", "count": 1, "topology": ""})
    # context: training splits the slots of its rows over it, rollouts their questions.
    config.mesh = ConfigDict({"data": 1, "fsdp": 1, "context": 1, "tensor": 1})

    # Procedures a split and source; laparoscopic ones are held out, out-of-domain.
    config.suite = ConfigDict(
        {
            "data_dir": "",  # of tfds_builders.build: your videos in place of phantom procedures
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
            "max_frames": 240,  # of the frame bank, a video
            # Of a recording that has as many: a short one is read at a higher rate than fps.
            "min_frames": 8,
            "resample": "area",  # how a recording asked about is resized; "bicubic": as Qwen's
            "stored_bank": "",  # "bfloat16", "int8", "float32": frame tokens are kept in DIR/banks
            "native_pairs": False,  # True: two frames share a bank frame, as in Qwen's video mode
        }
    )
    config.dialogue = ConfigDict(
        {
            "vocab_size": 1024,
            "preview_frames": 12,
            "window_frames": 16,
            "frame_format": "{frame}{time:.1f}",
            "response_format": "<tool_response>{response}</tool_response>",
            "length": 256,  # slots of an episode
            "clip_length": 224,  # slots of a stage-1 episode: one clip, no tools
            "max_tool_turns": 5,
        }
    )
    config.model = ConfigDict(
        {
            # Start from imported weights (a folder of convert import): their shapes stand for
            # those below, their tokenizer for the suite's. "": random weights.
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
            # What a layer keeps all the same: "full" nothing, "attention" what attention gave,
            # "dots" the result of every matrix product.
            "remat_policy": "full",
            "lora": {
                "rank": 0,  # 0: no adapters, every stage trains whole weights
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
        {"steps": 800, "batch_size": 32, "learning_rate": 2e-3, **everything}
    )
    # Stage 2, visual-CoT cold start: tool trajectories and easy questions, from the frame bank.
    config.cold_start = ConfigDict(
        {"steps": 450, "batch_size": 32, "learning_rate": 1e-3, **decoder}
    )
    # The baseline that cannot look: the same start, data and steps, answers from the preview.
    config.passive = ConfigDict({"steps": 300, "batch_size": 32, "learning_rate": 1e-3, **decoder})
    # Stage 3, GA-GRPO.
    config.ga_grpo = ConfigDict({"steps": 60, "batch_size": 16, "learning_rate": 1.5e-4, **decoder})
    config.rl = ConfigDict(
        {
            "group_size": 8,  # rollouts a question; ga_grpo.batch_size counts questions
            "updates": 1,  # optimizer steps on one batch of rollouts
            "parts": 1,  # of a batch of questions: the judge reads one while the next rolls out
            # Most further batches to roll out, a step, for groups to take the place of those whose
            # rollouts are all rewarded alike (DAPO's dynamic sampling).
            "resample": 0,
            "micro_batch": 32,  # rows of one forward and backward pass
            # Keeps what stage 2 knew: without, answers out of domain suffer. The paper: 0 or 0.04.
            "kl_coefficient": 0.04,
            "kl_reference": "start",  # the policy that stage 3 starts from; "base": adapters off
        }
    )
    config.rollout = ConfigDict(
        {
            "temperature": 1.0,
            "top_p": 1.0,
            "turn_tokens": 48,
            "call_tokens": 40,
            "prefill_rows": 8,
            # Rows that run at once on each device's part of a batch; one that is done makes room
            # for the next, so none waits for the longest. 0: all.
            "slots": 0,
            # Of a prompt or an observation, read at a time: bounds attention's scores. 0: all.
            "prefill_tokens": 0,
            "kv_dtype": "",  # of the key-value cache: the model's; "int8" takes half of bfloat16
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
            "scored_calls": "last",  # "each" is the paper's; benchmarks/ablation.py compares them
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
    # All of this section may change when a run goes on. docs/judges.md explains it.
    config.judge = ConfigDict(
        {
            "url": "",  # of an OpenAI-compatible endpoint; "": the built-in judge
            "model": "",
            "timeout": 30.0,  # seconds, of an attempt from its first byte to its last
            "concurrency": 8,
            "temperature": 0.0,  # None: left out, for models that take only their own
            "max_failed": 0.25,  # share of a batch's answers without a score that ends the run
            "unscored": "left_out",  # of its group; or "zero": a rollout without a score has 0
        }
    )
    # rollouts: rows of one batch; samples: of each grounding question, beside the greedy answer.
    config.evaluation = ConfigDict({"samples": 8, "rollouts": 128, "traces": 6})
    config.log = ConfigDict({"every": 10, "checkpoint_every": 100})

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
