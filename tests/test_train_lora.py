"""The whole program with adapters: trained, evaluated and asked like any other."""

import pytest

from medscope_jax import train
from medscope_jax.training.checkpoint import Checkpoints
from medscope_jax.training.workdir import read_workdir


@pytest.mark.slow
@pytest.mark.parametrize("base, reference", [("bfloat16", "base"), ("int8", "start")])
def test_a_run_with_adapters(tmp_path, micro_arguments, capsys, base, reference):
    changes = {
        "model.lora.rank": 4,
        "model.lora.alpha": 8.0,
        "model.lora.base": base,
        "rl.kl_coefficient": 0.1,
        "rl.kl_reference": reference,
    }
    arguments = [*micro_arguments, *(f"--config.{k}={v}" for k, v in changes.items())]
    train.main([*arguments, "--workdir", str(tmp_path / "run")])
    printed = capsys.readouterr().out
    for name in ("passive", "cold_start", "ga_grpo"):
        assert f"{name} trains " in printed
    assert printed.count(f"adapters of rank 4, base in {base}") == 3
    workdir, _ = read_workdir(tmp_path / "run")
    assert workdir.is_done() and workdir.report.exists()
    lines = [line for line in workdir.metrics.read_text().splitlines() if "ga_grpo" in line]
    assert lines and all('"kl"' in line for line in lines)
    with Checkpoints(workdir.checkpoints, read_only=True) as checkpoints:
        assert {meta["stage"] for meta in checkpoints.metas()} >= {"cold_start", "ga_grpo"}
