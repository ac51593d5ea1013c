"""bench.retrieval reads our retriever's metrics."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Histogram, generate_latest

from bench.retrieval import a_batch, totals
from common import metrics


def test_a_batch_is_the_mean_of_what_came_between() -> None:
    registry = CollectorRegistry()
    queries = Histogram(metrics.RETRIEVER_BATCH_QUERIES._name, "queries", registry=registry)
    stages = Histogram(metrics.RETRIEVER_STAGE_SECONDS._name, "seconds", ["stage"], registry=registry)

    def batch(size: int, **seconds: float) -> None:
        queries.observe(size)
        for stage, took in seconds.items():
            stages.labels(stage).observe(took)

    batch(1, encode=7.0)
    before = totals(generate_latest(registry).decode())
    assert before == {"batches": 1, "queries": 1, "encode_ms": 7000}
    batch(10, encode=0.25, dense=0.5)
    batch(30, encode=0.75, dense=0.5)
    found = a_batch(before, totals(generate_latest(registry).decode()))
    assert found == {"queries": 20, "encode_ms": 500, "dense_ms": 500}


def test_before_its_first_batch_a_retriever_has_no_stages() -> None:
    assert totals("# nothing yet\n") == {}
