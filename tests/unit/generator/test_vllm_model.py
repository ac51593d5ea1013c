"""The engine arguments for CUDA graphs."""

from __future__ import annotations

import os

import pytest

from services.generator.vllm_model import graphs


@pytest.mark.parametrize("tokens", [1, 64, 300, 2048, 4096])
def test_every_step_has_a_graph_that_is_not_much_larger(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_USE_BREAKABLE_CUDAGRAPH", "0")
    arguments = graphs(tokens)
    sizes = arguments["compilation_config"]["cudagraph_capture_sizes"]
    assert arguments["max_num_batched_tokens"] == sizes[-1] == tokens
    assert sizes == sorted(set(sizes))
    for step in range(65, tokens):
        assert min(size for size in sizes if size >= step) <= 1.25 * step


def test_vllm_is_told_to_record_pieces_before_it_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_USE_BREAKABLE_CUDAGRAPH", "0")
    graphs(256)
    assert os.environ["VLLM_USE_BREAKABLE_CUDAGRAPH"] == "1"
