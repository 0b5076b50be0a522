"""A question set on which a difference of five points shows: python -m benchmarks.large_suite

    python -m benchmarks.large_suite --workdir runs/cpu --target runs/large
    python -m medscope_jax.evaluate --workdir runs/cpu --data_dir runs/large --out runs/large/cpu

Draws as many test procedures of each source as --procedures says, of a seed that no run has, as the
run is shown procedures; --target is a folder whose suite evaluate takes. The 20 to 24 procedures of
a run's own test split have as many questions about the order of phases: too few to tell 40 % from
60 %.
"""

from collections.abc import Sequence
from pathlib import Path

from medscope_jax.config import parse_arguments, run_main
from medscope_jax.data.open_suite import open_suite
from medscope_jax.errors import UserError
from medscope_jax.training.workdir import open_workdir, read_workdir
from tfds_builders.prepare import prepare_suite

SEED = 1000


def main(argv: Sequence[str]) -> None:
    """Draws the suite."""
    flags = parse_arguments(
        __doc__,
        argv,
        {
            "--workdir": {"required": True, "metavar": "DIR", "help": "of a run on phantoms"},
            "--target": {"required": True, "metavar": "FOLDER", "help": "of the suite"},
            "--procedures": {"type": int, "default": 500, "help": "of each source (500)"},
        },
    )
    _, config = read_workdir(flags.workdir)
    if config.suite.data_dir:
        raise UserError(f"{flags.workdir} is no run on phantom procedures")
    # Nothing is trained on it, but a suite has all splits.
    sizes = {name: 1 for name in config.suite if name.startswith(("train_", "validation_"))}
    sizes |= {name: flags.procedures for name in config.suite if name.startswith("test_")}
    config.suite.update(sizes | {"seed": SEED})
    with open_workdir(Path(flags.target), config) as workdir:
        prepare_suite(workdir.path, open_suite(config, workdir.path).config)
    print(f"{flags.procedures} procedures of each source: {flags.target}")


if __name__ == "__main__":
    run_main(main)
