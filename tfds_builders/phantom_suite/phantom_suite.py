"""Evidence-bound records of the phantom suite, one builder config a part."""

import pathlib

import tensorflow_datasets as tfds

from medscope_jax.data.phantom_reader import read_procedures
from medscope_jax.parts import PARTS, SPLITS_OF_PART
from medscope_jax.phantom.procedure import from_json
from medscope_jax.phantom.records import records
from medscope_jax.phantom.suite_config import suite_config
from tfds_builders.record import record_fields


class PhantomSuite(tfds.core.GeneratorBasedBuilder):
    """Records about phantom procedures; builder configs are the parts of ClinVideoSuite.

      cap      timestamped captions of clips
      qa       questions with the local window that holds their evidence
      cot      easy questions: thought and answer from the preview, no tool
      vcot     hard questions: tool trajectories of an imperfect teacher
      passive  hard questions answered from the preview alone: the baseline that cannot look
      rl       hard questions of training videos, no turns
      eval     hard and easy questions of validation and test videos, no turns

    What to get: nothing to download. `python -m tfds_builders.prepare --workdir DIR` builds
    everything. To build one part by hand, from the folder with procedures.json:

        builder = PhantomSuite(config="vcot", data_dir=DATA, file_format="array_record")
        manual = tfds.download.DownloadConfig(manual_dir="DIR/suite/videos")
        builder.download_and_prepare(download_config=manual)

    (The tfds command imports TensorFlow, which this project does without.)

    What comes out: the fields that records.records documents; splits as in records.SPLITS_OF_PART.
    Records name their video by id; its frames are in phantom_frames.

    Licence: Apache-2.0, like the code that writes them.
    """

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=part) for part in PARTS]
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Run python -m tfds_builders.prepare --workdir DIR and give DIR/suite/videos."
    )

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(record_fields()),
            disable_shuffling=True,  # the reader shuffles; a fixed order makes builds comparable
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        listing = read_procedures(pathlib.Path(dl_manager.manual_dir))
        config = suite_config(listing["config"])
        part = self.builder_config.name
        return {
            split: self._generate_examples(
                [from_json(s) for s in listing["procedures"] if s["split"] == split], part, config
            )
            for split in SPLITS_OF_PART[part]
        }

    def _generate_examples(self, scripts, part, config):
        row = 0
        for procedure in scripts:
            for record in records(procedure, part, config):
                yield row, record
                row += 1
