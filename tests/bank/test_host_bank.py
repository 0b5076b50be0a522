"""Banks of videos of any length, side by side on the host, and what a batch takes from them."""

import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medscope_jax.bank import flat_index, flat_tokens, host_bank, make_bank, put_videos, stack_bank
from medscope_jax.distributed import bank_shardings, batch_shardings, make_mesh
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
    return [[int(100 * t)] * (1 + int(2 * t) % 2) for t in times]


def padded_by_hand(tokens, videos, frames, width=2):
    """What every split's bank was before: one array of videos as long as the longest may be.

    tokens: V arrays [T_v, S, D].
    """
    shape = (len(videos), frames)
    found = {
        "tokens": np.zeros((*shape, *tokens[0].shape[1:]), tokens[0].dtype),
        "times": np.full(shape, np.inf, np.float32),
        "stamps": np.full((*shape, width), -1, np.int32),
        "length": np.array([len(video.times) for video in videos], np.int32),
        "duration": np.array([video.duration for video in videos], np.float32),
    }
    for v, video in enumerate(videos):
        found["tokens"][v, : len(tokens[v])] = tokens[v]
        found["times"][v, : len(video.times)] = video.times
        for t, ids in enumerate(stamp_ids(video.times)):
            found["stamps"][v, t, : len(ids)] = ids
    return found


def assert_bank(bank, expected):
    for name, leaf in expected.items():
        found = np.asarray(getattr(bank, name))
        assert found.dtype == leaf.dtype, name
        np.testing.assert_array_equal(found, leaf, err_msg=name)


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
    assert bank.first.tolist() == [0, 3, 10, 11] and bank.length.tolist() == [3, 7, 1]
    frames = np.concatenate([video.frames for video in videos] + [np.zeros_like(videos[2].frames)])
    flat = np.concatenate([encode(frames[at : at + 4]) for at in (0, 4, 8)])
    tokens = [flat[0:3], flat[3:10], flat[10:11]]
    assert_bank(bank.padded(), padded_by_hand(tokens, videos, 7))
    for v, video in enumerate(videos):
        alone = np.concatenate([encode(np.stack([f] * 4))[:1] for f in video.frames])
        np.testing.assert_allclose(tokens[v], alone, atol=1e-6)
        np.testing.assert_array_equal(bank.tokens.read(v, slice(None)), tokens[v])


def test_visual_tokens_are_those_of_the_padded_bank(encoder):
    """By their index within the video, in any order, several times; no other frame is read."""
    encode, _ = encoder
    bank = make_bank(encode, make_videos([3, 7, 1]), stamp_ids, batch_frames=4)
    flat, read = flat_tokens(bank.padded(np.array([1]))), []
    tokens = bank.tokens

    class Watched:
        shape, dtype = tokens.shape, tokens.dtype

        def read(self, video, frames):
            read.append((video, frames.tolist()))
            return tokens.read(video, frames)

    object.__setattr__(bank, "tokens", Watched())
    index = np.array([9, 8, 3, 9, 0])
    np.testing.assert_array_equal(bank.visual(1, index), flat[index])
    assert read == [(1, [0, 1, 4])]
    assert bank.visual(0, index[:0]).shape == (0, D)


@pytest.mark.parametrize("axes", [{}, {"data": 2}, {"data": 2, "context": 2}])
@pytest.mark.parametrize("shardings_of", [batch_shardings, bank_shardings])
def test_a_batch_is_what_it_was_with_the_padded_bank(encoder, axes, shardings_of):
    """To the bit, on any mesh, a video twice; videos that no device takes are not read."""
    encode, _ = encoder
    videos = make_videos([3, 7, 1, 5, 2, 6])
    bank = make_bank(encode, videos, stamp_ids, batch_frames=4, max_frames=9)
    tokens = [bank.tokens.read(v, slice(None)) for v in range(len(videos))]
    places = np.array([4, 1, 1, 2])
    mesh = make_mesh(axes, jax.devices()[: 2 ** len(axes)])
    found = put_videos(bank, places, mesh, shardings_of)
    expected = padded_by_hand([tokens[p] for p in places], [videos[p] for p in places], 9)
    assert_bank(found, expected)
    shapes = jax.eval_shape(lambda bank: bank, found)
    assert jax.tree.map(lambda leaf: leaf.sharding, found) == shardings_of(shapes, mesh)


def test_a_batch_has_one_of_few_lengths(encoder, monkeypatch):
    """That of its longest video, rounded up to a power of two; small videos are not worth one."""
    encode, _ = encoder
    bank = make_bank(encode, make_videos([3, 7, 1, 60, 20]), stamp_ids, 4, max_frames=60)
    frames = lambda *places: bank.frames_on_device(np.array(places))  # noqa: E731
    assert frames(0) == frames(3) == 60
    monkeypatch.setattr(host_bank, "_PADDED_FREELY", 4 * S * D * 4)
    assert [frames(v) for v in range(5)] == [4, 8, 4, 60, 32]
    assert frames(2, 4) == 32 and frames(2, 1) == 8 and frames(3, 2) == 60
    mesh = make_mesh({}, jax.devices()[:1])
    for places in ([0, 2], [4, 1]):  # whatever the length, what is not padding is the same
        found = put_videos(bank, np.array(places), mesh, batch_shardings)
        whole, size = bank.padded(np.array(places)), frames(*places)
        assert found.tokens.shape == (2, size, S, D)
        for name in ("tokens", "times", "stamps"):
            np.testing.assert_array_equal(getattr(found, name), getattr(whole, name)[:, :size])


