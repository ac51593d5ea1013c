import pytest

from services.retriever.fusion import fuse


def test_scores_are_sums_of_reciprocal_ranks() -> None:
    fused = dict(fuse([[(1, 0.9), (2, 0.8)], [(2, 7.0), (3, 5.0)]], 10))
    assert fused == pytest.approx({1: 1 / 61, 2: 1 / 62 + 1 / 61, 3: 1 / 62})


def test_a_row_that_both_rank_leads() -> None:
    assert [row for row, _ in fuse([[(1, 0.9), (2, 0.8)], [(3, 7.0), (2, 5.0)]], 2)] == [2, 1]


def test_ties_go_to_the_earlier_ranking_and_one_empty_ranking_changes_nothing() -> None:
    assert [row for row, _ in fuse([[(5, 1.0)], [(4, 1.0)]], 5)] == [5, 4]
    assert [row for row, _ in fuse([[(5, 1.0), (4, 0.5)], []], 5)] == [5, 4]
    assert fuse([[], []], 5) == []
