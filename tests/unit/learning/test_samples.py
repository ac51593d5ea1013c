"""A step's samples: which are trained on, and when a run stops."""

import math
from typing import Any

import pytest

from learning.samples import CHOICE, DROPPED, TAUGHT, RunStopped, settle


def good(reward: float, choice: str = "1 stops", searches: float = 1) -> dict[str, Any]:
    return {"reward_extra_info": {"reward": reward, "gain": reward, "searches": searches}, CHOICE: choice}


DOWN = {DROPPED: "retriever: unavailable: it cannot be reached", "reward_extra_info": {}}


def test_all_samples_are_kept_where_none_failed() -> None:
    settled = settle(["a", "a", "b", "b"], [good(1), good(0), good(0), good(1)], 4, 2, 0.0, 1)
    assert settled.kept == (0, 1, 2, 3)
    assert settled.dropped == ()
    assert settled.metrics == {
        "search/reward": 0.5, "search/gain": 0.5, "search/searches": 1, "search/dropped": 0, "search/lonely": 0,
        "search/mixed_groups": 1, "search/mixed_searches": 0, "search/choice_entropy": 0,
    }  # fmt: skip


def test_groups_without_variance_are_counted_and_leave_if_they_are_to() -> None:
    groups = ["a", "a", "b", "b", "c", "c"]
    fields = [good(1), good(1), good(0, "1 stops"), good(1, "2 goes on", 2), DOWN, good(0, searches=3)]
    settled = settle(groups, fields, 6, 2, 0.5, 1, drop_even=True)
    assert (settled.kept, settled.dropped) == ((2, 3), (0, 1, 4, 5))
    assert settled.metrics["search/mixed_groups"] == 0.5  # c has no second sample
    assert settled.metrics["search/mixed_searches"] == 0.5
    assert settled.metrics["search/choice_entropy"] == pytest.approx(math.log(2) / 2)
    assert settled.metrics["search/reward"] == 0.75  # of the groups that leave too
    assert settled.metrics["search/lonely"] == 1
    assert settle(groups, fields, 6, 2, 0.5, 1).kept == (0, 1, 2, 3)


def test_the_teachers_samples_count_in_their_group_and_in_no_figure() -> None:
    taught = good(1, "3 goes on") | {TAUGHT: True}
    settled = settle(["a", "a", "a", "b", "b"], [good(0), good(0), taught, good(0), good(1)], 5, 2, 0.0, 1, True)
    assert settled.kept == (0, 1, 2, 3, 4)  # what the teacher did is better than what a's own samples did
    assert settled.metrics["search/reward"] == 0.25
    assert settled.metrics["search/mixed_groups"] == 0.5
    assert settled.metrics["search/choice_entropy"] == 0


def test_samples_of_a_group_follow_each_other() -> None:
    groups, fields = ["a", "b", "a", "b", "a"], [good(1), good(0), good(0), good(1), good(1)]
    assert settle(groups, fields, 5, 2, 0.0, 1).kept == (0, 2, 4, 1, 3)
    assert settle(groups, fields, 5, 2, 0.0, 1, drop_even=True).kept == (0, 2, 4, 1, 3)


def test_one_group_stays_where_all_are_even() -> None:
    settled = settle(["a", "a", "b", "b"], [good(1), good(1), good(0), good(0)], 4, 2, 0.0, 1, drop_even=True)
    assert settled.kept == (0, 1)
    assert settled.metrics["search/mixed_groups"] == 0


def test_a_part_is_averaged_over_the_samples_that_have_it() -> None:
    covered = {"reward_extra_info": {"reward": 1.0, "coverage": 0.5, "searches": 2.0}, CHOICE: ""}
    settled = settle(["a", "a"], [good(0), covered], 2, 2, 0.0, 1)
    assert (settled.metrics["search/reward"], settled.metrics["search/coverage"]) == (0.5, 0.5)


def test_a_failed_sample_is_taken_out_and_not_scored() -> None:
    settled = settle(["a", "a", "a"], [good(1), DOWN, good(0)], 3, 2, 0.5, 1)
    assert (settled.kept, settled.dropped) == ((0, 2), (1,))
    assert settled.metrics["search/reward"] == 0.5
    assert settled.metrics["search/dropped"] == settled.metrics["search/dropped_by/retriever"] == 1


def test_a_sample_without_siblings_goes_too() -> None:
    groups = ["a", "a", "b", "b"]
    settled = settle(groups, [good(1), DOWN, good(0), good(1)], 4, 2, 0.5, 1)
    assert settled.kept == (2, 3)
    assert settled.metrics["search/lonely"] == 1
    alone = settle(groups, [good(1), DOWN, good(0), good(1)], 4, 1, 0.5, 1)
    assert alone.kept == (0, 2, 3)


def test_samples_that_never_came_failed() -> None:
    settled = settle(["a", "a"], [good(1), good(0)], 3, 1, 0.5, 1)
    assert settled.kept == (0, 1)
    assert settled.metrics["search/dropped"] == settled.metrics["search/dropped_by/crash"] == 1
    assert settled.metrics["search/lonely"] == 0


def test_too_many_failures_stop_the_run_and_say_why() -> None:
    fields = [good(1), DOWN, DOWN, good(0)]
    with pytest.raises(RunStopped) as stopped:
        settle(["a", "a", "b", "b"], fields, 4, 1, 0.49, 12)
    reason = "step 12: 2 of 4 samples failed, more than reward.max_failed_share 0.49 allows: "
    assert str(stopped.value) == reason + "2 × retriever: unavailable: it cannot be reached"
    assert settle(["a", "a", "b", "b"], fields, 4, 1, 0.5, 12).kept == (0, 3)


def test_nothing_left_to_train_on_stops_the_run() -> None:
    with pytest.raises(RunStopped, match="no prompt has 2 samples left"):
        settle(["a", "a", "b", "b"], [good(1), DOWN, DOWN, good(0)], 4, 2, 0.5, 1)
