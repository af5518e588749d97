"""Scheduled scalars."""

import pytest

from engine.errors import UserError
from engine.schedule import check_scheduled, scheduled


def test_a_number_stays_what_it_is():
    assert [scheduled(3, step, 10) for step in (0, 5, 9)] == [3.0, 3.0, 3.0]


def test_fractions_reach_from_the_first_step_to_the_last():
    assert [scheduled((0.0, 1.0, 1.0, 0.0), step, 5) for step in range(5)] == [1.0, 0.75, 0.5, 0.25, 0.0]


def test_steps_above_one_are_steps_whatever_their_type():
    for value in ((0, 10, 100, 20), (0.0, 10.0, 100.0, 20.0)):
        assert scheduled(value, 50, 1000) == 15.0
        assert scheduled(value, 500, 1000) == 20.0


def test_before_the_first_entry_and_after_the_last_the_value_is_constant():
    assert scheduled((0.5, 1.0, 0.75, 2.0), 0, 101) == 1.0
    assert scheduled((0.5, 1.0, 0.75, 2.0), 100, 101) == 2.0


def test_two_entries_at_one_step_are_a_jump_and_the_later_one_counts_there():
    value = (0.0, 32.0, 0.5, 32.0, 0.5, 64.0)
    assert [scheduled(value, step, 11) for step in (0, 4, 5, 10)] == [32.0, 32.0, 64.0, 64.0]


def test_a_jump_at_the_first_step_has_already_happened_there():
    assert scheduled((0.0, 1.0, 0.0, 2.0, 1.0, 2.0), 0, 11) == 2.0


def test_a_run_of_one_step_takes_the_first_value():
    assert scheduled((0.0, 1.0, 1.0, 0.0), 0, 1) == 1.0


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (11.0, r"x.y is 11, but must lie in 0\.\.10"),
        ((0.0, 1.0, 1.0, 11.0), r"x.y is 11, but must lie in 0\.\.10"),
        ((0.5, 1.0, 0.2, 1.0), "with rising steps"),
        ((0.0, 1.0, 0.5), "one number or step,value"),
        ((-1.0, 1.0), "with rising steps"),
        ((), "one number or step,value"),
        (float("nan"), "must lie in"),
    ],
)
def test_wrong_schedules_are_refused_by_text(value, text):
    with pytest.raises(UserError, match=text):
        check_scheduled("x.y", value, 0, 10)
