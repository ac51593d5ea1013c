"""A gateway whose answers a test writes."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any


class Gateway:
    """Says what `says` holds by "METHOD /path": a body, (status, problem), or a list of events."""

    def __init__(self) -> None:
        self.says: dict[str, Any] = {}
        self.asked: list[tuple[str, Any]] = []
        gateway = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer("GET")

            def do_POST(self) -> None:
                self._answer("POST")

            def _answer(self, method: str) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                gateway.asked.append((f"{method} {self.path}", json.loads(body) if body else None))
                said = gateway.says[f"{method} {self.path}"]
                status, said = said if isinstance(said, tuple) else (200, said)
                if isinstance(said, list) and said and isinstance(said[0], tuple):
                    text = "".join(f"event: {name}\ndata: {json.dumps(data)}\n\n" for name, data in said)
                else:
                    text = json.dumps(said)
                self.send_response(status)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
