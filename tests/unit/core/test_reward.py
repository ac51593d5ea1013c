"""Rewards, and what episodes are watched for."""

import pytest

from search_agent.grading.reward import Conduct, Penalties, gain_beyond_rag, gain_plus_accuracy
from search_agent.types import Document, Passage, StopReason, Timings, Trajectory, Turn, Usage

A, B = Passage("a", "A", "text"), Passage("b", "B", "text")


def trajectory(*turns: Turn, method: str = "s3") -> Trajectory:
    kept: dict[str, Document] = {}
    for number, turn in enumerate(turns, 1):
        for passage in turn.selected:
            kept.setdefault(passage.id, Document(passage, number))
    usage = Usage(searches=sum(bool(turn.query) for turn in turns))
    return Trajectory(method, "Who was it?", tuple(kept.values()), turns, StopReason.COMPLETE, usage, Timings())


def test_gain_is_what_retrieval_alone_would_not_have_got() -> None:
    assert [gain_beyond_rag(ours, rag) for ours in (0.0, 1.0) for rag in (0.0, 1.0)] == [0, -1, 1, 0]
    assert [gain_plus_accuracy(ours, rag) for ours in (0.0, 1.0) for rag in (0.0, 1.0)] == [0, -1, 2, 1]


def test_where_naive_rag_fails_both_order_alike() -> None:
    assert gain_plus_accuracy(1, 0) > gain_plus_accuracy(0, 0)
    assert gain_beyond_rag(1, 0) > gain_beyond_rag(0, 0)


def test_a_good_episode_is_nothing_of_the_kind() -> None:
    conduct = Conduct.of(trajectory(Turn("Who was it?", (A, B), (B,)), Turn("a new query", (A, B), (A,))))
    assert conduct == Conduct(2, 2, 0, 0, 0, everything=False, copied=False, idle=False)


def test_keeping_every_block_whole_is_seen_where_the_method_chooses() -> None:
    whole = (Turn("Who was it?", (A, B), (A, B)), Turn("", (), (), "not understood"))
    assert Conduct.of(trajectory(*whole)).everything
    assert not Conduct.of(trajectory(*whole, Turn("x", (A, B), (B,)))).everything
    assert not Conduct.of(trajectory(*whole, method="search_r1")).everything  # it keeps all it finds


def test_a_search_with_the_question_itself_is_seen() -> None:
    first = Turn("Who was it?", (A,), ())
    assert not Conduct.of(trajectory(first)).copied  # s3's first search is the environment's
    copied = Conduct.of(trajectory(first, Turn("who was  it", (A,), ())))
    assert copied.copied
    assert copied.repeated == 1
    assert not Conduct.of(trajectory(first, method="ircot")).copied
    assert Conduct.of(trajectory(first, method="search_r1")).copied


def test_following_the_form_and_keeping_nothing_is_seen() -> None:
    assert Conduct.of(trajectory(Turn("Who was it?", (A,), ()))).idle
    assert not Conduct.of(trajectory(Turn("Who was it?", (A,), (), "no list"))).idle  # malformed is counted as that
    assert not Conduct.of(trajectory(Turn("Who was it?", (A,), (A,)))).idle


@pytest.mark.parametrize(
    ("penalties", "cost"),
    [(Penalties(), 0), (Penalties(everything=0.5), 0), (Penalties(idle=0.25), 0.25), (Penalties(malformed=0.1), 0)],
)
def test_penalties_are_nothing_unless_they_are_set(penalties: Penalties, cost: float) -> None:
    assert Conduct.of(trajectory(Turn("Who was it?", (A,), ()))).cost(penalties) == cost


def test_each_repeated_search_costs() -> None:
    turns = [
        Turn("Who was it?", (A,)),
        Turn("a new query", (A,)),
        Turn("A new  query!", (A,)),
        Turn("who was it", (A,)),
    ]
    assert Conduct.of(trajectory(*turns)).cost(Penalties(repeated=0.5)) == 1.0


@pytest.mark.parametrize(
    ("later", "wasted"),
    [
        ((Turn("a new query", (A, B), (B,)),), 0),
        ((Turn("a new query", (A, B), (A,)),), 1),  # it was kept before
        ((Turn("a new query", (A, B)), Turn("another one", ())), 2),
        ((Turn("a new query", (A, B)), Turn("A new query!", (A, B))), 1),  # the second one is repeated
        ((Turn("Who was it?", (A, B)),), 0),  # repeated
        ((Turn("a new query", (A, B), (), "no list"),), 0),  # malformed
    ],
)
def test_each_search_after_which_nothing_new_is_kept_costs(later: tuple[Turn, ...], wasted: int) -> None:
    conduct = Conduct.of(trajectory(Turn("Who was it?", (A,), (A,)), *later))
    assert conduct.cost(Penalties(wasted=0.5)) == 0.5 * wasted


def test_the_environments_search_is_no_waste_of_the_searchers() -> None:
    nothing = Turn("Who was it?", (A,))
    assert Conduct.of(trajectory(nothing)).wasted == 0
    assert Conduct.of(trajectory(nothing, method="search_r1")).wasted == 1


def test_each_passage_kept_costs() -> None:
    turns = [Turn("Who was it?", (A, B), (A, B)), Turn("a new query", (A, B), (A,))]
    assert Conduct.of(trajectory(*turns)).cost(Penalties(kept=0.5)) == 1.0


def test_each_malformed_turn_costs() -> None:
    turns = [Turn("", (), (), "bad"), Turn("", (), (), "bad")]
    assert Conduct.of(trajectory(*turns)).cost(Penalties(malformed=0.5)) == 1.0
