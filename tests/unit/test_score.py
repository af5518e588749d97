"""What the benchmark takes for right."""

from __future__ import annotations

from benchmarks.main_job import PROMPTS
from benchmarks.score import is_natural


def test_natural_is_as_right_a_name_only_where_the_prop_has_that_look_anyway() -> None:
    assert [noun for _, noun, look in PROMPTS if is_natural(noun, look)] == ["bell", "donut", "pumpkin"]
    assert not is_natural("tree", "natural") and not is_natural("bell", "red")
