"""Rows in which a prompt is computed once, and how samples are divided among them."""

from __future__ import annotations

import random

import pytest

pytest.importorskip("torch")

import torch

from learning.packing import Sample, even_micro_batches, micro_batches, over_ranks, pack, samples_of


def sample(prompt: int, prompt_tokens: int, response: int) -> Sample:
    return Sample(prompt, prompt_tokens, torch.ones(response, dtype=torch.bool))


def test_a_prompt_lies_in_a_row_once() -> None:
    prompts = [torch.tensor([7, 8, 9]), torch.tensor([5]), torch.tensor([7, 8, 9])]
    marks = [torch.tensor([1, 0]), torch.tensor([1, 1]), torch.tensor([0, 0, 1])]
    packed = pack(samples_of(prompts, marks), torch.device("cpu"))
    # flat: 7 8 9 a b | 5 c d | 7 8 9 e f g
    assert packed.tokens.tolist() == [0, 1, 2, 3, 5, 6, 10, 11, 12]
    assert packed.positions.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 4]
    assert (packed.layout.queries, packed.layout.keys) == ([2, 2, 2, 3], [2, 4, 2, 5])
    assert packed.layout.gather.tolist() == [0, 1, 0, 1, 2, 3, 4, 5, 0, 1, 6, 7, 8]
    assert packed.rows.tolist() == [2, 4, 5, 8]
    assert packed.before.tolist() == [2, 5, 6, 12]
    assert [packed.tokens[row].item() for row in packed.rows] == packed.before.tolist()


def test_samples_of_a_prompt_are_in_one_micro_batch_if_they_fit() -> None:
    samples = [sample(0, 11, 5), sample(1, 4, 5), sample(0, 11, 5), sample(1, 4, 5)]
    assert micro_batches(samples, 33) == [[0, 2, 1, 3]]
    assert micro_batches(samples, 20) == [[0, 2], [1, 3]]
    assert micro_batches(samples, 19) == [[0], [2], [1, 3]]
    assert micro_batches(samples, 1) == [[0], [2], [1], [3]]


def test_micro_batches_can_be_made_as_many_as_another_rank_has() -> None:
    samples = [sample(0, 11, 5), sample(0, 11, 5), sample(0, 11, 5), sample(1, 4, 5)]
    assert even_micro_batches(samples, 100, 1) == [[0, 1, 2, 3]]
    assert even_micro_batches(samples, 100, 2) == [[0, 1], [2, 3]]  # 20 and 23 tokens, and not 33 and 8
    assert even_micro_batches(samples, 100, 3) == [[0, 1], [2], [3]]
    assert even_micro_batches(samples, 100, 4) == [[0], [1], [2], [3]]


def test_micro_batches_are_even_and_within_the_limit() -> None:
    dice = random.Random(2)
    for _ in range(30):
        samples = [sample(number // 8, 900, dice.randint(100, 1500)) for number in range(32)]
        least = len(micro_batches(samples, 8000))
        for count in (least, least + 1, least + 3):
            parts = even_micro_batches(samples, 8000, count)
            assert sorted(place for part in parts for place in part) == list(range(32))
            assert len(parts) == count
            sizes = [
                899 * len({samples[place].prompt for place in part}) + sum(samples[place].own_tokens for place in part)
                for part in parts
            ]
            assert max(sizes) <= min(8000, sum(sizes) / count + 1.5 * (1500 + 899))


def test_samples_of_a_prompt_go_to_one_rank() -> None:
    prompts = ["a", "b", "c", "d"] * 2
    own = [9, 1, 1, 9, 9, 1, 1, 9]
    assert over_ranks(prompts, [5] * 8, own, mini_batch=8, ranks=2) == [[0, 1, 4, 5], [2, 3, 6, 7]]
    assert over_ranks(prompts, [5] * 8, own, mini_batch=8, ranks=1) == [list(range(8))]


def test_a_prompt_is_in_two_ranks_only_if_neither_has_room() -> None:
    assert over_ranks("aaabbb", [5] * 6, [1] * 6, mini_batch=6, ranks=2) == [[0, 1, 2], [3, 4, 5]]
    assert over_ranks("aaaabb", [5] * 6, [1] * 6, mini_batch=6, ranks=2) == [[0, 1, 2], [3, 4, 5]]
    assert over_ranks("aabbcc", [5] * 6, [1] * 6, mini_batch=6, ranks=2) == [[0, 1, 4], [2, 3, 5]]


def test_samples_of_a_prompt_are_parted_where_that_balances() -> None:
    parts = over_ranks("aaaabbbb", [10] * 8, [1000] * 4 + [1] * 4, mini_batch=8, ranks=2)
    assert [sum(place < 4 for place in part) for part in parts] == [2, 2]
    assert over_ranks("aaaabbbb", [500] * 8, [10] * 4 + [1] * 4, mini_batch=8, ranks=2) == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_each_rank_has_as_many_samples_of_each_mini_batch() -> None:
    dice = random.Random(0)
    for _ in range(50):
        ranks, size = dice.choice([1, 2, 3, 4]), dice.choice([12, 24])
        prompts = sorted(dice.randrange(9) for _ in range(3 * size))
        own = [dice.randint(1, 900) for _ in prompts]
        parts = over_ranks(prompts, [1000] * len(prompts), own, size, ranks)
        each = size // ranks
        for mini in range(3):
            places = [place for part in parts for place in part[mini * each : (mini + 1) * each]]
            assert sorted(places) == list(range(mini * size, (mini + 1) * size))


def test_many_groups_are_balanced() -> None:
    dice = random.Random(1)
    prompts = [number // 8 for number in range(128)]
    own = [dice.randint(200, 1500) for _ in prompts]
    for ranks in (2, 4):
        loads = [sum(own[place] for place in part) for part in over_ranks(prompts, [900] * 128, own, 128, ranks)]
        assert max(loads) < 1.05 * sum(loads) / ranks
