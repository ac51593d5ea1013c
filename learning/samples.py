"""Decides which of a step's samples are dropped, which metrics are logged, and when a run stops by itself."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from learning.groups import entropy, mixed

DROPPED = "dropped"  # the extra field that holds a dropped sample's reason
CHOICE = "choice"  # the extra field that names a sample's first choice
TAUGHT = "taught"  # the extra field that says whether the teacher played a sample
_CRASHED = "the agent loop raised; see the log"


class RunStopped(Exception):
    """The run stops by itself; the message is the reason."""


@dataclass(frozen=True, slots=True)
class Settled:
    """`kept` are the positions of samples that are trained on, group after group; `dropped` are the rest."""

    kept: tuple[int, ...]
    dropped: tuple[int, ...]
    metrics: dict[str, float]


def settle(
    groups: Sequence[str],
    fields: Sequence[Mapping[str, Any]],
    expected: int,
    smallest_group: int,
    max_failed_share: float,
    step: int,
    drop_even: bool = False,
) -> Settled:
    """Removes the failed samples of a step. Raises RunStopped if there are too many.

    `groups` are the prompts that samples belong to, and `fields` their extra fields. `expected` counts all that
    were asked for: those that are missing failed too. A group of fewer than `smallest_group` samples that are
    left goes as well, since the advantage of a sample without siblings would be its bare reward. With `drop_even`
    so do groups whose samples are all worth the same, from which nothing is learned; one of them stays where all are
    even, since verl cannot train on nothing. The metrics are of the samples before even groups go, without the
    teacher's.
    """
    reasons = Counter(str(extra[DROPPED]) for extra in fields if extra.get(DROPPED))
    if missing := expected - len(groups):
        reasons[_CRASHED] += missing
    failed = sum(reasons.values())
    if failed > max_failed_share * expected:
        why = "; ".join(f"{count} × {reason}" for reason, count in reasons.most_common(3))
        raise RunStopped(
            f"step {step}: {failed} of {expected} samples failed, more than reward.max_failed_share "
            f"{max_failed_share:g} allows: {why}"
        )
    alive = Counter(group for group, extra in zip(groups, fields, strict=True) if not extra.get(DROPPED))
    kept = tuple(
        place
        for place, (group, extra) in enumerate(zip(groups, fields, strict=True))
        if not extra.get(DROPPED) and alive[group] >= smallest_group
    )
    if not kept:
        raise RunStopped(f"step {step}: no prompt has {smallest_group} samples left")
    lonely = len(groups) - len(kept) - failed + missing
    own = [place for place in kept if not fields[place].get(TAUGHT)]
    metrics = means(fields[place]["reward_extra_info"] for place in own)

    def differ(part: str, places: Sequence[int]) -> bool:
        return mixed([fields[place]["reward_extra_info"][part] for place in places])

    members, together = _by_group(groups, kept), _by_group(groups, own)
    uneven = [places for places in members if differ("reward", places)]
    if together := [places for places in together if len(places) > 1]:
        choices = [[fields[place][CHOICE] for place in places] for places in together]
        metrics["search/mixed_groups"] = statistics.fmean(differ("reward", places) for places in together)
        metrics["search/mixed_searches"] = statistics.fmean(differ("searches", places) for places in together)
        metrics["search/choice_entropy"] = statistics.fmean(map(entropy, choices))
    chosen = (uneven or members[:1]) if drop_even else members
    kept = tuple(place for places in chosen for place in places)
    metrics |= {"search/dropped": float(failed), "search/lonely": float(lonely)}
    for boundary, count in Counter(reason.partition(":")[0] for reason in reasons.elements()).items():
        metrics[f"search/dropped_by/{boundary if boundary != _CRASHED else 'crash'}"] = float(count)
    return Settled(kept, tuple(sorted(set(range(len(groups))) - set(kept))), metrics)


def _by_group(groups: Sequence[str], places: Iterable[int]) -> list[list[int]]:
    members: dict[str, list[int]] = {}
    for place in places:
        members.setdefault(groups[place], []).append(place)
    return list(members.values())


def means(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Returns the mean of each part over the samples that have it, as `search/PART`."""
    columns: dict[str, list[float]] = {}
    for sample in parts:
        for name, value in sample.items():
            columns.setdefault(name, []).append(value)
    return {f"search/{name}": statistics.fmean(values) for name, values in columns.items()}
