"""The peers' way writes what the compiled rollout writes, tool calls and all."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from benchmarks.peers_video import crop_whole, crop_window
from benchmarks.rollouts import measure
from benchmarks.rollouts_report import print_report
from benchmarks.trained import machine
from medscope_jax.dialogue import Layout, protocol, train_tokenizer
from medscope_jax.models import init_params, model_config
from medscope_jax.rollout import vocabulary
from medscope_jax.training.run import Run
from medscope_jax.video import read_video

SIZE = (28, 56)
LAYOUT = Layout(
    length=224,
    preview_frames=4,
    window_frames=5,
    grid=(1, 2),
    frame_format="{time:.1f}{frame}",
    max_tool_turns=3,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A workdir with two recordings of moving blocks, 20 and 31 s at 4 frames a second."""
    folder = tmp_path_factory.mktemp("peers")
    videos = folder / "suite" / "videos"
    videos.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, seconds in (("a", 20), ("b", 31)):
        writer = cv2.VideoWriter(
            str(videos / f"{name}.mp4"), cv2.VideoWriter_fourcc(*"mp4v"), 4, (112, 56)
        )
        for _ in range(4 * seconds):
            blocks = rng.integers(0, 255, (4, 8, 3), dtype=np.uint8)
            writer.write(np.kron(blocks, np.ones((14, 14, 1), np.uint8)))
        writer.release()
    return folder


def chatter(tokenizer, model):
    """Parameters of a model that writes turns and calls, right and wrong ones, after its context.

    The head holds which tokens may follow a token; what the layers make of the context decides.
    """
    params = init_params(model, jax.random.key(1))
    params = jax.tree.map(lambda x: x * 6 if x.ndim > 2 else x, params)
    rng = np.random.default_rng(1)
    size, width = model.text.vocab_size, model.text.hidden_size
    embedding = rng.normal(size=(size, width)) / width**0.5
    head = 0.5 * rng.normal(size=(width, size))
    crop, middle, frame, end = protocol.CALL_PHRASES
    ticks = [f"{second}.0" for second in range(40)]
    follows = {
        "assistant\n": ["<think>"],
        "<think>": ["so"],
        "so": ["</think>"],
        "</think>": ["<tool_call>", "<answer>"],
        "<tool_call>": [crop, frame],
        crop: ticks,
        middle: ticks,
        frame: ticks,
        **{tick: [middle, end] for tick in ticks},
        end: ["</tool_call>"],
        "<answer>": ["left"],
        "left": ["</answer>"],
        "</answer>": [protocol.IM_END],
    }
    for text, successors in follows.items():
        row = embedding[tokenizer.encode(text)[-1]]
        for successor in successors:
            head[:, tokenizer.encode(successor)[0]] += 3 * row / np.linalg.norm(row)
    text = params["text"] | {
        "embed_tokens": jnp.asarray(embedding, jnp.float32),
        "lm_head": jnp.asarray(head, jnp.float32),
    }
    return params | {"text": text}


@pytest.fixture(scope="module")
def world(folder):
    """A Run that is just enough for a rollout, and parameters."""
    tokenizer = train_tokenizer(["so left where is it?", "so", "left"] * 20, 1024, 40)
    text = {"vocab_size": tokenizer.vocab_size, "hidden_size": 64, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 48}
    text |= {"mrope_section": (8, 4, 4), "tie_word_embeddings": False}
    vision = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2}
    vision |= {"window_size": 28, "fullatt_block_indexes": (0,)}
    model = model_config({"text": text, "vision": vision})
    rollout = {"turn_tokens": 16, "call_tokens": 12, "prefill_rows": 3}
    rollout |= {"temperature": 1.0, "top_p": 1.0}
    video = {"fps": 1.0, "height": SIZE[0], "width": SIZE[1], "max_frames": 40}
    config = ConfigDict({"rollout": rollout, "video": video})
    words = vocabulary(tokenizer, LAYOUT)
    run = Run(config, folder, None, tokenizer, words, model, LAYOUT, LAYOUT)
    return run, chatter(tokenizer, model)


@pytest.mark.parametrize("crop", [crop_window, crop_whole])
def test_windows_are_the_readers_frames(folder, crop):
    path = folder / "suite" / "videos" / "b.mp4"
    video = read_video(path, 1.0, SIZE)
    for chosen in ([0], [3, 4, 5], [7, 13, 29], [30]):
        frames = crop(path, video.times[chosen], 1.0, SIZE)
        np.testing.assert_array_equal(frames, video.frames[chosen])


def test_both_ways_write_the_same_tokens(world, capsys):
    questions = ["where is it?", "is it left?", "so where?", "left?", "where so?", "it?"]
    records = [{"video": "ab"[i % 2], "question": text} for i, text in enumerate(questions)]
    result = measure(*world, records, group=2, whole=False, repeats=1)
    assert result["rows"] == 12 and result["videos"] == 2
    assert result["rows_differing"] == result["rows_retokenized_differently"] == 0
    assert result["windows_decoded_differently"] == 0
    assert result["ours"]["tokens"] == result["peers"]["tokens"] > 0
    # Otherwise the test would show little: rows look, and not all of them as often.
    assert 12 < result["tool_calls"] < 12 * LAYOUT.max_tool_turns
    print_report(result | {"machine": machine()})
    assert "0 of 12 rows differ" in capsys.readouterr().out
