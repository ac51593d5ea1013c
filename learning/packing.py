"""Packs samples into one row in which a shared prompt is computed only once.

A prompt's tokens but the last lie before the first of its samples. Each sample has the prompt's last token, from which
its first token is predicted, and its response without the last token, from which nothing is predicted.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch

from learning.attention import Layout


@dataclass(frozen=True, slots=True)
class Sample:
    """`prompt` is the same number for samples whose prompts are the same; `learned` marks the response (bool)."""

    prompt: int
    prompt_tokens: int
    learned: torch.Tensor

    @property
    def own_tokens(self) -> int:
        return len(self.learned)

    @property
    def shared_tokens(self) -> int:
        return self.prompt_tokens - 1


@dataclass(frozen=True, slots=True)
class Packed:
    """One row of samples. "Flat" is the place of a token where all samples follow each other, prompts included."""

    tokens: torch.Tensor  # flat place of each token of the row
    positions: torch.Tensor  # position of each token of the row in its sample
    layout: Layout
    rows: torch.Tensor  # place in the row of each token before a learned one
    before: torch.Tensor  # the same, flat; the learned one is the next


def samples_of(prompts: Sequence[torch.Tensor], learned: Sequence[torch.Tensor]) -> list[Sample]:
    """Returns the samples with these prompts (token ids) and marks of learned tokens, all on the CPU."""
    numbers: dict[bytes, int] = {}
    return [
        Sample(numbers.setdefault(prompt.numpy().tobytes(), len(numbers)), len(prompt), marks.bool())
        for prompt, marks in zip(prompts, learned, strict=True)
    ]


def pack(samples: Sequence[Sample], device: torch.device) -> Packed:
    """Returns the row of the samples, on the device."""
    tokens, positions, gather, rows, before = [], [], [], [], []
    queries: list[int] = []
    keys: list[int] = []
    prompts: dict[int, int] = {}  # where each lies
    end = flat = 0
    for sample in samples:
        shared, own = sample.shared_tokens, sample.own_tokens
        if sample.prompt not in prompts:
            prompts[sample.prompt] = end
            if shared:
                tokens.append(torch.arange(flat, flat + shared))
                positions.append(torch.arange(shared))
                gather.append(torch.arange(end, end + shared))
                queries.append(shared)
                keys.append(shared)
                end += shared
        prompt = prompts[sample.prompt]
        tokens.append(torch.arange(flat + shared, flat + shared + own))
        positions.append(torch.arange(shared, shared + own))
        gather += [torch.arange(prompt, prompt + shared), torch.arange(end, end + own)]
        queries.append(own)
        keys.append(shared + own)
        learned = sample.learned.nonzero().flatten()
        rows.append(end + learned)
        before.append(flat + shared + learned)
        end += own
        flat += sample.prompt_tokens + own
    joined = (torch.cat(parts).to(device) for parts in (tokens, positions, gather, rows, before))
    placed, at, keyed, out, back = joined
    return Packed(placed, at, Layout.of(queries, keys, keyed), out, back)


def micro_batches(samples: Sequence[Sample], limit: int) -> list[list[int]]:
    """Returns micro-batches of places of samples, with at most `limit` tokens in a row unless one sample has more.

    Samples of one prompt stay together; if they do not fit into one row, the prompt is in several rows.
    """
    first: dict[int, int] = {}
    for place, sample in enumerate(samples):
        first.setdefault(sample.prompt, place)
    batches: list[list[int]] = []
    tokens, prompt = 0, -1
    for place in sorted(range(len(samples)), key=lambda place: first[samples[place].prompt]):
        sample = samples[place]
        more = sample.own_tokens + (sample.shared_tokens if sample.prompt != prompt else 0)
        if not batches or tokens + more > limit:
            batches.append([])
            tokens, more = 0, sample.own_tokens + sample.shared_tokens
        batches[-1].append(place)
        tokens, prompt = tokens + more, sample.prompt
    return batches


def even_micro_batches(samples: Sequence[Sample], limit: int, count: int) -> list[list[int]]:
    """Returns `count` micro-batches as even as the samples allow, within `limit` as `micro_batches` keeps it.

    The ranks compute theirs at the same time and wait for the largest. `count` is at least as many as
    `micro_batches` makes, and at most as many as there are samples.
    """
    low, high = 1, limit
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if len(micro_batches(samples, middle)) <= count else (middle + 1, high)
    parts = micro_batches(samples, high)
    while len(parts) < count:
        largest = max(range(len(parts)), key=lambda place: len(parts[place]))
        part = parts[largest]
        parts[largest : largest + 1] = [part[: len(part) // 2], part[len(part) // 2 :]]
    return parts


def over_ranks(
    prompts: Sequence[Hashable], shared: Sequence[int], own: Sequence[int], mini_batch: int, ranks: int
) -> list[list[int]]:
    """Returns the places of the samples that each rank computes, in order, mini-batch after mini-batch.

    `prompts` tells samples of one prompt, `shared` and `own` are their tokens of the prompt and of the response. Every
    rank gets the same number of samples from a mini-batch. Samples of one prompt stay together, so that only one rank
    computes it, unless the rank with the most tokens has fewer if they are parted. `ranks` divides `mini_batch`, and
    `mini_batch` divides the number of samples.
    """
    parts: list[list[int]] = [[] for _ in range(ranks)]
    for begin in range(0, len(prompts), mini_batch):
        groups: dict[Hashable, list[int]] = {}
        for place in range(begin, begin + mini_batch):
            groups.setdefault(prompts[place], []).append(place)
        size = max(map(len, groups.values()))
        pieces = [-(-size // 2**halvings) for halvings in range(size.bit_length())]
        tried = (_shared_out(list(groups.values()), shared, own, mini_batch // ranks, ranks, most) for most in pieces)
        _, taken = min(tried, key=lambda found: found[0])
        for part, places in zip(parts, taken, strict=True):
            part += sorted(places)
    return parts


def _shared_out(
    groups: Sequence[list[int]], shared: Sequence[int], own: Sequence[int], room: int, ranks: int, most: int
) -> tuple[int, list[list[int]]]:
    """Shares pieces of at most `most` samples of a group out, the largest first; each goes where the fewest tokens are.

    Returns the tokens of the rank that has the most, and the places of each rank.
    """
    pieces = [
        (number, group[start : start + most])
        for number, group in enumerate(groups)
        for start in range(0, len(group), most)
    ]
    taken: list[list[int]] = [[] for _ in range(ranks)]
    load, computed = [0] * ranks, [set[int]() for _ in range(ranks)]  # by rank: tokens, and groups with their prompt
    for number, piece in sorted(pieces, key=lambda each: sum(own[place] for place in each[1]), reverse=True):
        while piece:
            count = min(len(piece), room - min(map(len, taken)))  # the whole piece, unless no rank has room for it
            prompt, tokens = shared[piece[0]], sum(own[place] for place in piece[:count])
            loaded, rank = min(
                (load[rank] + tokens + (0 if number in computed[rank] else prompt), rank)
                for rank in range(ranks)
                if room - len(taken[rank]) >= count
            )
            load[rank] = loaded
            computed[rank].add(number)
            taken[rank] += piece[:count]
            piece = piece[count:]
    return max(load), taken
