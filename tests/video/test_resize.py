"""Sizes, pixels and patches of the reference processor, and few sizes for many recordings."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medscope_jax.errors import UserError
from medscope_jax.models import frame_grid, model_config
from medscope_jax.models.vision import VisionTower, make_grid
from medscope_jax.video import (
    bucket_size,
    resize_frames,
    smart_resize,
    temporal_patches,
)
from medscope_jax.video.resize import ASPECTS

PREVIEW = 224 * 224  # the protocol's most pixels of a frame: 64 tokens
SIDES = st.integers(1, 5000)
LIMITS = st.tuples(st.integers(1, 10**5), st.integers(0, 10**6)).map(lambda t: (t[0], sum(t)))


@pytest.mark.parametrize(
    "size, limits, expected",  # as transformers 5.23 answers
    [
        ((1080, 1920), (28, 3136, PREVIEW), (168, 280)),
        ((576, 720), (28, 3136, PREVIEW), (196, 224)),
        ((239, 239), (28, 3136, PREVIEW), (196, 196)),
        ((1080, 1920), (28, 3136, 1003520), (728, 1316)),
        ((480, 640), (28, 100352, 602112), (476, 644)),
        ((100, 120), (28, 100352, 602112), (308, 364)),
        ((10, 1500), (28, 3136, 1003520), (28, 700)),
        ((42, 70), (28, 784, 1003520), (56, 56)),
        ((20, 20), (32, 4096, 1000000), (64, 64)),
        ((5, 5), (14, 1, 1), (14, 14)),
        ((3000, 20), (28, 3136, PREVIEW), (2716, 28)),
    ],
)
def test_sizes_of_the_reference(size, limits, expected):
    assert smart_resize(*size, *limits) == expected


@given(height=SIDES, width=SIDES, limits=LIMITS, factor=st.sampled_from([14, 28, 32]))
@settings(max_examples=300, deadline=None)
def test_a_size_is_whole_tokens(height, width, limits, factor):
    if max(height, width) > 200 * min(height, width):
        with pytest.raises(UserError, match="can't be resized"):
            smart_resize(height, width, factor, *limits)
        return
    size = smart_resize(height, width, factor, *limits)
    assert all(side >= factor and side % factor == 0 for side in size)


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (-3, 4), (1, 201)])
def test_impossible_sizes(size):
    with pytest.raises(UserError, match="can't be resized"):
        bucket_size(*size, PREVIEW)


def test_recordings_of_common_aspects_get_the_references_size():
    """Of all sizes of these aspects but those whose size hangs on float64's rounding."""
    same = [
        smart_resize(high * k, wide * k, max_pixels=budget)
        == bucket_size(high * k, wide * k, budget)
        for budget in (PREVIEW, 448 * 448, 768 * 784)
        for wide, high in ASPECTS
        for k in range(40, 240)
        if high * k * wide * k > budget
    ]
    assert len(same) > 4000 and sum(same) > 0.98 * len(same)
    for size in ((1080, 1920), (720, 1280), (2160, 3840), (480, 640), (576, 720), (480, 720)):
        assert bucket_size(*size, PREVIEW) == smart_resize(*size, max_pixels=PREVIEW)


@given(height=SIDES, width=SIDES, tokens=st.integers(1, 2000), factor=st.sampled_from([14, 28]))
@settings(max_examples=300, deadline=None)
def test_any_resolution_falls_in_few_buckets(height, width, tokens, factor):
    budget = tokens * factor**2
    sizes = {bucket_size(*aspect, budget, factor) for aspect in ASPECTS}
    assert len(sizes) <= len(ASPECTS) == 13
    for rows, columns in sizes:
        assert rows % factor == columns % factor == 0 < rows * columns <= budget
    if max(height, width) <= 200 * min(height, width):
        size = bucket_size(height, width, budget, factor)
        assert size in sizes
        assert bucket_size(width, height, budget, factor) == size[::-1]
        if 3 / 4 <= height / width <= 4 / 3 and tokens >= 64:  # little is stretched, little unused
            assert 0.75 < (size[0] / size[1]) / (height / width) < 1.34
            assert math.prod(size) > 0.74 * budget


def test_a_budget_below_one_token():
    with pytest.raises(UserError, match="max_pixels 783 holds no token of 28x28"):
        bucket_size(480, 640, 783)


def frames(count, height, width, seed=0):
    """Smooth pictures with hard edges, and noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = 127 + 120 * np.sin(y[..., None] / 17 + x[..., None] / np.array([11, 23, 5]))
    clip = np.stack([np.roll(waves, 9 * k, axis=1) for k in range(count)]).astype(np.uint8)
    clip[:, height // 3 : height // 2, width // 4 : width // 2] = (255, 0, 90)
    noise = rng.integers(0, 256, (count, height // 4, width, 3))
    clip[:, -(height // 4) :] = noise
    return clip


def test_frames_are_resized_one_by_one():
    clip = frames(3, 60, 80)
    resized = resize_frames(clip, (28, 56))
    assert resized.shape == (3, 28, 56, 3) and resized.dtype == np.uint8
    np.testing.assert_array_equal(resized[1:2], resize_frames(clip[1:2], (28, 56)))
    np.testing.assert_array_equal(resize_frames(clip, (60, 80)), clip)
    # Averages stay: nothing is shifted in brightness.
    np.testing.assert_allclose(resized.mean((0, 1, 2)), clip.mean((0, 1, 2)), atol=1.5)


def test_temporal_patches():
    clip = frames(5, 8, 8)
    images, pairs = temporal_patches(clip, native=False), temporal_patches(clip, native=True)
    assert images.shape == (5, 1, 8, 8, 3) and pairs.shape == (3, 2, 8, 8, 3)
    np.testing.assert_array_equal(images[:, 0], clip)
    np.testing.assert_array_equal(pairs.reshape(6, 8, 8, 3), clip[[0, 1, 2, 3, 4, 4]])
    np.testing.assert_array_equal(temporal_patches(clip[:4], native=True)[1], clip[2:4])


class Patches(VisionTower):
    """The tower's first step alone, with the identity as its projection."""

    @nn.compact
    def __call__(self, clips):
        grid = frame_grid(self.config, *clips.shape[2:4])
        return self.embed_patches(clips, make_grid(self.config.vision, *grid), *grid)


