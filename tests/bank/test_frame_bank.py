import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medscope_jax.bank import flat_index, flat_tokens, make_bank, stack_bank
from medscope_jax.video import Video

HEIGHT, WIDTH, S, D = 4, 6, 2, 8


def make_videos(lengths):
    rng = np.random.default_rng(0)
    return [
        Video(
            frames=rng.integers(0, 256, (n, HEIGHT, WIDTH, 3), dtype=np.uint8),
            times=np.arange(n) * 0.5 + v * 0.01,
            duration=n * 0.5 + 0.25,
        )
        for v, n in enumerate(lengths)
    ]


def stamp_ids(times):
    return [[int(10 * t)] * (1 + k % 2) for k, t in enumerate(times)]


@pytest.fixture
def encoder():
    """encode, and the list of shapes it was traced for."""
    traced = []
    weight = jax.random.normal(jax.random.key(0), (HEIGHT * WIDTH * 3, S * D)) / 16

    @jax.jit
    def encode(frames):
        traced.append(frames.shape)
        flat = frames.reshape(len(frames), -1).astype(jnp.float32) / 255
        return jnp.tanh(flat @ weight).reshape(-1, S, D)

    return encode, traced


def test_bank_holds_each_frame_once_in_its_place(encoder):
    encode, traced = encoder
    videos = make_videos([3, 7, 1])
    bank = make_bank(encode, videos, stamp_ids, batch_frames=4)

    assert traced == [(4, HEIGHT, WIDTH, 3)]  # one compilation, whatever the lengths
    assert bank.tokens.shape == (3, 7, S, D)
    np.testing.assert_array_equal(bank.length, [3, 7, 1])
    np.testing.assert_allclose(bank.duration, [1.75, 3.75, 0.75])
    for v, video in enumerate(videos):
        n = len(video.times)
        alone = np.concatenate([encode(np.stack([f] * 4))[:1] for f in video.frames])
        np.testing.assert_allclose(bank.tokens[v, :n], alone, atol=1e-6)
        np.testing.assert_allclose(bank.times[v, :n], video.times, rtol=1e-6)
        assert not bank.tokens[v, n:].any()
        assert np.isposinf(bank.times[v, n:]).all()
        assert (bank.stamps[v, n:] == -1).all()
        for t, ids in enumerate(stamp_ids(video.times)):
            np.testing.assert_array_equal(bank.stamps[v, t, : len(ids)], ids)
            assert (bank.stamps[v, t, len(ids) :] == -1).all()
    assert (bank.times.dtype, bank.stamps.dtype, bank.length.dtype) == (
        jnp.float32,
        jnp.int32,
        jnp.int32,
    )


def test_order_of_videos_changes_no_row(encoder):
    encode, _ = encoder
    videos = make_videos([3, 7, 1, 4])
    bank = make_bank(encode, videos, stamp_ids, batch_frames=4)
    order = np.array([2, 0, 3, 1])
    other = make_bank(encode, [videos[i] for i in order], stamp_ids, batch_frames=4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a[order], b, atol=1e-6, rtol=0), bank, other
    )


@pytest.mark.parametrize("batch_frames", [1, 3, 5, 64])
def test_chunking_and_padding_change_no_row(encoder, batch_frames):
    encode, _ = encoder
    videos = make_videos([3, 7])
    bank = make_bank(encode, videos, stamp_ids, batch_frames=4)
    other = make_bank(encode, videos, stamp_ids, batch_frames, max_frames=9, stamp_width=5)
    np.testing.assert_allclose(other.tokens[:, :7], bank.tokens, atol=1e-6)
    np.testing.assert_array_equal(other.times[:, :7], bank.times)
    np.testing.assert_array_equal(other.stamps[:, :7, :2], bank.stamps)
    np.testing.assert_array_equal(other.length, bank.length)
    assert other.tokens.shape == (2, 9, S, D) and other.stamps.shape == (2, 9, 5)
    assert np.isposinf(other.times[:, 7:]).all() and (other.stamps[:, :, 2:] == -1).all()


def test_flat_index_arithmetic(encoder):
    encode, _ = encoder
    bank = make_bank(encode, make_videos([3, 2]), stamp_ids, batch_frames=4)
    flat = flat_tokens(bank)
    assert flat.shape == (2 * 3 * S, D)
    own = np.arange(3 * S)  # a visual index counts within one video: t * S + s
    index = flat_index(np.array([1, 0]), np.stack([own, own]), 3 * S)
    np.testing.assert_array_equal(flat[index], bank.tokens[[1, 0]].reshape(2, 3 * S, D))
    index = flat_index(np.array([1, 0]), np.array([[-1, 2], [2, -1]]), 3 * S)
    np.testing.assert_array_equal(index, [[-1, 3 * S + 2], [2, -1]])


def test_token_dtype_is_kept():
    tokens = [np.ones((2, S, D), jnp.bfloat16), np.ones((1, S, D), jnp.bfloat16)]
    bank = stack_bank(tokens, [[0, 1], [0]], [[[1], [2]], [[3]]], [2.0, 1.0])
    assert bank.tokens.dtype == jnp.bfloat16


def test_disagreements_are_errors(encoder):
    encode, _ = encoder
    tokens = [np.zeros((2, S, D))]
    with pytest.raises(ValueError, match="as many"):
        stack_bank([], [], [], [])
    with pytest.raises(ValueError, match="as many"):
        stack_bank(tokens, [[0, 1]], [[[1], [2]]], [])
    with pytest.raises(ValueError, match="2 token blocks, 1 times"):
        stack_bank(tokens, [[0]], [[[1], [2]]], [2.0])
    with pytest.raises(ValueError, match="holds 1 a video"):
        stack_bank(tokens, [[0, 1]], [[[1], [2]]], [2.0], max_frames=1)
    with pytest.raises(ValueError, match="2 tokens, the bank holds 1"):
        stack_bank(tokens, [[0, 1]], [[[1], [2, 3]]], [2.0], stamp_width=1)
    video = make_videos([2])[0]
    other = Video(np.zeros((1, 2, 2, 3), np.uint8), np.zeros(1), 1.0)
    with pytest.raises(ValueError, match="one frame size"):
        make_bank(encode, [video, other], stamp_ids, batch_frames=4)
    with pytest.raises(ValueError, match="one frame size"):
        make_bank(encode, [], stamp_ids, batch_frames=4)
    with pytest.raises(ValueError, match="batch_frames"):
        make_bank(encode, [video], stamp_ids, batch_frames=0)
