"""A hub on this machine: the few addresses of a real one that a download uses, and its failures."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "c0ffee"


class FakeHub:
    """Serves `files`, path to content by data set. The rest is what a test may change.

    `cut`: connections end after that many bytes, `cuts` times; `slow`: seconds a kilobyte; `lies`: paths
    whose stated checksum is wrong; `ranges`: whether parts of files are served. `asked` has (path, first byte).
    """

    def __init__(self, files: dict[str, dict[str, bytes]]) -> None:
        self.files = files
        self.cut, self.cuts, self.slow = 0, 0, 0.0
        self.lies: set[str] = set()
        self.ranges = True
        self.asked: list[tuple[str, int]] = []

    def entry(self, path: str, content: bytes) -> dict[str, Any]:
        sha256 = hashlib.sha256(content + b"x" * (path in self.lies)).hexdigest()
        if path.endswith(".gz") or path.startswith("part"):
            lfs = {"oid": sha256, "size": len(content), "pointerSize": 100}
            return {"type": "file", "path": path, "size": len(content), "oid": "0" * 40, "lfs": lfs}
        git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        return {"type": "file", "path": path, "size": len(content), "oid": git}

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = request.path
        if found := re.fullmatch(r"/api/datasets/(.+)/revision/main", path):
            self._send_json(request, {"sha": COMMIT} if found[1] in self.files else None)
        elif found := re.fullmatch(rf"/api/datasets/(.+)/tree/{COMMIT}\?recursive=true(&cursor=(\d+))?", path):
            paths, at = sorted(self.files[found[1]]), int(found[3] or 0)
            entries = [self.entry(name, self.files[found[1]][name]) for name in paths[at : at + 2]]
            more = f"http://{request.headers['Host']}{path.partition('&')[0]}&cursor={at + 2}"
            headers = {"Link": f'<{more}>; rel="next"'} if at + 2 < len(paths) else {}
            self._send_json(request, [{"type": "directory", "path": "d", "size": 0, "oid": "1"}, *entries], headers)
        elif found := re.fullmatch(rf"/datasets/(.+?/.+?)/resolve/{COMMIT}/(.+)", path):
            request.send_response(302)
            request.send_header("Location", f"/cdn/{found[1]}/{found[2]}")
            request.send_header("Content-Length", "0")
            request.end_headers()
        elif found := re.fullmatch(r"/cdn/(.+?/.+?)/(.+)", path):
            self._send_file(request, found[2], self.files[found[1]][found[2]])

    def _send_json(self, request: Any, value: object, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(value).encode()
        request.send_response(404 if value is None else 200)
        for name, header in {"Content-Length": str(len(body)), **(headers or {})}.items():
            request.send_header(name, header)
        request.end_headers()
        request.wfile.write(body)

    def _send_file(self, request: Any, path: str, content: bytes) -> None:
        start = int((request.headers.get("Range") or "bytes=0-")[6:-1]) if self.ranges else 0
        self.asked.append((path, start))
        request.send_response(206 if start else 200)
        request.send_header("Content-Length", str(len(content) - start))
        request.end_headers()
        body = content[start:]
        if self.cuts:
            self.cuts -= 1
            body = body[: self.cut]
        for at in range(0, len(body), 1024):
            time.sleep(self.slow)
            request.wfile.write(body[at : at + 1024])


@contextmanager
def serve(hub: FakeHub) -> Iterator[str]:
    """The address at which `hub` answers."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            hub.answer(self)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:  # a killed client is no news
            pass

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
