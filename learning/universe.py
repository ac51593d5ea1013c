"""A closed universe: families of invented people, a passage about each, and questions that only they answer.

The people and their facts are PhantomWiki's (Gong et al., arXiv 2502.20377; MIT), one world per folder that
`phantom-wiki-generate --article-format json` wrote. Its articles state a relation on both sides, so that one search
for a name finds the relatives too. Here each fact stands in one passage only: who a mother is in her child's, who a
husband is in his wife's. A question that needs three passages needs three searches.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evaluation.errors import EvaluateProblem
from search_agent.types import Passage, Question

RELATIONS = ("mother", "father", "husband")
ATTRIBUTES = {"dob": "date of birth", "job": "occupation", "hobby": "hobby"}  # PhantomWiki's names, and ours
_WORDS = {relation: relation for relation in RELATIONS} | ATTRIBUTES

# Each person's stated facts, by name: {"father": "Dino Beltran", "hobby": "meditation", …}
World = Mapping[str, Mapping[str, str]]


def read_world(folder: Path) -> World:
    """Reads the people of PhantomWiki's output. Raises EvaluateProblem naming the file."""
    path = folder / "articles.json"
    try:
        return {article["title"]: dict(_facts(article["facts"])) for article in json.loads(path.read_bytes())}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EvaluateProblem(f"{path}: not a world of PhantomWiki: {error}") from None


def _facts(facts: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yields the statements of a fact list such as 'hobby("Aida Wang", "meditation").'"""
    for fact in facts:
        name, _, arguments = fact.partition("(")
        if name in _WORDS:
            yield _WORDS[name], str(json.loads(f"[{arguments.removesuffix(').')}]")[1])


def passages(name: str, world: World) -> list[Passage]:
    """Returns a passage per person, titled by the person's name."""
    return [
        Passage(
            _id(name, person), person, " ".join(f"The {what} of {person} is {value}." for what, value in facts.items())
        )
        for person, facts in world.items()
    ]


def _id(name: str, person: str) -> str:
    return f"{name}-{person.replace(' ', '-')}"


@dataclass(frozen=True, slots=True)
class _Path:
    """The people that a question leads through, from the one it names, and the relations between them."""

    people: tuple[str, ...]
    relations: tuple[str, ...]

    def chain(self, world: World) -> str:
        """Returns the number of people, with "-shortcut" if a passage names more of them than the next.

        With a shortcut, searches for the names of an early passage find people that the path reaches later.
        """
        shortcut = any(
            later in world[person].values()
            for place, person in enumerate(self.people)
            for later in self.people[place + 2 :]
        )
        return f"{len(self.people)}{'-shortcut' if shortcut else ''}"


def _paths(world: World, hops: int) -> list[_Path]:
    """Returns all paths of `hops` different people who all have a passage."""
    paths = [_Path((person,), ()) for person in world]
    for _ in range(hops - 1):
        paths = [
            _Path((*path.people, relative), (*path.relations, relation))
            for path in paths
            for relation, relative in world[path.people[-1]].items()
            if relation in RELATIONS and relative in world and relative not in path.people
        ]
    return paths


def questions(name: str, world: World, counts: Mapping[int, int], seed: int) -> list[Question]:
    """Returns as many questions as `counts` says for each number of hops, or all there are, chosen by the seed.

    Each asks for a fact of the last person of a path, which no passage before it on the path states. The world's name
    is the article of its questions, so that sets are divided by worlds. The group `chain` marks paths with a shortcut.
    """
    order = random.Random(f"{seed} {name}")
    made: list[Question] = []
    for hops, count in sorted(counts.items()):
        asked = [(path, what) for path in _paths(world, hops) for what in world[path.people[-1]]]
        asked = [
            (path, what)
            for path, what in asked
            if not any(world[path.people[-1]][what] in world[person].values() for person in path.people[:-1])
        ]
        for path, what in order.sample(asked, min(count, len(asked))):
            chain = " of ".join(f"the {word}" for word in (what, *reversed(path.relations)))
            asks = "Who" if what in RELATIONS else "What"
            made.append(
                Question(
                    id=f"{name}-{len(made)}",
                    text=f"{asks} is {chain} of {path.people[0]}?",
                    golds=(world[path.people[-1]][what],),
                    gold_passages=tuple((_id(name, person),) for person in path.people),
                    article=name,
                    groups={"dataset": "universe", "hops": str(hops), "chain": path.chain(world)},
                )
            )
    return made


def without_namesakes(worlds: Mapping[str, World]) -> dict[str, World]:
    """Returns the worlds without the people whose name another world has too: their questions would be ambiguous."""
    seen: dict[str, str] = {}
    shared = {person for name, world in worlds.items() for person in world if seen.setdefault(person, name) != name}
    return {
        name: {person: facts for person, facts in world.items() if person not in shared}
        for name, world in worlds.items()
    }
