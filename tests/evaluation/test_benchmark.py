"""Published benchmarks' figures of stored predictions, against values worked out by hand."""

import json
import threading

import pytest

from medscope_jax import evaluate
from medscope_jax.evaluation import stored_qualities
from medscope_jax.evaluation.benchmark import benchmark_results
from medscope_jax.evaluation.stored_qualities import judge_stored_qualities
from medscope_jax.metrics.protocols.qualities import QUALITIES
from tests.evaluation import prediction_cases as cases
from tests.rl.endpoint_server import Server, completion

OPTIONS = ["left eye", "right eye", "both", "neither", "unknown"]


def line(number, model="m", **changes):
    """A greedy prediction about video number // 2; no look and no evidence unless given."""
    found = {**cases.lines(model)[2], "model": model, "number": number, "video": f"v{number // 2}"}
    found |= {"mode": "tools", "id": f"q{number}", **changes}
    return {**found, "text": f"<think>a</think><answer>{found['answer']}</answer>"}


def look(start, end, tool="crop_video"):
    return {"tool": tool, "start": start, "end": end, "times": [start]}


def values(name, folder, rows, **options):
    """{(model, task): {value: mean}} of a benchmark, and its notes."""
    cases.write(folder, rows)
    summary, notes = benchmark_results(name, folder, **options)
    json.dumps(summary, allow_nan=False)
    found = {
        (row["model"], row["task"]): {name: x["value"] for name, x in row["values"].items()}
        for row in summary["estimates"]
    }
    return found, notes


@pytest.mark.parametrize("name", ["charades", "medvidqa"])
def test_moments_are_the_first_span_of_the_answer(tmp_path, name):
    """IoUs by hand: 10 of 20 seconds; the same; reversed, 5 of 20; none that can be read."""
    of = {"task": "grounding", "evidence": [[10.0, 20.0]]}
    rows = [
        line(0, **of, answer="[10.0, 30.0]"),
        line(1, **of, answer="from 0:10 to 0:20, not 5 - 6"),
        line(2, **of, answer="25 - 15"),
        line(3, **of, answer="at the end"),
        line(4, answer="[1, 2]"),  # nothing to be found: another benchmark's
    ]
    found, notes = values(name, tmp_path, rows)
    expected = {"iou": (0.5 + 1 + 5 / 15 + 0) / 4, "recall_0.3": 0.75, "recall_0.5": 0.5}
    assert found["m", "grounding"] == pytest.approx(expected | {"recall_0.7": 0.25, "unread": 0.25})
    assert f"1 predictions answer no question of {name}, and are left out" in notes


def test_grounded_choices_rest_on_the_last_look(tmp_path):
    """The best of several spans; an instant within one; no look; a model that can't look."""
    of = {"task": "vqa", "options": OPTIONS, "reference": "both", "evidence": [[0, 10], [20, 24]]}
    rows = [
        line(0, **of, score=1.0, windows=[look(0, 99), look(18.0, 26.0)]),
        line(1, **of, score=0.0, windows=[look(5.0, 5.0, "get_frame")]),
        line(2, **of, score=1.0),
        line(3, **of, score=1.0, mode="passive", answer="both, 0 - 20"),
        line(4, **of, score=0.5, windows=[look(2.0, 8.0)]),
    ]
    found, _ = values("nextgqa", tmp_path, rows)
    row = found["m", "vqa"]
    assert row["iop"] == pytest.approx((4 / 8 + 1 + 0 + 10 / 20 + 1) / 5)
    assert row["iou"] == pytest.approx((4 / 8 + 0 + 0 + 10 / 20 + 6 / 10) / 5)
    assert (row["acc_qa"], row["acc_gqa"]) == (0.6, 0.4)  # 0, 2, 3 are right; 0 and 3 grounded
    assert (row["iop_0.3"], row["iop_0.5"], row["iou_0.3"], row["iou_0.5"]) == (0.8, 0.8, 0.6, 0.6)


def test_letters_by_length(tmp_path):
    """The published rule with its trap, and the reference as text, letter or index."""
    of = {"task": "vqa", "options": OPTIONS[:4]}
    rows = [
        line(0, **of, reference="right eye", answer="The answer is B.", duration=120.0),
        line(1, **of, reference="B", answer="b", duration=120.0),
        line(2, **of, reference="C. both", answer="As it bleeds, C", duration=121.0),
        line(3, **of, reference="D", answer="D", duration=901.0),
        line(4, **of, reference="no option", answer="D", duration=901.0),
    ]
    found, notes = values("videomme", tmp_path, rows)
    assert found["m", "vqa, short"] == {"accuracy": 0.5, "unread": 0.5}
    assert found["m", "vqa, medium"] == {"accuracy": 0.0, "unread": 0.0}
    assert found["m", "vqa, long"] == {"accuracy": 1.0, "unread": 0.0}
    assert any(note.startswith("1 predictions answer no question") for note in notes)


def test_models_of_two_folders_are_compared_by_the_benchmark(tmp_path):
    of = {"task": "grounding", "evidence": [[10.0, 20.0]]}
    (tmp_path / "a").mkdir()
    cases.write(tmp_path / "a", [line(n, **of, answer="[10, 20]") for n in range(6)])
    cases.write(tmp_path / "b", [line(n, **of, answer="[10, 40]") for n in range(6)])
    summary, _ = benchmark_results("charades", tmp_path / "b", tmp_path / "a")
    gains = {row["metric"]: row["value"] for row in summary["comparisons"]}
    assert gains == pytest.approx({"iou": 1 / 3 - 1, "recall_0.5": -1.0})


