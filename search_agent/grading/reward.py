"""The reward of an episode: the gain of its passages over plain retrieval's, less the costs of bad conduct."""

from __future__ import annotations

from dataclasses import dataclass

from search_agent.agents import AGENTS
from search_agent.grading import answers
from search_agent.types import Trajectory


def gain_beyond_rag(ours: float, rag: float) -> float:
    """Returns GenAcc from the searcher's passages minus GenAcc from naive RAG's, -1.0 to 1.0 (arXiv 2505.14146)."""
    return ours - rag


def gain_plus_accuracy(ours: float, rag: float) -> float:
    """Returns the gain plus GenAcc itself, -1.0 to 2.0, the reward of s3's published code."""
    return gain_beyond_rag(ours, rag) + ours


@dataclass(frozen=True, slots=True)
class Penalties:
    """The costs subtracted from the reward:

    for each way to score well without searching well, and for each malformed turn, each repeated or wasted search and
    each passage kept.
    """

    everything: float = 0.0
    copied: float = 0.0
    idle: float = 0.0
    malformed: float = 0.0
    repeated: float = 0.0
    wasted: float = 0.0
    kept: float = 0.0


@dataclass(frozen=True, slots=True)
class Conduct:
    """The conduct of a searcher in an episode: counts, and habits that a reward must not teach.

    `everything`: a method that selects kept each block whole. `copied`: one of the searcher's own searches repeats the
    question. `idle`: every turn was well formed and nothing was kept. `repeated` counts searches made before, `wasted`
    the searcher's other searches after which a well-formed turn kept nothing new.
    """

    searches: int
    selected: int
    malformed: int
    repeated: int
    wasted: int
    everything: bool
    copied: bool
    idle: bool

    @classmethod
    def of(cls, trajectory: Trajectory) -> Conduct:
        agent = AGENTS[trajectory.method]
        searches = [
            (answers.normalise(turn.query), turn.error, number)
            for number, turn in enumerate(trajectory.turns, 1)
            if turn.query
        ]
        queries = [query for query, *_ in searches]
        theirs = 1 if agent.opens_with_question else 0  # searches of the environment, which come first
        fruitful = {document.turn for document in trajectory.documents}
        wasted = [
            query
            for place, (query, error, number) in enumerate(searches)
            if place >= theirs and query not in queries[:place] and not error and number not in fruitful
        ]
        blocks = [turn for turn in trajectory.turns if turn.retrieved]
        whole = sum(len(turn.selected) == len(turn.retrieved) for turn in blocks)
        malformed = sum(bool(turn.error) for turn in trajectory.turns)
        return cls(
            searches=trajectory.usage.searches,
            selected=len(trajectory.documents),
            malformed=malformed,
            repeated=len(queries) - len(set(queries)),
            wasted=len(wasted),
            everything=agent.selects and whole > 0 and whole == len(blocks),
            copied=answers.normalise(trajectory.question) in queries[theirs:],
            idle=not malformed and not trajectory.documents,
        )

    def cost(self, penalties: Penalties) -> float:
        """Returns the cost of the conduct, to be subtracted from the reward."""
        return (
            penalties.everything * self.everything
            + penalties.copied * self.copied
            + penalties.idle * self.idle
            + penalties.malformed * self.malformed
            + penalties.repeated * self.repeated
            + penalties.wasted * self.wasted
            + penalties.kept * self.selected
        )
