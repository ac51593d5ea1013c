"""Rows in which a prompt is computed once, and how samples are divided among them."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

import torch

from learning.packing import Sample, divided, micro_batches, pack, samples_of


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
    assert divided([[0, 1, 2], [3]], 3) == [[0], [1, 2], [3]]
    assert divided([[0, 1, 2], [3]], 4) == [[0], [1], [2], [3]]
    assert divided([[0, 1, 2], [3]], 2) == [[0, 1, 2], [3]]
