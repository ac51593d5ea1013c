"""Commands that change an index of a running gateway."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from cli.arguments import conditions, merged
from cli.main import main
from common.addresses import free_port
from tests.unit.gateway.rest import Rest

PASSAGES = [{"id": number, "text": f"text {number}", "metadata": {"year": 1990 + number}} for number in range(5)]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Serves a gateway over fakes, and yields its address."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(Rest().app, port=port, log_config=None))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.01)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


def run(capsys: pytest.CaptureFixture[str], address: str, *typed: str) -> tuple[str, str]:
    status = main(["index", *typed, "--url", address])
    captured = capsys.readouterr()
    assert status == 0, captured.err
    return captured.out, captured.err


def found(address: str, **how: Any) -> set[str]:
    response = httpx.post(f"{address}/v1/retrieve", json={"queries": ["text"], "index": "mine", **how})
    return {each["id"] for each in response.json()["results"][0]}


def test_an_index_is_made_filled_changed_and_rolled_back(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "passages.jsonl"
    file.write_text("".join(json.dumps(each) + "\n" for each in PASSAGES))
    assert "mine: made" in run(capsys, address, "create", "mine", "--no-dense")[0]
    out, err = run(capsys, address, "push", "mine", str(file), "--batch", "2")
    assert out == "mine: version v3\n"
    assert err.splitlines() == ["accepted 2 of 5", "accepted 4 of 5", "accepted 5 of 5"]
    assert found(address) == {"0", "1", "2", "3", "4"}
    assert found(address, filter=merged([conditions("year>=1992"), conditions("year<=1993")])) == {"2", "3"}
    assert run(capsys, address, "remove", "mine", "0", "4")[0] == "mine: version v4\n"
    out, _ = run(capsys, address, "versions", "mine")
    assert out.splitlines()[0].startswith("v4 ")
    assert out.splitlines()[0].endswith("serves")
    assert "0 added or replaced, 2 removed  v4" in out
    assert "version v3 serves, 5 passages" in run(capsys, address, "rollback", "mine", "--version", "v3")[0]
    assert "version v4 serves, 3 passages" in run(capsys, address, "rollback", "mine")[0]
    assert "version v3 serves, 5 passages" in run(capsys, address, "rollback", "mine")[0]
    assert found(address) == {"0", "1", "2", "3", "4"}
    assert run(capsys, address, "delete", "mine")[0] == "mine: removed\n"


def test_a_bad_line_is_named_before_anything_is_sent(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, address, "create", "mine")
    file = tmp_path / "passages.jsonl"
    file.write_text('{"id": 1, "text": "x"}\n{"id": 2}\n')
    assert main(["index", "push", "mine", str(file), "--batch", "1", "--url", address]) == 1
    assert 'passages.jsonl:2: no "text"' in capsys.readouterr().err
    assert found(address) == set()
    assert main(["index", "push", "demo", str(file), "--url", address]) == 1


@pytest.mark.parametrize(
    ("text", "filter"),
    [
        ("lang=en", {"lang": {"in": ["en"]}}),
        ("lang=en,de", {"lang": {"in": ["en", "de"]}}),
        ("year>=1990", {"year": {"gte": 1990}}),
        ("year <= 1999.5", {"year": {"lte": 1999.5}}),
        ("day>=1990-01-02", {"day": {"gte": "1990-01-02"}}),
        ("open=true", {"open": {"in": [True]}}),
        ("doi", {"doi": {"exists": True}}),
        ("a=b>=c", {"a": {"in": ["b>=c"]}}),
        ('{"year": {"gte": 1990}}', {"year": {"gte": 1990}}),
    ],
)
def test_conditions_are_short_to_type(text: str, filter: object) -> None:
    assert conditions(text) == filter