def test_no_question_of_the_benchmark_is_one_line(tmp_path, refusal):
    cases.write(tmp_path, cases.lines())
    told = refusal(evaluate.main, ["--rescore", "--out", str(tmp_path), "--benchmark=videomme"])
    assert told.startswith("none of the predictions answers a question of videomme")


def test_the_command_writes_a_page(tmp_path, capsys):
    cases.write(tmp_path, cases.lines())
    evaluate.main(["--rescore", "--out", str(tmp_path), "--benchmark=medvidqa"])
    assert "medvidqa's figures are written to" in capsys.readouterr().out
    page = (tmp_path / "benchmark_medvidqa.md").read_text()
    assert "| model | questions, videos | mIoU | R@.3 | R@.5 | R@.7 | unread |" in page
    assert json.loads((tmp_path / "benchmark_medvidqa.json").read_text())["estimates"]


TEXTS = [
    ("The probe enters the left eye.", "The probe enters the left eye."),
    ("A clip is placed on the duct.", "A clip is placed on the cystic duct."),
    ("", "Nothing happens."),
]


def test_texts_are_scored_as_the_libraries_do(tmp_path):
    """nltk's own corpus_bleu, pycocoevalcap's and rouge's own means, on the same texts."""
    bleu = pytest.importorskip("nltk.translate.bleu_score")
    cider = pytest.importorskip("pycocoevalcap.cider.cider")
    rouge = pytest.importorskip("rouge")
    rows = [line(n, answer=said, reference=told) for n, (said, told) in enumerate(TEXTS)]
    found, notes = values("svu31k", tmp_path, rows)
    row = found["m", "description"]
    words = [[text.lower().replace(".", "").split() for text in pair] for pair in TEXTS]
    assert row["bleu_4"] == pytest.approx(
        bleu.corpus_bleu([[told] for _, told in words], [said for said, _ in words])
    )
    mean, _ = cider.Cider().compute_score(
        {i: [told] for i, (_, told) in enumerate(TEXTS)},
        {i: [said] for i, (said, _) in enumerate(TEXTS)},
    )
    assert row["cider"] == pytest.approx(mean)
    scorer = rouge.Rouge(metrics=["rouge-l"])
    f1 = [scorer.get_scores(*pair)[0]["rouge-l"]["f"] for pair in TEXTS[:2]]
    assert row["rouge_l"] == pytest.approx(sum(f1) / 3)  # a text without words: 0
    assert any(note.startswith("CI, DO, CU, TU need a judge") for note in notes)


@pytest.fixture
def serve(monkeypatch):
    """Starts a judge's server; (server, its address)."""
    monkeypatch.setenv("no_proxy", "*")
    servers = []

    def start(*script):
        servers.append(Server(script))
        threading.Thread(target=servers[-1].serve_forever, args=(0.01,), daemon=True).start()
        return servers[-1], f"http://127.0.0.1:{servers[-1].server_port}/v1"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_qualities_are_judged_once_and_kept(tmp_path, serve, monkeypatch):
    """Each answer four times; what was judged is not asked again, but a changed answer is."""

    def grade(handler):
        said = json.loads(handler.body["messages"][1]["content"])["answer"]
        handler.reply(200, completion(json.dumps({"score": 5 if "probe" in said else 2})))

    server, url = serve(grade)
    section = {
        **{"url": url, "model": "judge-model", "timeout": 5.0, "concurrency": 2},
        **{"temperature": 0.0, "max_failed": 0.0},
    }
    monkeypatch.setattr(stored_qualities, "_BATCH", 2)
    rows = [line(n, answer=said, reference=told) for n, (said, told) in enumerate(TEXTS)]
    grounding = line(9, task="grounding", evidence=[[1.0, 2.0]])  # measured, not judged
    cases.write(tmp_path, [*rows, grounding])
    judge_stored_qualities(tmp_path, section)
    assert len(server.requests) == 8  # an empty answer has 1 unasked
    kept = (tmp_path / "qualities.jsonl").read_bytes()
    (tmp_path / "qualities.jsonl").write_bytes(kept[:-9])  # as a kill would leave it
    judge_stored_qualities(tmp_path, section)
    assert (tmp_path / "qualities.jsonl").read_bytes() == kept and len(server.requests) == 8
    monkeypatch.setattr("medscope_jax.evaluation.benchmark.cider_values", lambda a, r: [0.0] * 3)
    monkeypatch.setattr("medscope_jax.evaluation.benchmark.rouge_l_values", lambda a, r: [0.0] * 3)
    monkeypatch.setattr("medscope_jax.evaluation.benchmark.text_metrics", lambda *a, **k: ({}, []))
    summary, notes = benchmark_results("svu31k", tmp_path)
    (row,) = summary["estimates"]
    assert all(row["values"][quality]["value"] == (5 + 2 + 1) / 3 for quality in QUALITIES)
    assert not any("need a judge" in note for note in notes)
    path = tmp_path / "predictions.jsonl"
    path.unlink()
    cases.write(tmp_path, [{**rows[0], "answer": "another"}, *rows[1:]])
    (row,) = benchmark_results("svu31k", tmp_path)[0]["estimates"]
    assert all(row["values"][quality]["count"] == 2 for quality in QUALITIES)
    judge_stored_qualities(tmp_path, section)
    assert len(server.requests) == 12