def test_memory_is_that_of_the_frames(encoder):
    """One long video among many short ones; nothing is held twice while the bank is made."""

    def encode(frames):
        return np.full((len(frames), 64, 64), np.float32(1.5))

    def videos(lengths):
        still = np.zeros((1, HEIGHT, WIDTH, 3), np.uint8)
        return [Video(np.repeat(still, n, 0), np.arange(n) * 1.0, float(n)) for n in lengths]

    asked = videos([2000] + [1] * 200)
    tracemalloc.start()
    bank = make_bank(encode, asked, stamp_ids, batch_frames=16, max_frames=4000)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    own = 2200 * 64 * 64 * 4
    assert own <= held < 1.05 * own and peak < 1.1 * own
    assert bank.length.sum() == 2200


def test_order_of_videos_changes_no_row(encoder):
    encode, _ = encoder
    videos = make_videos([3, 7, 1, 4])
    bank = make_bank(encode, videos, stamp_ids, batch_frames=4)
    order = np.array([2, 0, 3, 1])
    other = make_bank(encode, [videos[i] for i in order], stamp_ids, batch_frames=4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6, rtol=0),
        bank.padded(order),
        other.padded(),
    )


@pytest.mark.parametrize("batch_frames", [1, 3, 5, 64])
def test_chunking_and_padding_change_no_row(encoder, batch_frames):
    encode, _ = encoder
    videos = make_videos([3, 7])
    bank = make_bank(encode, videos, stamp_ids, batch_frames=4).padded()
    other = make_bank(encode, videos, stamp_ids, batch_frames, max_frames=9, stamp_width=5).padded()
    np.testing.assert_allclose(other.tokens[:, :7], bank.tokens, atol=1e-6)
    np.testing.assert_array_equal(other.times[:, :7], bank.times)
    np.testing.assert_array_equal(other.stamps[:, :7, :2], bank.stamps)
    np.testing.assert_array_equal(other.length, bank.length)
    assert other.tokens.shape == (2, 9, S, D) and other.stamps.shape == (2, 9, 5)
    assert np.isposinf(other.times[:, 7:]).all() and (other.stamps[:, :, 2:] == -1).all()


def test_flat_index_arithmetic(encoder):
    encode, _ = encoder
    bank = make_bank(encode, make_videos([3, 2]), stamp_ids, batch_frames=4).padded()
    flat = flat_tokens(bank)
    assert flat.shape == (2 * 3 * S, D)
    own = np.arange(3 * S)  # a visual index counts within one video: t * S + s
    index = flat_index(np.array([1, 0]), np.stack([own, own]), 3 * S)
    np.testing.assert_array_equal(flat[index], bank.tokens[[1, 0]].reshape(2, 3 * S, D))
    index = flat_index(np.array([1, 0]), np.array([[-1, 2], [2, -1]]), 3 * S)
    np.testing.assert_array_equal(index, [[-1, 3 * S + 2], [2, -1]])


def test_token_dtype_is_kept():
    tokens = [np.ones((2, S, D), jnp.bfloat16), np.ones((1, S, D), jnp.bfloat16)]
    bank = stack_bank(tokens, [[0, 1], [0]], [2.0, 1.0], stamp_ids)
    assert bank.tokens.dtype == bank.padded().tokens.dtype == jnp.bfloat16


def test_disagreements_are_errors(encoder):
    encode, _ = encoder
    tokens = [np.zeros((2, S, D))]
    with pytest.raises(ValueError, match="as many"):
        stack_bank([], [], [], stamp_ids)
    with pytest.raises(ValueError, match="as many"):
        stack_bank(tokens, [[0, 1]], [], stamp_ids)
    with pytest.raises(ValueError, match="2 token blocks and 1 times"):
        stack_bank(tokens, [[0]], [2.0], stamp_ids)
    with pytest.raises(ValueError, match="holds 1 a video"):
        stack_bank(tokens, [[0, 1]], [2.0], stamp_ids, max_frames=1)
    with pytest.raises(ValueError, match="2 tokens, the bank holds 1"):
        stack_bank(tokens, [[0, 0.5]], [2.0], stamp_ids, stamp_width=1)
    video = make_videos([2])[0]
    other = Video(np.zeros((1, 2, 2, 3), np.uint8), np.zeros(1), 1.0)
    with pytest.raises(ValueError, match="one frame size"):
        make_bank(encode, [video, other], stamp_ids, batch_frames=4)
    with pytest.raises(ValueError, match="as many times and durations, and some"):
        make_bank(encode, [], stamp_ids, batch_frames=4)
    with pytest.raises(ValueError, match="batch_frames"):
        make_bank(encode, [video], stamp_ids, batch_frames=0)
