"""Questions of very many: read when they are asked, and as wide as if all had been looked at."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from medscope_jax.dialogue import save_tokenizer, train_tokenizer
from medscope_jax.errors import UserError
from medscope_jax.rollout import prompt_width
from medscope_jax.training import asked as room
from medscope_jax.training import run as run_room
from medscope_jax.training.asked import Questions, check_questions, deciding
from medscope_jax.training.run import VideoSplit, load_records
from medscope_jax.training.workdir import Workdir
from tests.data.row_lengths_cases import CALL, END, LAYOUT, OUTLINES, MemorySuite

COUNT = 60
SPLIT = VideoSplit(list(OUTLINES.values()), {name: row for row, name in enumerate(OUTLINES)})


class Asking(MemorySuite):
    """Questions of many lengths; `wrong` of them can't be asked."""

    wrong: tuple[int, ...] = ()
    reads: list[int] = []  # numbers of the records that were read

    def records(self, part, split, fields=()):
        suite = self

        class Records:
            def __len__(self):
                return suite.count

            def __getitem__(self, number):
                if not 0 <= number < suite.count:
                    raise IndexError(number)
                suite.reads.append(int(number))
                return suite.record(part, int(number))

        return Records()

    def record(self, part, number):
        words = "" if number in self.wrong else "Where is it" + " left" * (number * 37 % 23) + "?"
        return super().record(part, number) | {"question": words}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """What questions ask of a run whose 60 questions are many."""
    (tmp_path / "run").mkdir()
    tokenizer = train_tokenizer(["Where is it left?", CALL % 4.0, END] * 5, 1024, 16)
    save_tokenizer(tokenizer, Workdir(tmp_path / "run").tokenizer)
    model = SimpleNamespace(checkpoint="", text=SimpleNamespace(vocab_size=1024))
    config = SimpleNamespace(model=model, video=SimpleNamespace(native_pairs=False))
    config.rollout = SimpleNamespace(turn_tokens=8)
    for module in (room, run_room):
        monkeypatch.setattr(module, "MANY", 50)
    monkeypatch.setattr(Asking, "reads", [])
    monkeypatch.setattr(Asking, "wrong", ())
    layout = dataclasses.replace(LAYOUT, length=400)
    suite = Asking(tmp_path / "suite", COUNT)
    told = {"layout": layout, "tokenizer": tokenizer, "suite": suite}
    return SimpleNamespace(config=config, folder=tmp_path / "run", **told)


def width_of(run, numbers, spare=1):
    records = [run.suite.record("rl", number) for number in numbers]
    times = [OUTLINES[record["video"]].times for record in records]
    return prompt_width(records, times, run.tokenizer, run.layout, True, spare)


def test_one_decides_for_all(run, monkeypatch):
    """The width of the longest question and the shortest is that of all; others have others."""
    chosen = deciding(run, "rl", "train", COUNT)
    assert len(chosen) == 2
    assert width_of(run, chosen) == width_of(run, range(COUNT)) > width_of(run, range(0, COUNT, 23))
    monkeypatch.setattr(room, "MANY", COUNT)
    assert deciding(run, "rl", "train", COUNT) == list(range(COUNT))


def test_many_records_are_not_read_at_once(run, monkeypatch):
    records = load_records(run, "rl", "train")
    asked = Questions(records, SPLIT)
    assert run.suite.reads == []
    question = asked[7]
    assert run.suite.reads == [7]
    assert question.number == 7 and question.video == SPLIT.rows[question.record["video"]]
    np.testing.assert_array_equal(question.times, SPLIT.videos[question.video].times)
    monkeypatch.setattr(run_room, "MANY", COUNT)
    kept = load_records(run, "rl", "train")
    assert isinstance(kept, list) and len(kept) == COUNT


def test_a_question_that_leaves_no_room_is_told_before_training(run):
    check_questions(run)
    widest = width_of(run, range(COUNT))
    run.layout = dataclasses.replace(run.layout, length=widest.most)
    with pytest.raises(UserError, match="tokens too long") as found:
        check_questions(run)
    with pytest.raises(UserError) as wanted:
        width_of(run, range(COUNT), spare=8)
    assert str(found.value) == str(wanted.value)


def test_a_question_that_can_not_be_asked_is_told(run, monkeypatch):
    monkeypatch.setattr(Asking, "wrong", (41, 52))
    with pytest.raises(UserError, match="is empty"):
        check_questions(run)


def test_train_and_test_have_tables_of_their_own(run):
    check_questions(run)
    assert len(list(run.suite.lengths_folder.iterdir())) == 2
