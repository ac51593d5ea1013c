"""A gateway that makes its answers up from the request."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def methods() -> list[dict[str, Any]]:
    def method(name: str, **defaults: object) -> dict[str, Any]:
        properties = {key: {"default": value} for key, value in defaults.items()}
        return {"name": name, "summary": name, "parameters": {"properties": properties}}

    return [method("s3", top_k=8, max_turns=3, index=""), method("naive_rag", top_k=3, index="")]


def answer_to(body: dict[str, Any]) -> dict[str, Any]:
    """Returns the same answer for the same question. Some answers are right; s3 has more of them."""
    number = sum(body["question"].encode())
    right = number % (2 if body["method"] == "s3" else 3) == 0
    kept = ["p0", "p1", "p2"] if body["method"] == "naive_rag" else ["p1", "p0"]
    documents = [{"id": id, "title": id, "text": f"text {id}", "score": 1.0, "turn": 1} for id in kept]
    found = ["p0", "p1", "p2"]
    turn = {"query": body["question"], "retrieved": found, "selected": kept, "error": ""}
    return {
        "id": "1",
        "method": body["method"],
        "question": body["question"],
        "answer": "the gold" if right else "something else",
        "documents": documents[: body.get("max_documents")],
        "turns": [turn | {"titles": {id: id for id in found}}],
        "usage": {"prompt_tokens": 300 + number % 7, "completion_tokens": 5, "searches": 1},
        "timings_ms": {"total": 10.0},
        "stop_reason": "complete",
        "finish_reason": "stop",
        "cached": False,
        "models": ["stub@1"],
        "truncated": False,
        "indexes": ["demo@v1"],
        "dropped": {},
        "citations": [],
        "cache_key": "",
    }


@contextmanager
def stub_gateway(
    delay_s: float = 0.0, go_on: threading.Event | None = None, before: int = 0
) -> Iterator[tuple[str, Counter[tuple[str, str]]]]:
    """Serves while the context is open. Gives its address, and the number of calls of each (question, method).

    The first `before` calls are answered, and the others wait for `go_on`.
    """
    asked: Counter[tuple[str, str]] = Counter()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            index = {"name": "demo", "version": "v1", "encoder": "e5", "default": True}
            self._send(methods() if self.path == "/v1/methods" else [index])

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            asked[body["question"], body["method"]] += 1
            time.sleep(delay_s)
            if go_on and asked.total() > before:
                go_on.wait()
            self._send(answer_to(body))

        def _send(self, value: object) -> None:
            data = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None: ...

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None: ...  # tests kill clients

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
