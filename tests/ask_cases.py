"""What tests of `ask` and of the Python API share: a model that says what it is told to."""

import functools
import json

import jax.numpy as jnp

from medscope_jax.convert import import_folder
from medscope_jax.dialogue import build_episode, load_qwen_tokenizer, protocol
from medscope_jax.models import ModelConfig, TextConfig, VisionConfig
from medscope_jax.rollout import engine, make_rollout
from medscope_jax.video import preview_indices
from tests.dialogue import qwen_cases
from tests.models import weights_cases


def make_checkpoint(folder, kv_heads=1):
    """A tiny model of the family, as it would come from the hub, imported into folder."""
    serialized = qwen_cases.tiny()
    vision = VisionConfig(
        depth=2, hidden_size=32, intermediate_size=48, num_heads=2, window_size=56,
        fullatt_block_indexes=(1,), out_hidden_size=32,
    )  # fmt: skip
    text = TextConfig(
        vocab_size=1024, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=kv_heads, mrope_section=(4, 2, 2),
    )  # fmt: skip
    model = ModelConfig(vision, text)
    source = weights_cases.write_folder(
        folder / "hf", model, weights_cases.plain_weights(model, "float32")
    )
    (source / "tokenizer.json").write_bytes(serialized)
    tag = load_qwen_tokenizer(source).tag
    ends = {"eos_token_id": [tag(protocol.IM_END), tag(protocol.PAD)]}
    (source / "generation_config.json").write_text(json.dumps(ends))
    import_folder(source, folder / "checkpoint")
    return folder / "checkpoint"


def episode_tokens(run, video, question, turns):
    """Token ids of the conversation in which the model writes these turns."""
    shown = preview_indices(len(video.times), run.layout.preview_frames)
    row = build_episode(
        question, turns, shown, video.times, video.duration, run.tokenizer, run.layout, True
    )
    return row.tokens


def play_tokens(monkeypatch, tokens):
    """From now on the model writes these tokens, whatever it would say."""
    tokens = jnp.asarray(tokens, jnp.int32)

    def sample(scores, keys, position, temperature, top_p):
        return jnp.take(tokens, position, mode="clip"), jnp.zeros(position.shape)

    scripted = functools.partial(make_rollout, sampler=sample)
    monkeypatch.setattr(engine, "rollout_program", scripted)
