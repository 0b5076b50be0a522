"""What benchmarks.slots counts is what a plain scheduler counts, token by token."""

import pytest

from benchmarks.slots import draw_turns, make_counter


def plain_counts(rollouts, slots, prefill_rows):
    """(decode steps, prefills of observations) of rollouts, each a list of its turns' tokens."""
    left = [list(turns) for turns in rollouts]  # in the order in which they begin
    busy = [None] * slots  # the turns that a slot's rollout has yet to write
    waits = [False] * slots
    steps = looks = 0
    while left or any(busy):
        waiting = [slot for slot in range(slots) if waits[slot]]
        writing = [slot for slot in range(slots) if busy[slot] and not waits[slot]]
        if left and None in busy:
            busy[busy.index(None)] = left.pop(0)
        elif waiting and (len(waiting) >= prefill_rows or len(waiting) >= len(writing)):
            looks += 1
            for slot in waiting[:prefill_rows]:
                waits[slot] = False
        else:
            steps += 1
            for slot in writing:
                busy[slot][0] -= 1
                if busy[slot][0] == 0:
                    busy[slot] = busy[slot][1:] or None
                    waits[slot] = busy[slot] is not None
    return steps, looks


@pytest.mark.parametrize("slots, prefill_rows", [(4, 1), (6, 3)])
def test_counts_are_those_of_a_plain_scheduler(slots, prefill_rows):
    turns = draw_turns(24, seed=1)
    found = make_counter(slots, 2, prefill_rows, 700)(turns)
    steps, looks = plain_counts(turns, slots, prefill_rows)
    assert found["decode_steps"] == steps and found["slot_steps"] == slots * steps
    assert found["decoded"] == sum(map(sum, turns))
    assert found["observation_prefills"] == looks
