"""What supervised stages are made of."""

import json
from types import SimpleNamespace

from medscope_jax.dialogue import Row
from medscope_jax.errors import UserError
from medscope_jax.training import sft


def test_records_that_do_not_fit_are_listed(tmp_path, monkeypatch, capsys):
    """Left out with their reasons; the rest is trained on."""
    records = [{"id": f"r{number}", "words": number} for number in (1, 900, 2)]
    monkeypatch.setattr(sft, "_records", lambda run, name: records)

    def lay_out(record):
        if record["words"] > 100:
            raise UserError("an episode of 900 tokens does not fit")
        return Row([0] * record["words"], [], [], [])

    run = SimpleNamespace(folder=tmp_path)
    kept, laid_out = sft._that_fit(run, "cold_start", lay_out)
    assert [record["id"] for record in kept] == ["r1", "r2"]
    assert [len(row.tokens) for row in laid_out] == [1, 2]
    assert "cold_start leaves out 1 of 3 records" in capsys.readouterr().out
    found = json.loads((tmp_path / "left_out_cold_start.json").read_text())
    assert found == [{"id": "r900", "reason": "an episode of 900 tokens does not fit"}]
