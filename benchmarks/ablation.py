"""What each part of stage 3 brings: python -m benchmarks.ablation --workdir DIR

Runs stage 3 again from DIR's own cold start, once a variant, and evaluates each on the test split:

  full           the run's config as it is (where DIR has finished, its own rl model is taken)
  no_modulation  plain group advantages: advantage.mode "none"
  no_evidence    without the evidence reward: reward.evidence_weight 0. The modulation is off too:
                 the fidelity that it goes by IS the evidence reward, so that evidence would still
                 steer the update. no_modulation - no_evidence is what the reward alone brings.
  step, smooth   the crop reward as published, and its smooth form (one of them equals full)

Each variant lives in DIR/ablation/VARIANT, a workdir that shares DIR's suite and tokenizer: it can
be evaluated and asked like any other. A killed ablation goes on where it stopped. Prints a table;
--json FILE keeps all rows.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from benchmarks.seeds import value_of
from benchmarks.trained import open_trained
from medscope_jax.config import ConfigError, from_json, parse_arguments, run_main, to_json
from medscope_jax.distributed import use_huge_pages
from medscope_jax.errors import UserError, closest
from medscope_jax.evaluate import evaluate_model
from medscope_jax.inference import model_of_run
from medscope_jax.metrics import print_results, read_results, result_rows, write_results
from medscope_jax.rl import make_judge
from medscope_jax.training.checkpoint import Checkpoints
from medscope_jax.training.ga_grpo import prepare_ga_grpo
from medscope_jax.training.metrics_log import MetricsWriter
from medscope_jax.training.run import Run, load_records, load_split, make_run
from medscope_jax.training.stage import finished_params, run_stage
from medscope_jax.training.workdir import Workdir, differences, keep_config, open_workdir

# What each variant changes in the run's config.
VARIANTS = {
    "full": {},
    "no_modulation": {"advantage.mode": "none"},
    "no_evidence": {"advantage.mode": "none", "reward.evidence_weight": 0.0},
    "step": {"reward.crop_reward": "step"},
    "each": {"reward.scored_calls": "each"},
    "published": {"reward.crop_reward": "step", "reward.scored_calls": "each"},
}
_DEFAULT = "full,no_evidence,no_modulation,published"
_SHARED = ("suite", "tokenizer.model", "pretrained")
_START = "sft"  # the model that every variant starts from, for comparison


def variant_config(config: ConfigDict, variant: str) -> ConfigDict:
    """The run's config with the variant's changes."""
    values = config.to_dict()
    for key, value in VARIANTS[variant].items():
        section, name = key.split(".")
        values[section][name] = value
    return from_json(to_json(ConfigDict(values)))


def train_variant(run: Run, workdir: Workdir, sft: dict) -> dict:
    """Stage 3 of one variant, from the cold start's parameters to its own."""
    with Checkpoints(workdir.checkpoints) as checkpoints:
        kept = max((meta["lines"] for meta in checkpoints.metas()), default=0)
        writer = MetricsWriter(workdir.metrics, keep=kept)
        judge = make_judge(run.config.judge)

        def prepare(params: dict):
            return prepare_ga_grpo(run, load_split(run, "train"), judge, params)

        params = run_stage(run, "ga_grpo", lambda: sft, prepare, checkpoints, writer)
        writer.close()
    return params


def run_variant(base: Run, folder: Path, variant: str, sft: dict, evaluate) -> list[dict]:
    """The result rows of one variant, trained and evaluated as far as it isn't yet."""
    config = variant_config(base.config, variant)
    path = folder / variant
    with open_workdir(path, config) as workdir:
        keep_config(workdir, config)
        if workdir.is_done():
            return read_results(workdir.results)
        for shared in (base.folder / name for name in _SHARED):
            if shared.exists():
                _link(path / shared.name, shared)
        run = make_run(config, workdir, base.mesh, base.suite)
        params = None
        if not differences(base.config, config):
            with Checkpoints(base.folder / "checkpoints", read_only=True) as checkpoints:
                params = finished_params(run, checkpoints, "ga_grpo")
        if params is None:
            params = train_variant(run, workdir, sft)
        rows = evaluate(run, variant, params)
        write_results(workdir.results, rows)
        return rows


