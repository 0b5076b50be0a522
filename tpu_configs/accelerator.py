"""What the accelerator configs share: the phantom suite, ten times larger, a decoder of 12 layers.

Everything that is not said here is as in cpu.py. Steps and rates are scaled up from there, not
tuned on this hardware. With a size in its argument (`v5e.py:7b`), a config trains Qwen2.5-VL
instead: tpu_configs/published.py says what such a size changes below.
"""

from ml_collections import ConfigDict

from tpu_configs.cpu import get_config as get_cpu_config
from tpu_configs.published import Target, use_published_size


def accelerator_config(target: Target, device: dict, mesh: dict) -> ConfigDict:
    """The config of a target, on the device section and mesh of its file."""
    config = get_cpu_config()
    config.device.update(device)
    config.mesh.update(mesh)
    config.suite.update(
        {
            "train_ophthalmic": 1900,
            "train_endoscopic": 900,
            "validation_ophthalmic": 60,
            "validation_endoscopic": 30,
            "test_ophthalmic": 120,
            "test_endoscopic": 80,
            "test_laparoscopic": 100,
        }
    )
    config.video.update({"height": 56, "width": 112})
    config.dialogue.update(
        {"vocab_size": 2048, "length": 1024, "clip_length": 384, "packed": False}
    )
    config.model.vision.update(
        {
            "depth": 6,
            "hidden_size": 256,
            "intermediate_size": 512,
            "num_heads": 4,
            "window_size": 56,
            "fullatt_block_indexes": (2, 5),
            "initializer_range": 0.02,
        }
    )
    config.model.text.update(
        {
            "hidden_size": 512,
            "intermediate_size": 1536,
            "num_hidden_layers": 12,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "rope_theta": 10000.0,
            "mrope_section": (16, 8, 8),
            "initializer_range": 0.02,
        }
    )
    config.model.update({"dtype": "bfloat16", "remat": True})
    config.model.lora.rank = 64
    config.warm_up.update({"steps": 2000, "batch_size": 128, "learning_rate": 1e-3})
    config.cold_start.update({"steps": 1000, "batch_size": 128, "learning_rate": 5e-4})
    config.passive.update({"steps": 1000, "batch_size": 128, "learning_rate": 5e-4})
    config.ga_grpo.update({"steps": 200, "batch_size": 64, "learning_rate": 1e-4})
    config.rl.micro_batch = 128
    config.rollout.prefill_rows = 32
    config.evaluation.rollouts = 512
    config.log.update({"checkpoint_every": 200, "checkpoint_minutes": 20.0})
    use_published_size(config, target)
    return config
