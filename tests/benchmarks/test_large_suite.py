"""The large question set: as many test procedures as asked for, shown as the run's own are."""

from benchmarks import large_suite
from medscope_jax.data.open_suite import open_suite
from medscope_jax.training.workdir import read_workdir


def test_evaluate_takes_its_suite(micro_run, tmp_path, capsys):
    target = tmp_path / "large"
    flags = ["--workdir", str(micro_run), "--target", str(target), "--procedures", "2"]
    large_suite.main(flags)
    large_suite.main(flags)  # again: it is there
    assert str(target) in capsys.readouterr().out
    workdir, config = read_workdir(target)
    suite, own = open_suite(config, workdir.path), read_workdir(micro_run)[1]
    suite.check(own.video, [("test", ("eval",))])
    records = list(suite.records("eval", "test"))
    assert {record["source"] for record in records} == {"ophthalmic", "endoscopic", "laparoscopic"}
    assert len({record["video"] for record in records}) == 6
    drawn = read_workdir(micro_run)[1].suite
    assert drawn.seed != config.suite.seed and drawn.train_ophthalmic == 2
