"""The benchmark that plans the published sizes: what it asks for, keeps and prints."""

import json
from pathlib import Path

from benchmarks import plans
from medscope_jax.config import load_config
from medscope_jax.errors import UserError

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "tpu_configs"
GIB = 2**30


def planned(name, total, fits=True, **others):
    return {
        "hbm_bytes": 16 * GIB,
        "programs": {
            name: {
                "fits": fits,
                "total_bytes": total * GIB,
                "roofline": {"seconds": 250.0, "binds": "memory"},
                "rates_per_second": {"frames": 1024.4, "episodes": 0.5, "tokens": 1234.5},
                "largest_buffers": [{"name": "mlp", "shape": "f32[8]", "size": 2 * GIB}],
                **others,
            }
        },
    }


def test_every_config_loads_and_none_is_asked_for_twice():
    specs = plans.configs()
    assert len(set(specs)) == len(specs) == 18 + 1 + 8 + 5
    for spec in specs:
        config = load_config(str(FOLDER / spec), [])
        if "topology=2x4" not in spec and not spec.startswith("gpu.py"):
            assert config.dialogue.length == 32_768 and 2 * config.dialogue.preview_frames == 512


def test_what_was_compiled_fits():
    """The presets are chosen by arithmetic; the file holds the proof."""
    every = json.loads((ROOT / "benchmarks" / "results" / "plan.json").read_text())["plans"]
    assert list(every) == [spec for spec in plans.configs() if spec in every]
    too_large = [
        (spec, name)
        for spec, plan in every.items()
        for name, program in plan["programs"].items()
        if not plans.is_old(program) and not program["fits"]
    ]
    assert too_large == []


def test_the_file_holds_what_was_planned_and_what_was_there(monkeypatch, tmp_path, capsys):
    path = tmp_path / "plan.json"

    def plan_one(path, spec, name):
        if spec.startswith("v4"):
            return {"programs": {name: {"fits": False, "failed": "no such slice"}}}
        return planned(name, 20 if name == "sft" else 8, fits=name != "sft")

    monkeypatch.setattr(plans, "plan_one", plan_one)
    plans.main(
        ["--json", str(path), "--only", "v5e.py:7b,topology=16x16", "--programs", "sft,encode"]
    )
    only = "v4.py:3b,topo;v5e.py:7b,topology=16x16"
    plans.main(["--json", str(path), "--only", only, "--programs", "sft"])
    found = json.loads(path.read_text())["plans"]
    assert list(found) == ["v5e.py:7b,topology=16x16", "v4.py:3b,topology=4x4x4"]
    assert list(found["v5e.py:7b,topology=16x16"]["programs"]) == ["encode", "sft"]
    assert not found["v5e.py:7b,topology=16x16"]["fits"]
    table = capsys.readouterr().out.strip().splitlines()[-2:]
    assert table[0] == (
        "| `v5e.py:7b,topology=16x16` | 16.0 | 8.0 GiB<br>1,024/s, memory |  |  |  | "
        "20.0 GiB, does not fit: mlp f32[8], 2.0 GiB |"
    )
    assert table[1].endswith("|  |  |  |  | not compiled: no such slice |")


def test_a_config_that_cannot_be_is_a_line_of_the_table(monkeypatch):
    def refuse(config):
        raise UserError("no mesh")

    monkeypatch.setattr(plans, "plan_mesh", refuse)
    found = plans.plan_one(str(FOLDER / "v5e.py:3b"), "v5e.py:3b", "sft")
    assert found == {"programs": {"sft": {"fits": False, "failed": "no mesh"}}}


def test_what_was_compiled_before_is_marked():
    """Figures of an older program are never taken for today's."""
    plan = planned("sft", 8)
    plan["programs"]["encode"] = dict(plan["programs"]["sft"])
    plan["programs"]["sft"]["compiled"] = plans.SINCE
    lines = plans.table({"v5e.py:7b,topology=16x16": plan}).splitlines()
    assert "| (old) 8.0 GiB<br>1,024/s, memory |  |" in lines[2]
    assert lines[2].endswith("|  | 8.0 GiB<br>0.5/s, memory |")
    assert lines[-1] == f"(old): an older program and config, of before {plans.SINCE}."


def test_a_gpu_s_memory_is_called_an_estimate():
    program = planned("sft", 8, roofline=None)
    line = plans.table({"gpu.py:3b": program}).splitlines()[2]
    assert line.startswith("| `gpu.py:3b` |") and "8.0 GiB (estimate)" in line
