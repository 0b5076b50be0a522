"""Frames that stay JPEG are what an array of them is."""

import cv2
import numpy as np

from medscope_jax.data.jpeg_frames import JpegFrames


def test_frames_are_decoded_as_an_array_is_read(monkeypatch):
    scene = cv2.resize(np.arange(36, dtype=np.uint8).reshape(3, 4, 3) * 7, (32, 24))
    frames = np.stack([np.roll(scene, shift, axis=1) for shift in range(7)])
    coded = [cv2.imencode(".jpg", frame[..., ::-1])[1].tobytes() for frame in frames]
    lazy = JpegFrames(coded)
    whole = np.asarray(lazy)
    assert lazy.shape == whole.shape == (7, 24, 32, 3) and len(lazy) == 7
    assert lazy.dtype == whole.dtype == np.uint8
    assert np.abs(whole.astype(int) - frames).mean() < 4  # RGB, as it was
    for index in (3, -1, slice(2, 5), slice(None, None, 3), [6, 0, 0], np.array([1, 4])):
        np.testing.assert_array_equal(lazy[index], whole[index])
    assert lazy[5:5].shape == (0, 24, 32, 3) and np.asarray(lazy, float).dtype == float

    decoded, decode = [], cv2.imdecode
    monkeypatch.setattr(cv2, "imdecode", lambda *given: decoded.append(0) or decode(*given))
    lazy[2:4]
    assert len(decoded) == 2
