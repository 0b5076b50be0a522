"""Frames of every phantom procedure at the bank rate, stored once per video."""

import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds

from medscope_jax.data.phantom_reader import read_procedures
from medscope_jax.video.decode import read_video

_JPEG_QUALITY = 95


class PhantomFrames(tfds.core.GeneratorBasedBuilder):
    """Frames of phantom procedures: one example a video, in a fixed order.

    What to get: nothing to download. `python -m tfds_builders.prepare --workdir DIR` writes the
    recordings to DIR/suite/videos and builds this dataset and phantom_suite from them. To build by
    hand, from a folder with the recordings and their procedures.json:

        builder = PhantomFrames(data_dir=DATA, file_format="array_record")
        manual = tfds.download.DownloadConfig(manual_dir="DIR/suite/videos")
        builder.download_and_prepare(download_config=manual)

    (The tfds command imports TensorFlow, which this project does without.)

    What comes out: splits train, validation, test; per video
      id, source: str
      duration: float32 seconds
      times: float64 [T] seconds, as the container has them
      frames: bytes [T], one JPEG (quality 95) a frame, RGB once decoded

    Licence: Apache-2.0, like the code that draws them.

    Args:
      map_videos: the map that decodes recordings; an executor's map spreads them over processes.
      kwargs: as of every TFDS builder (data_dir, file_format, ...).
    """

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Run python -m tfds_builders.prepare --workdir DIR and give DIR/suite/videos."
    )

    def __init__(self, *, map_videos: Callable[..., Iterator[Any]] = map, **kwargs: Any):
        self._map_videos = map_videos
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "id": tfds.features.Text(),
                    "source": tfds.features.Text(),
                    "duration": np.float32,
                    "times": tfds.features.Tensor(shape=(None,), dtype=np.float64),
                    "frames": tfds.features.Tensor(shape=(None,), dtype=np.object_),
                }
            ),
            disable_shuffling=True,  # row i of a split is its i-th procedure
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        folder = pathlib.Path(dl_manager.manual_dir)
        listing = read_procedures(folder)
        splits: dict[str, list[dict]] = {}
        for script in listing["procedures"]:
            splits.setdefault(script["split"], []).append(script)
        return {
            split: self._generate_examples(folder, scripts, listing["config"])
            for split, scripts in splits.items()
        }

    def _generate_examples(self, folder: pathlib.Path, scripts: list[dict], config: dict):
        size = (config["frame_height"], config["frame_width"])
        jobs = [(str(folder / f"{s['id']}.mp4"), config["bank_fps"], size) for s in scripts]
        decoded = self._map_videos(decode_to_jpeg, jobs)
        for row, (script, example) in enumerate(zip(scripts, decoded, strict=True)):
            yield row, {"id": script["id"], "source": script["source"], **example}


def decode_to_jpeg(job: tuple[str, float, tuple[int, int]]) -> dict[str, Any]:
    """Reads a recording (path, bank rate, (H, W)) as any other video is read; frames as JPEG."""
    path, fps, size = job
    video = read_video(path, fps=fps, size=size)
    frames = np.empty(len(video.frames), object)
    for i, frame in enumerate(video.frames):
        frames[i] = cv2.imencode(
            ".jpg",
            cv2.cvtColor(frame, cv2.COLOR_RGB2BGR),
            [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY],
        )[1].tobytes()
    return {"times": video.times, "duration": np.float32(video.duration), "frames": frames}
