"""Damaged recordings: nothing is lost without a word, nothing hangs, an error is one line.

benchmarks/damage.py reads thousands; these are a few of each container and damage, by seed.
"""

import itertools

import pytest

from benchmarks.damage_files import CONTAINERS, DAMAGES, damaged, good_recordings
from benchmarks.damage_read import FAILURES, judge_undamaged, read_all

SEEDS = range(2)
# A DV picture has 144 kB, its recording 3 MB: read less often.
ONCE = ("dv",)


@pytest.fixture(scope="module")
def goods(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    return {name: good_recordings(name, folder / name) for name in CONTAINERS}


@pytest.mark.parametrize("container", CONTAINERS)
def test_the_good_ones_are_read_whole(goods, container, tmp_path):
    for good in goods[container]:
        path = tmp_path / f"good.{good.ending}"
        path.write_bytes(good.data)
        assert judge_undamaged(path, good.count) == ("whole", "whole: ")


def test_damage_is_never_silent(goods, tmp_path):
    tasks = [
        (container, damage, seed)
        for container, damage, seed in itertools.product(CONTAINERS, DAMAGES, SEEDS)
        if damage != "none" and (seed == 0 or container not in ONCE)
    ]
    came = list(read_all(tasks, goods, tmp_path, processes=1, limit=10.0))
    assert len(came) == len(tasks)
    failures = [(*task, outcome, details) for task, outcome, details in came if outcome in FAILURES]
    assert not failures
    # The damage is real: hardly any recording survives all of it.
    assert sum(outcome != "whole" for _, outcome, _ in came) > len(came) // 2


def test_damage_depends_on_its_seed_alone(goods):
    for damage in DAMAGES:
        first = damaged(goods["mp4"], damage, 7)[1]
        assert first == damaged(goods["mp4"], damage, 7)[1]
        assert (first == goods["mp4"][1].data) == (damage == "none")
