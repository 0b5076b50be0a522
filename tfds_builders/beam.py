"""Work spread over a runner of Apache Beam: the ordered map of medscope_jax.workers, elsewhere."""

import os
import pathlib
import pickle
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from medscope_jax.errors import UserError
from medscope_jax.files import write_bytes
from medscope_jax.workers import Spread

SHARED = ".results"  # what the name of a folder of results ends in


def beam_workers(
    options: Any = None, runner: Any = None, folder: str | os.PathLike | None = None
) -> Spread:
    """An ordered map over a runner of Apache Beam.

    A worker hands its result over in a file; results are then read one at a time. All jobs are made
    before the first one starts.

    Args:
      options: PipelineOptions; None for Beam's defaults (DirectRunner in this process).
      runner: a runner or its name; None for that of the options.
      folder: one that the runner's machines share, in which these files lie meanwhile, in a folder
        that ends in SHARED: results name recordings, and a killed process leaves them behind. None
        for this machine's temporary folder.

    Raises:
      UserError: apache-beam is not installed.
    """
    try:
        import apache_beam as beam
    except ImportError:
        raise UserError("Beam is asked for: python -m pip install apache-beam") from None

    def spread(function: Callable, jobs: Iterable) -> Iterator:
        with tempfile.TemporaryDirectory(SHARED, dir=folder) as shared:
            numbered = list(enumerate(jobs))
            if numbered:
                with beam.Pipeline(runner=runner, options=options) as pipeline:
                    _ = (
                        pipeline
                        | beam.Create(numbered)
                        | beam.Reshuffle()  # else one worker would run them all
                        | beam.Map(_run_into_file, function, shared)
                    )
            for number, _ in numbered:
                yield pickle.loads(_result_file(shared, number).read_bytes())

    return spread


def _run_into_file(job: tuple[int, Any], function: Callable, folder: str) -> None:
    # A runner may run a job twice; the result is the same.
    write_bytes(_result_file(folder, job[0]), pickle.dumps(function(job[1])))


def _result_file(folder: str, number: int) -> pathlib.Path:
    return pathlib.Path(folder) / f"{number:08d}.result"