def tower_patches(clips, merge=2, patch=14, window=112):
    """Patches [N * P, C * t * patch^2] of clips [N, t, H, W, 3], as the vision tower reads them.

    Put back from its window order to raster order, in which the reference lists them.
    """
    width = 3 * 2 * patch**2
    vision = {
        "depth": 1,
        "hidden_size": width,
        "num_heads": 2,
        "patch_size": patch,
        "spatial_merge_size": merge,
        "window_size": window,
    }
    config = model_config({"vision": vision})
    rows, columns = frame_grid(config, *clips.shape[2:4])
    slots = clips.shape[1]
    clips = np.repeat(clips, 2 // slots, axis=1)
    kernel = np.eye(width, dtype=np.float32).reshape(3, 2, patch, patch, width)
    patches = jax.jit(Patches(config).apply)(
        {"params": {"patch_embed": kernel}}, jnp.asarray(clips)
    )
    order = make_grid(config.vision, rows, columns).order
    tokens = np.asarray(patches).reshape(len(clips), rows * columns, -1)
    return tokens[:, np.argsort(order)].reshape(-1, width)


@pytest.fixture(scope="session")
def reference():
    """transformers' Pillow processor, which needs neither PyTorch nor torchvision."""
    pytest.importorskip("transformers")
    from transformers.models.qwen2_vl import image_processing_pil_qwen2_vl

    return image_processing_pil_qwen2_vl


@pytest.mark.reference
@given(height=SIDES, width=SIDES, limits=LIMITS, factor=st.sampled_from([14, 28, 32]))
@settings(max_examples=3000, deadline=None)
def test_smart_resize_is_the_references(reference, height, width, limits, factor):
    try:
        expected = reference.smart_resize(height, width, factor, *limits)
    except ValueError:
        with pytest.raises(UserError):
            smart_resize(height, width, factor, *limits)
        return
    assert smart_resize(height, width, factor, *limits) == expected


@pytest.mark.reference
@pytest.mark.parametrize("size", [(90, 160), (300, 200), (61, 47), (448, 28)])
def test_patches_are_the_references(reference, size):
    """From frames to flattened patches: resized, rescaled, normalized, cut and ordered alike.

    The pixels are the same to the bit. What remains is float32: (x / 255 - mean) / std here, x *
    (1 / 255) in float64 first there.
    """
    clip = frames(3, *size)
    processor = reference.Qwen2VLImageProcessorPil(min_pixels=56 * 56, max_pixels=PREVIEW)
    expected = processor(images=list(clip), return_tensors="np")
    height, width = smart_resize(*size, 28, 56 * 56, PREVIEW)
    grid = [1, height // 14, width // 14]
    assert expected["image_grid_thw"].tolist() == [grid] * 3
    patches = tower_patches(temporal_patches(resize_frames(clip, (height, width)), native=False))
    assert patches.shape == expected["pixel_values"].shape
    np.testing.assert_allclose(patches, expected["pixel_values"], atol=2e-6)


@pytest.mark.reference
def test_pixels_of_the_torchvision_backend():
    """Its kernel on 8-bit images: the same filter, otherwise rounded.

    Where both sides shrink or both grow; else the two take the sides in another order.
    """
    torch = pytest.importorskip("torch")
    for size, target in (((300, 400), (168, 224)), ((50, 60), (84, 112)), ((200, 200), (196, 196))):
        clip = frames(2, *size)
        planes = torch.from_numpy(clip).permute(0, 3, 1, 2)
        expected = torch.nn.functional.interpolate(planes, target, mode="bicubic", antialias=True)
        off = resize_frames(clip, target).astype(int) - expected.permute(0, 2, 3, 1).numpy()
        assert abs(off).max() <= 2 and (off != 0).mean() < 0.01


@pytest.mark.reference
def test_native_video_is_the_references():
    """Pairs of frames in the reference's patch order."""
    pytest.importorskip("torchvision")
    from transformers.models.qwen2_vl import video_processing_qwen2_vl

    processor = video_processing_qwen2_vl.Qwen2VLVideoProcessor(
        min_pixels=56 * 56, max_pixels=PREVIEW, cap_pixels_per_frame=False
    )
    clip = frames(5, 180, 320)
    expected = processor(videos=[clip], return_tensors="np")
    size = smart_resize(180, 320, max_pixels=PREVIEW)
    assert expected["video_grid_thw"].tolist() == [[3, size[0] // 14, size[1] // 14]]
    patches = tower_patches(temporal_patches(resize_frames(clip, size), native=True))
    off = np.abs(patches - expected["pixel_values_videos"])
    level = 1 / 255 / 0.26
    assert off.max() < 2.1 * level and (off > 1e-5).mean() < 0.01
