"""A tiny suite of either kind, made once; tests only read them."""

import pytest

from tests.data import suite_cases as cases
from tfds_builders.build import build
from tfds_builders.prepare import prepare_suite


@pytest.fixture(scope="session")
def phantom_workdir(tmp_path_factory):
    """A run's folder with the phantom suite of cases.TINY."""
    workdir = tmp_path_factory.mktemp("phantom")
    prepare_suite(workdir, cases.TINY, progress=False, processes=1)
    return workdir


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """A data folder built of cases.write_manual's."""
    root = tmp_path_factory.mktemp("own")
    cases.write_manual(root / "manual")
    build("clinvideo_frames", root / "manual", root / "data")
    build("clinvideo_suite", root / "manual", root / "data")
    return root / "data"
