"""The benchmark that plans the published sizes: what it asks for, keeps and prints."""

import json
from pathlib import Path

from benchmarks import plans
from medscope_jax.config import load_config
from medscope_jax.errors import UserError

FOLDER = Path(__file__).parent.parent.parent / "tpu_configs"
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
    assert len(set(specs)) == len(specs) == 16
    for spec in specs:
        config = load_config(str(FOLDER / spec), [])
        assert config.dialogue.length == 32_768 and 2 * config.dialogue.preview_frames == 512


def test_the_file_holds_what_was_planned_and_what_was_there(monkeypatch, tmp_path, capsys):
    path = tmp_path / "plan.json"

    def plan_one(path, spec, name):
        if spec.startswith("v4"):
            return {"programs": {name: {"fits": False, "failed": "no such slice"}}}
        return planned(name, 20 if name == "sft" else 8, fits=name != "sft")

    monkeypatch.setattr(plans, "plan_one", plan_one)
    plans.main(["--json", str(path), "--only", "v5e.py:7b,topo", "--programs", "sft,encode"])
    plans.main(["--json", str(path), "--only", "v4.py:3b,topo;v5e.py:7b,topo", "--programs", "sft"])
    found = json.loads(path.read_text())["plans"]
    assert list(found) == ["v5e.py:7b,topology=16x16", "v4.py:3b,topology=4x4x4"]
    assert list(found["v5e.py:7b,topology=16x16"]["programs"]) == ["encode", "sft"]
    assert not found["v5e.py:7b,topology=16x16"]["fits"]
    table = capsys.readouterr().out.strip().splitlines()[-2:]
    assert table[1] == (
        "| `v5e.py:7b,topology=16x16` | 16.0 | 8.0 GiB<br>1,024/s, memory |  |  | "
        "20.0 GiB, does not fit: mlp f32[8], 2.0 GiB |"
    )
    assert table[0].endswith("|  |  |  | not compiled: no such slice |")


def test_a_config_that_cannot_be_is_a_line_of_the_table(monkeypatch):
    def refuse(config):
        raise UserError("no mesh")

    monkeypatch.setattr(plans, "plan_mesh", refuse)
    found = plans.plan_one(str(FOLDER / "v5e.py:3b"), "v5e.py:3b", "sft")
    assert found == {"programs": {"sft": {"fits": False, "failed": "no mesh"}}}