def _link(link: Path, target: Path) -> None:
    """Links to the run's own file or folder, by a path that survives moving the run."""
    if not link.is_symlink():
        link.symlink_to(os.path.relpath(target, link.parent))


def compare(rows: Sequence[Mapping], variants: Sequence[str]) -> list[dict]:
    """Each variant against full, greedy: R@.5 and mIoU of grounding, in and out of domain.

    change: relative, such as -0.17 for 17 percent lower; None where full has 0.
    """
    found = []
    for variant in variants:
        for in_domain in (True, False):
            for metric in ("recall_0.5", "miou"):
                value, full = (
                    value_of(rows, name, "greedy", in_domain, "grounding", metric)
                    for name in (variant, "full")
                )
                known = value is not None and full
                found.append(
                    {
                        "variant": variant,
                        "in_domain": in_domain,
                        "metric": metric,
                        "value": value,
                        "full": full,
                        "change": value / full - 1 if known else None,
                    }
                )
    return found


def _print_comparison(comparison: Sequence[Mapping]) -> None:
    for row in comparison:
        if row["variant"] != "full" and row["change"] is not None:
            where = "in-domain" if row["in_domain"] else "out-of-domain"
            print(
                f"{row['variant']}: {where} grounding {row['metric']} "
                f"{100 * row['full']:.1f} -> {100 * row['value']:.1f} ({100 * row['change']:+.0f}%)"
            )


def main(argv: Sequence[str]) -> None:
    """Runs the variants one after the other."""
    flags = parse_arguments(
        __doc__,
        argv,
        {
            "--workdir": {"required": True, "metavar": "DIR", "help": "a run past its cold start"},
            "--variants": {
                "default": _DEFAULT,
                "metavar": "A,B",
                "help": f"of {', '.join(VARIANTS)}",
            },
            "--json": {"metavar": "FILE", "help": "where to write all rows"},
        },
    )
    variants = list(dict.fromkeys(flags.variants.split(",")))
    for variant in variants:
        if variant not in VARIANTS:
            known = ", ".join(VARIANTS)
            raise ConfigError(
                f"unknown variant {variant!r}{closest(variant, VARIANTS)}; known: {known}"
            )
    base, workdir = open_trained(flags.workdir)
    with Checkpoints(workdir.checkpoints, read_only=True) as checkpoints:
        sft = finished_params(base, checkpoints, "cold_start")
    if sft is None:
        raise UserError(
            f"{workdir.path} has not finished its cold start yet; train it further first"
        )

    records, split = load_records(base, "eval", "test"), load_split(base, "test")

    def evaluate(run: Run, name: str, params: dict) -> list[dict]:
        return result_rows(evaluate_model(model_of_run(run, name, params), records, split)[0])

    folder = workdir.path / "ablation"
    rows = _rows_of_start(folder / f"{_START}.json", lambda: evaluate(base, _START, sft))
    for variant in variants:
        print(f"variant {variant}: {VARIANTS[variant] or 'the config as it is'}")
        rows += run_variant(base, folder, variant, sft, evaluate)
    print_results(rows)
    comparison = compare(rows, variants)
    _print_comparison(comparison)
    if flags.json:
        changes = {variant: VARIANTS[variant] for variant in variants}
        result = {"seed": base.config.seed, "variants": changes, "rows": rows}
        write_results(flags.json, result | {"comparison": comparison})
        print(f"written to {flags.json}")


def _rows_of_start(path: Path, evaluate) -> list[dict]:
    """The rows of the model that all variants start from, evaluated once."""
    if not path.exists():
        rows = evaluate()
        path.parent.mkdir(exist_ok=True)
        write_results(path, rows)
    return read_results(path)


if __name__ == "__main__":
    use_huge_pages()
    run_main(main)
