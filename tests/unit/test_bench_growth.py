"""The tables of docs/growth.md: formulas, and which cells say that they are computed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bench import cost_table, growth
from bench.cost_table import Price, Source
from bench.growth import CARDS, DIM, PASSAGES, cards, centroids, line, memory, work
from bench.scoreboard import recorded, value
from services.retriever.gpu import SCRATCH_BYTES
from services.retriever.kinds import KINDS


def test_memory_of_a_flat_kind_grows_with_the_passages() -> None:
    assert memory("flat-fp16", 1_000, 10, 50) == 5_000


def test_memory_of_lists_has_centroids_that_grow_with_the_root() -> None:
    million, four = centroids("ivf", 1_000_000), centroids("ivf", 4_000_000)
    assert (million, four) == (4_000 * DIM * 4, 8_000 * DIM * 4)
    assert memory("ivf", million + 2_000_000, 1_000_000, 4_000_000) == four + 8_000_000


@pytest.mark.parametrize(
    ("kind", "compared"),
    [("flat", 1_000_000), ("sq8", 1_000_000), ("ivf", 4_000 + 256 * 250), ("ivf-pq", 4_000 + 64 * 250)],
)
def test_time_grows_with_the_vectors_compared(kind: str, compared: int) -> None:
    assert work(kind, 1_000_000) == compared


def test_a_graph_takes_one_step_more_for_twice_the_vectors() -> None:
    assert work("hnsw", 2_000_000) - work("hnsw", 1_000_000) == pytest.approx(1)


def test_every_card_has_room_to_search() -> None:
    card = 3 * SCRATCH_BYTES
    assert [cards(held * SCRATCH_BYTES, card) for held in (1, 2, 2.01, 4, 5)] == [1, 1, 2, 2, 3]
    assert cards(2 * DIM * 21_000_000, CARDS["H100"]) == 1


def test_a_line_runs_through_two_measurements() -> None:
    rows = [{"passages": 10, "ms": 3.0}, {"passages": 20, "ms": 5.0}]
    assert [line(rows, "ms", count) for count in (10, 20, 100)] == [3.0, 5.0, 21.0]


def test_only_what_was_measured_has_no_mark() -> None:
    head, rows = growth.vectors_in_memory()
    sizes = head.index("1 million")
    assert [row[0].strip("`") for row in rows] == [*KINDS]
    for row in rows:
        at = int(row[1].replace(",", ""))
        assert [not cell.startswith("≈") for cell in row[sizes:]] == [count == at for count in PASSAGES]


@pytest.mark.parametrize("table", [*growth.TABLES.values(), *cost_table.TABLES.values()])
def test_rows_are_as_wide_as_their_head(table: Callable[[], growth.Table]) -> None:
    head, rows = table()
    assert rows
    assert {len(row) for row in rows} == {len(head)}


def test_a_price_grows_by_what_is_read_besides() -> None:
    whole = Price(300, 10, 2.0).and_read(20, Price(250, 5, 1.0))
    assert whole == Price(5_300, 10, 22.0)
    assert whole.tokens == 5_310


def test_a_card_s_time_is_computed_from_tokens_until_it_is_measured() -> None:
    price = Price(cost_table.gpu_tokens_per_s(), 0, 1.0)
    assert cost_table.gpu_seconds(price, None) == (1.0, "≈ ")
    assert cost_table.gpu_seconds(price, {"questions_per_s": 4.0}) == (0.25, "")


@pytest.mark.parametrize(
    ("source", "method"),
    [
        (cost_table.METHODS["naive_rag:top_k=8"][1], "naive_rag:top_k=8"),
        (cost_table.METHODS["ircot"][1], "ircot"),
        (cost_table.RERANKED_SOURCE, "naive_rag:rerank=20:top_k=1"),
    ],
)
def test_an_accuracy_is_that_of_its_method(source: Source, method: str) -> None:
    assert value(recorded(source.file), source.pointer.removesuffix("/gen_acc"))["method"] == method
