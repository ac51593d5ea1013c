"""Indexes that are servers, against servers of the tests."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest

from common.http import MAX_BYTES
from search_agent.errors import Failure, RetrieverError
from search_agent.filters import Filter
from search_agent.types import Mode, Retrieval
from services.gateway.settings import GatewaySettings
from services.retriever.errors import BuildRefused, IndexRefused
from services.retriever.search import BatchedRetriever
from services.retriever.service import assemble
from services.retriever.settings import RetrieverSettings
from services.retriever.sources import Source
from services.retriever.sources.config import SOURCE, connect, read
from tests.unit.retriever.helpers import build_index

Answer = Callable[[BaseHTTPRequestHandler, dict[str, Any]], Any]  # (handler, what was asked) -> JSON, or None if sent
KEY = "secret-0123"


class Remote:
    """Answers as `answer` says, and keeps what it was asked."""

    def __init__(self) -> None:
        self.answer: Answer = lambda handler, asked: {}
        self.asked: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.keys: list[str | None] = []
        remote = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                asked: dict[str, Any] = {name: values[0] for name, values in parse_qs(parts.query).items()}
                if self.headers["Content-Length"]:
                    asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                remote.asked.append(asked)
                remote.paths.append(parts.path)
                remote.keys.append(self.headers["Authorization"])
                answer = remote.answer(self, asked)
                if answer is not None:
                    send(self, json.dumps(answer).encode())

            do_POST = do_GET

            def log_message(self, *args: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"


def send(handler: BaseHTTPRequestHandler, body: bytes, status: int = 200, **headers: str) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


@pytest.fixture
def remote() -> Iterator[Remote]:
    remote = Remote()
    thread = threading.Thread(target=remote.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield remote
    remote.server.shutdown()
    remote.server.server_close()
    thread.join()


def source(folder: Path, **fields: Any) -> Source:
    (folder / "far").mkdir()
    (folder / "far" / SOURCE).write_text(json.dumps(fields))
    return Source(folder / "far")


def retrieve(folder: Path, remote: Remote, **fields: Any) -> Source:
    return source(folder, kind="retrieve", url=f"{remote.url}/retrieve", **fields)


def searxng(folder: Path, remote: Remote, **fields: Any) -> Source:
    return source(folder, kind="searxng", url=f"{remote.url}/", **fields)


# What servers of /retrieve answer, as (id, title, text, score).
DOCUMENTS = [
    ({"document": {"id": "7", "contents": '"A title"\nits text'}, "score": 0.5}, ("7", "A title", "its text", 0.5)),
    ({"id": 7, "contents": '"A title"\nits text'}, ("7", "A title", "its text", 1.0)),
    ({"document": {"_id": "x", "title": "A", "text": "B"}}, ("x", "A", "B", 1.0)),
    ({"document": {"id": "x", "title": None, "content": "B"}, "score": None}, ("x", "", "B", 1.0)),
    ({"document": {"id": " ", "text": "B"}, "score": 10**400}, ("bbfd71abb9fcc1f3", "", "B", 1.0)),
    ({"document": {"contents": "B"}, "score": float("nan")}, ("bbfd71abb9fcc1f3", "", "B", 1.0)),
    ({"id": "x", "text": "B", "metadata": [{}]}, ("x", "", "B", 1.0)),
    ("B", ("bbfd71abb9fcc1f3", "", "B", 1.0)),
    ({"id": "a\nb", "title": "A\tB", "text": "C\0\x1b[31mD\ud800\nE"}, ("a b", "A B", "C  [31mD\ufffd\nE", 1.0)),
]


@pytest.mark.parametrize(("document", "expected"), DOCUMENTS, ids=lambda each: ascii(each)[:40])
async def test_every_shape_of_a_document_is_a_passage(
    tmp_path: Path, remote: Remote, document: Any, expected: tuple[Any, ...]
) -> None:
    remote.answer = lambda handler, asked: {"result": [[document] for _ in asked["queries"]]}
    [[passage]] = await retrieve(tmp_path, remote).search(["who?"], Retrieval(3))
    assert (passage.id, passage.title, passage.text, passage.score) == expected


async def test_queries_go_in_one_call_and_come_back_in_order(tmp_path: Path, remote: Remote) -> None:
    def answer(handler: BaseHTTPRequestHandler, asked: dict[str, Any]) -> Any:
        return {"result": [[{"id": f"{query}{n}", "contents": "text"} for n in range(5)] for query in asked["queries"]]}

    remote.answer = answer
    (tmp_path / "key").write_text(f"{KEY}\n")
    found = await retrieve(tmp_path, remote, key_file="../key").search(["b", "a", "b"], Retrieval(2))
    assert [[passage.id for passage in passages] for passages in found] == [["b0", "b1"], ["a0", "a1"], ["b0", "b1"]]
    assert [passage.score for passage in found[0]] == [1, 1 / 2]
    assert remote.asked == [{"queries": ["b", "a"], "topk": 2, "return_scores": True}]
    assert (remote.paths, remote.keys) == (["/retrieve"], [f"Bearer {KEY}"])


async def test_documents_without_a_text_are_left_out(tmp_path: Path, remote: Remote) -> None:
    documents = [{"contents": '"Only a title"\n'}, {"text": "\x00"}, {"contents": ""}, {"contents": "a text"}]
    remote.answer = lambda handler, asked: {"result": [documents]}
    [found] = await retrieve(tmp_path, remote).search(["who?"], Retrieval(4))
    assert [passage.text for passage in found] == ["a text"]


@pytest.mark.parametrize(
    "answer",
    [
        [],
        {},
        {"result": None},
        {"result": []},
        {"result": [[], []]},
        {"result": [{}]},
        {"result": [[None]]},
        {"result": [[7]]},
        {"result": [[{"document": {"id": "1"}}]]},
        {"result": [[{"document": {"id": [], "text": "t"}}]]},
        {"result": [[{"document": {"id": "1", "text": {}}}]]},
    ],
    ids=str,
)
async def test_another_answer_than_passages_is_a_failure(tmp_path: Path, remote: Remote, answer: Any) -> None:
    remote.answer = lambda handler, asked: answer
    with pytest.raises(RetrieverError, match="the server of index 'far'") as caught:
        await retrieve(tmp_path, remote).search(["who?"], Retrieval(3))
    assert caught.value.failure is Failure.UNAVAILABLE


def status(code: int, **headers: str) -> Answer:
    return lambda handler, asked: send(handler, f"do not show {KEY}".encode(), code, **headers)


def hang(handler: BaseHTTPRequestHandler, asked: dict[str, Any]) -> None:
    handler.send_response(200)
    handler.end_headers()
    for _ in range(20):  # a byte now and then: no single read takes long
        handler.wfile.write(b" ")
        time.sleep(0.05)


def flood(handler: BaseHTTPRequestHandler, asked: dict[str, Any]) -> None:
    handler.send_response(200)
    handler.end_headers()
    for _ in range((MAX_BYTES >> 20) + 1):
        handler.wfile.write(b" " * (1 << 20))


FAILURES = [
    (status(400), Failure.UNAVAILABLE, "status 400"),
    (status(403), Failure.UNAVAILABLE, "status 403"),
    (status(500), Failure.UNAVAILABLE, "status 500"),
    (status(204), Failure.UNAVAILABLE, "status 204"),
    (status(429), Failure.OVERLOADED, "status 429"),
    (status(504), Failure.TIMEOUT, "status 504"),
    (status(200), Failure.UNAVAILABLE, "not JSON"),
    (lambda handler, asked: send(handler, b"[" * 100_000), Failure.UNAVAILABLE, "not JSON"),
    (lambda handler, asked: send(handler, b"not gzip", **{"Content-Encoding": "gzip"}), Failure.UNAVAILABLE, "decoded"),
    (status(302, Location="http://localhost:9/"), Failure.UNAVAILABLE, "another host"),
    (status(307, Location="/retrieve"), Failure.UNAVAILABLE, "redirects too often"),
    (hang, Failure.TIMEOUT, "within 0.3 s"),
    (flood, Failure.UNAVAILABLE, "more than 16 MiB"),
]


@pytest.mark.parametrize("kind", [retrieve, searxng])
@pytest.mark.parametrize(("answer", "failure", "said"), FAILURES, ids=lambda each: str(each)[:20])
async def test_a_failure_has_its_kind_and_names_the_index_alone(
    tmp_path: Path, remote: Remote, kind: Callable[..., Source], answer: Answer, failure: Failure, said: str
) -> None:
    remote.answer = answer
    asked = kind(tmp_path, remote, timeout_s=0.3 if answer is hang else 10)
    with pytest.raises(RetrieverError, match=said) as caught:
        await asked.search(["who?"], Retrieval(3))
    assert caught.value.failure is failure
    assert "'far'" in str(caught.value)
    assert not [each for each in ("127.0.0.1", "localhost", KEY) if each in str(caught.value)]
    assert (asked.fault, caught.value.field) == (caught.value.message, "index")


async def test_a_redirect_on_the_same_host_is_followed(tmp_path: Path, remote: Remote) -> None:
    def answer(handler: BaseHTTPRequestHandler, asked: dict[str, Any]) -> Any:
        if handler.path == "/retrieve":
            return send(handler, b"", 307, Location="/retrieve/")
        return {"result": [["a text"]]}

    remote.answer = answer
    [[passage]] = await retrieve(tmp_path, remote).search(["who?"], Retrieval(3))
    assert passage.text == "a text"
    assert remote.asked[0] == remote.asked[1]


async def test_a_broken_connection_is_tried_once_more(tmp_path: Path, remote: Remote) -> None:
    def answer(handler: BaseHTTPRequestHandler, asked: dict[str, Any]) -> Any:
        if len(remote.asked) == 1:
            handler.connection.shutdown(socket.SHUT_RDWR)
            return None
        return {"result": [["a text"]]}

    remote.answer = answer
    assert await retrieve(tmp_path, remote).search(["who?"], Retrieval(3))
    assert len(remote.asked) == 2


async def test_a_server_that_is_down_is_known_until_it_answers(tmp_path: Path, remote: Remote) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        down = source(tmp_path, kind="retrieve", url=f"http://127.0.0.1:{nobody.getsockname()[1]}/retrieve")
        assert down.fault == ""
        with pytest.raises(RetrieverError, match="cannot be reached") as caught:
            await down.search(["who?"], Retrieval(3))
        assert caught.value.failure is Failure.UNAVAILABLE
        assert "cannot be reached" in down.fault
    await down.close()
    remote.answer = lambda handler, asked: status(500)(handler, asked) if len(remote.asked) == 1 else {"result": [[]]}
    (tmp_path / "other").mkdir()
    again = retrieve(tmp_path / "other", remote)
    with pytest.raises(RetrieverError):
        await again.search(["who?"], Retrieval(3))
    assert again.fault
    assert await again.search(["who?"], Retrieval(3)) == [()]
    assert again.fault == ""


def result(n: int, **more: Any) -> dict[str, Any]:
    return {"url": f"http://site/{n}", "title": f"Title {n}", "content": f"Text {n}"} | more


async def test_results_of_the_web_are_passages(tmp_path: Path, remote: Remote) -> None:
    results = [
        result(
            1,
            title="Tom &amp; Jerry\n",
            content=" caf&eacute;\x07 &lt;b&gt; ",
            engine="bing",
            publishedDate="2026-01-01",
        ),
        result(1, content="the same page again"),
        result(2, content=""),
        result(3, content=None),
        result(4, url="javascript:alert(1)"),
        result(5, title=None),
        "no result",
    ]
    remote.answer = lambda handler, asked: {"results": results if asked["pageno"] == "1" else []}
    found = await searxng(tmp_path, remote).search(["who is it?"], Retrieval(8))
    told = [(passage.id, passage.title, passage.text, passage.score) for passage in found[0]]
    assert told == [("http://site/1", "Tom & Jerry", "café <b>", 1.0), ("http://site/5", "", "Text 5", 1 / 2)]
    assert found[0][0].metadata == {"url": "http://site/1", "engine": "bing", "published": "2026-01-01"}
    assert found[0][1].metadata == {"url": "http://site/5"}
    assert remote.paths == ["/search", "/search"]
    assert remote.asked[0] == {"q": "who is it?", "format": "json", "pageno": "1"}


async def test_a_query_gives_no_orders(tmp_path: Path, remote: Remote) -> None:
    remote.answer = lambda handler, asked: {"results": []}
    asked = searxng(tmp_path, remote)
    assert await asked.search(["!!g who :de is <3 it!", "!! :"], Retrieval(3)) == [(), ()]
    assert [each["q"] for each in remote.asked] == ["g who de is 3 it!"]


async def test_pages_are_read_until_there_are_enough(tmp_path: Path, remote: Remote) -> None:
    def answer(handler: BaseHTTPRequestHandler, asked: dict[str, Any]) -> Any:
        first = int(asked["pageno"]) * 3
        return {"results": [result(n) for n in range(first, first + 3)]}

    remote.answer = answer
    asked = searxng(tmp_path, remote, engines=["bing", "wikipedia"], language="de", safesearch=0, pages=2)
    assert [len(passages) for passages in await asked.search(["a"], Retrieval(3))] == [3]
    assert len(remote.asked) == 1
    assert remote.asked[0].items() >= {"engines": "bing,wikipedia", "language": "de", "safesearch": "0"}.items()
    assert [len(passages) for passages in await asked.search(["a", "b"], Retrieval(50))] == [6, 6]
    assert len(remote.asked) == 1 + 4  # two pages for each


async def test_many_queries_get_their_own_results(tmp_path: Path, remote: Remote) -> None:
    remote.answer = lambda handler, asked: {"results": [result(1, content=f"of {asked['q']}")]}
    found = await searxng(tmp_path, remote, pages=1).search([f"query {n}" for n in range(30)], Retrieval(1))
    assert [passage.text for (passage,) in found] == [f"of query {n}" for n in range(30)]


async def test_engines_that_are_all_silent_have_not_found_nothing(tmp_path: Path, remote: Remote) -> None:
    remote.answer = lambda handler, asked: {"results": [], "unresponsive_engines": [["bing", "timeout"]]}
    with pytest.raises(RetrieverError, match="bing: timeout"):
        await searxng(tmp_path, remote).search(["who?"], Retrieval(3))
    remote.answer = lambda handler, asked: {"results": []}
    (tmp_path / "other").mkdir()
    assert await searxng(tmp_path / "other", remote).search(["who?"], Retrieval(3)) == [()]


FAULTS = [
    ("[]", ": "),
    ("{", ": "),
    ({}, "kind: "),
    ({"kind": "google", "url": "http://h"}, "kind: "),
    ({"kind": "retrieve"}, "url: "),
    ({"kind": "retrieve", "url": "h:8000"}, "url: "),
    ({"kind": "retrieve", "url": "http://[::1"}, "url: "),
    ({"kind": "retrieve", "url": "http://h:port"}, "url: "),
    ({"kind": "retrieve", "url": "http://me:secret@h"}, "url: "),
    ({"kind": "retrieve", "url": "http://h", "timeout_s": 0}, "timeout_s: "),
    ({"kind": "retrieve", "url": "http://h", "timeout_s": "ten"}, "timeout_s: "),
    ({"kind": "retrieve", "url": "http://h", "pages": 2}, "pages: "),
    ({"kind": "retrieve", "url": "http://h", "key_file": "gone"}, "key_file: gone: No such file"),
    ({"kind": "searxng", "url": "http://h", "safesearch": 3}, "safesearch: "),
    ({"kind": "searxng", "url": "http://h", "engines": [1]}, "engines.0: "),
]


@pytest.mark.parametrize(("fields", "said"), FAULTS, ids=str)
def test_a_wrong_file_is_refused_by_its_field(tmp_path: Path, fields: Any, said: str) -> None:
    (tmp_path / SOURCE).write_text(fields if isinstance(fields, str) else json.dumps(fields))
    with pytest.raises(IndexRefused) as caught:
        Source(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / SOURCE}: {said.removeprefix(': ')}")
    assert "secret" not in str(caught.value)


def test_a_server_fails_before_the_gateway_gives_up(tmp_path: Path) -> None:
    (tmp_path / SOURCE).write_text(json.dumps({"kind": "retrieve", "url": "http://h"}))
    assert read(tmp_path).timeout_s < GatewaySettings.model_fields["retriever_timeout_s"].default


def test_a_key_file_must_hold_a_key(tmp_path: Path) -> None:
    for content in (b"", b"a\nb", b"\xff", "schlüssel".encode()):
        (tmp_path / "key").write_bytes(content)
        (tmp_path / SOURCE).write_text(json.dumps({"kind": "retrieve", "url": "http://h", "key_file": "key"}))
        with pytest.raises(IndexRefused, match="key_file: key: "):
            Source(tmp_path)


async def test_connecting_makes_a_folder_that_can_be_opened(tmp_path: Path) -> None:
    (tmp_path / "wiki.building").mkdir()
    (tmp_path / "wiki.building" / "vectors.bin").write_text("left by a killed build")
    fields = {"kind": "retrieve", "url": "http://h:1/retrieve", "version": "2018", "source": "Wikipedia"}
    folder = connect(tmp_path, "wiki", fields, force=False)
    assert [path.name for path in folder.iterdir()] == [SOURCE]
    assert json.loads((folder / SOURCE).read_text()) == fields
    info = Source(folder).info
    assert (info.name, info.version, info.kind, info.source) == ("wiki", "2018", "retrieve", "Wikipedia")
    assert info.modes == ()
    with pytest.raises(BuildRefused, match="--force"):
        connect(tmp_path, "wiki", fields, force=False)
    connect(tmp_path, "wiki", {"kind": "searxng", "url": "http://h"}, force=True)
    assert Source(folder).info.version == ""  # nothing may keep its answers
    with pytest.raises(IndexRefused, match="url: "):
        connect(tmp_path, "bad", {"kind": "searxng", "url": "h"}, force=False)
    assert not (tmp_path / "bad").exists()


class LongestFirst:
    """A reranker."""

    name = "longest-first"

    def scores(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        return np.array([len(text) for _, text in pairs], dtype=np.float32)


@pytest.fixture
async def served(tmp_path: Path, remote: Remote) -> AsyncIterator[BatchedRetriever]:
    """A retriever with an index of its own, `words`, and the default one, `far`, which is the server."""
    build_index(tmp_path, count=5, name="words", dense=False)
    connect(tmp_path, "far", {"kind": "retrieve", "url": f"{remote.url}/retrieve"}, force=False)
    settings = RetrieverSettings(indexes=tmp_path, default_index="far", reranker="longest-first", max_batch=4)
    retriever = assemble(settings, load_ranker=lambda _: LongestFirst())
    yield retriever
    await retriever.close()


def echo(handler: BaseHTTPRequestHandler, asked: dict[str, Any]) -> Any:
    return {"result": [[f"{query} {'x' * n}" for n in range(1, asked["topk"] + 1)] for query in asked["queries"]]}


async def test_the_retriever_serves_it_beside_others(served: BatchedRetriever, remote: Remote) -> None:
    remote.answer = echo
    far, words = sorted(await served.indexes(), key=lambda index: index.name)
    assert (far.name, far.kind, far.version, far.modes, far.is_default) == ("far", "retrieve", "", (), True)
    assert not words.is_default
    found = await served.search(["who?", " ", "when?"], Retrieval(2))
    assert [[passage.text for passage in passages] for passages in found] == [
        ["who? x", "who? xx"],
        [],
        ["when? x", "when? xx"],
    ]
    assert remote.asked[0]["queries"] == ["who?", "when?"]
    [[ours]] = await served.search(["word3"], Retrieval(1, "words"))
    assert ours.id == "p3"
    assert len(await served.search(["a"] * 10, Retrieval(1))) == 10


async def test_its_passages_can_be_reranked(served: BatchedRetriever, remote: Remote) -> None:
    remote.answer = echo
    [found] = await served.search(["who?"], Retrieval(2, rerank=5))
    assert [(passage.text, passage.score) for passage in found] == [("who? xxxxx", 10), ("who? xxxx", 9)]
    assert remote.asked[0]["topk"] == 5


@pytest.mark.parametrize("mode", [Mode.DENSE, Mode.BM25, Mode.HYBRID])
async def test_it_has_no_modes(served: BatchedRetriever, remote: Remote, mode: Mode) -> None:
    with pytest.raises(RetrieverError, match="'far' is a server, which ranks by itself") as caught:
        await served.search(["who?"], Retrieval(2, mode=mode))
    assert (caught.value.failure, caught.value.field) == (Failure.UNSUPPORTED, "mode")
    assert remote.asked == []


async def test_it_cannot_be_filtered(served: BatchedRetriever, remote: Remote) -> None:
    with pytest.raises(RetrieverError, match="'far' is a server, whose passages cannot be filtered") as caught:
        await served.search(["who?"], Retrieval(2, filter=Filter.from_json({"year": 1990})))
    assert (caught.value.failure, caught.value.field) == (Failure.UNSUPPORTED, "filter")
    assert remote.asked == []


async def test_it_cannot_embed(served: BatchedRetriever) -> None:
    with pytest.raises(RetrieverError, match="has no vectors"):
        await served.embed(["who?"], "far", as_passages=False)


async def test_its_failure_leaves_other_indexes_alone(served: BatchedRetriever, remote: Remote) -> None:
    remote.answer = status(500)
    with pytest.raises(RetrieverError, match="status 500"):
        await served.search(["who?"], Retrieval(2))
    assert await served.search(["word3"], Retrieval(1, "words"))
    assert {index.name: "status 500" in index.fault for index in await served.indexes()} == {
        "far": True,
        "words": False,
    }


def test_a_folder_of_sources_alone_is_served(tmp_path: Path) -> None:
    connect(tmp_path, "web", {"kind": "searxng", "url": "http://nobody:1"}, force=False)
    assemble(RetrieverSettings(indexes=tmp_path))
    (tmp_path / "not a name").mkdir()
    (tmp_path / "web" / SOURCE).rename(tmp_path / "not a name" / SOURCE)
    with pytest.raises(IndexRefused, match="bad name"):
        assemble(RetrieverSettings(indexes=tmp_path))
