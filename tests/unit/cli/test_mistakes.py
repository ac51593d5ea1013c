"""Everyday mistakes, in every command: one line that says what is wrong, and no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NoReturn

import pytest

from cli.main import COMMANDS, main
from cli.problems import told
from search_agent.errors import Failure, RetrieverError

DOWN = "http://127.0.0.1:9"
QUESTIONS = '{"id": "q", "question": "Who?", "golden_answers": ["x"]}\n'
# FILE, FOLDER and QUESTIONS are there, MISSING is not; OTHER answers {} to everything.
MISTAKES = [
    ("ask hi --url DOWN", 1, "is the gateway running there?"),
    ("ask hi --url localhost:8080", 2, "not a URL"),
    ("ask hi --url http://[::1", 2, "not a URL"),
    ("ask hi --url http://h:port", 2, "not a URL"),
    ("ask caf\udce9 --url DOWN", 1, "not valid UTF-8"),
    ("ask", 2, "question"),
    ("evaluate --questions MISSING --out MISSING", 1, "no such file, and no set of that name"),
    ("evaluate --questions FOLDER --out MISSING", 1, "FOLDER: Is a directory"),
    ("evaluate --questions FILE --out MISSING", 1, "FILE:1: not JSON"),
    ("evaluate --questions QUESTIONS --out MISSING --url DOWN", 1, "is the gateway running there?"),
    ("evaluate --questions QUESTIONS --out MISSING --url OTHER", 1, "not a JSON list"),
    ("evaluate --questions QUESTIONS --out MISSING --judge-url http://h/v1", 1, "--judge-model"),
    ("evaluate --questions QUESTIONS --out MISSING --judge-url h/v1 --judge-model m", 2, "not a URL"),
    ("evaluate --questions QUESTIONS --out MISSING --timeout 0", 2, "above 0"),
    ("evaluate --questions QUESTIONS --out MISSING --limit 0", 2, "at least 1"),
    ("evaluate --questions QUESTIONS --out MISSING --scoring mine", 2, "unicode-1"),
    ("precompute --questions QUESTIONS --redis localhost:6379", 1, "not a Redis URL"),
    ("precompute --questions QUESTIONS --redis redis://h:port", 1, "not a Redis URL"),
    ("precompute --questions QUESTIONS --url DOWN", 1, "is the gateway running there?"),
    ("precompute --questions QUESTIONS --failed MISSING/hard.jsonl", 1, "hard.jsonl: No such file"),
    ("precompute --questions QUESTIONS --save FOLDER", 1, "FOLDER: Is a directory"),
    ("precompute --questions QUESTIONS --load MISSING", 1, "MISSING"),
    ("teach reading --config MISSING --out out.jsonl", 1, "MISSING"),
    ("teach reading --out MISSING/out.jsonl", 1, "out.jsonl: No such file"),
    ("teach reading --part 0.9 0.1 --out FOLDER/out.jsonl", 1, "from 0.9 to 0.1 is empty"),
    ("teach reading --questions MISSING --out FILE", 1, "no such file"),
    ("headroom MISSING --searcher h:1 --questions QUESTIONS --out MISSING", 1, "MISSING"),
    ("headroom multihop --searcher h:1 --questions MISSING --out MISSING", 1, "no such file"),
    ("headroom multihop --searcher h:1 --questions QUESTIONS --out MISSING --mixed FOLDER", 1, "FOLDER: Is a dir"),
    ("train list --url DOWN", 1, "is the gateway running there?"),
    ("train list --url OTHER", 1, "not a JSON list"),
    ("train show x --url OTHER", 1, "the answer has no 'id'"),
    ("train watch x --url OTHER", 1, "the answer broke off"),  # no events at all
    ("train start smollm2-demo --url DOWN", 1, "is the gateway running there?"),
    ("train start smollm2-demo --set seed --url DOWN", 1, "must be FIELD=VALUE"),
    ("keys list", 1, "GATEWAY_KEYS"),
    ("keys list --store FILE", 1, "FILE: the file of keys is damaged"),
    ("keys revoke x --store FILE", 1, "the file of keys is damaged"),
    ("keys revoke x --store MISSING", 1, "x: no such key"),
    ("keys create me --scope ask --store MISSING/keys", 1, "No such file"),
    ("keys create me --scope all --store MISSING", 1, "ask, index, evaluate, train, admin"),
    ("keys create me --store MISSING", 2, "--scope"),
    ("keys create me --scope ask --days 99999999 --store MISSING", 2, "at most 36500"),
    ("keys list --store redis://127.0.0.1:9/0", 1, "it cannot be reached"),
    ("keys list --store redis://h:port", 1, "not a Redis URL"),
    ("cache stats --url DOWN", 1, "is the gateway running there?"),
    ("cache stats --url OTHER", 1, "the answer has no 'indexes'"),
    ("cache clear --index x", 2, "--version"),
    ("supervised --model MISSING --examples FILE --out MISSING", 1, "MISSING: Not a folder"),
    ("supervised --model FOLDER --examples MISSING --out MISSING", 1, "MISSING: No such file"),
    ("supervised --model FOLDER --examples FILE --out MISSING", 1, "FILE:1: not an example"),
    ("base-model FOLDER/out --gguf MISSING", 1, "MISSING: No such file"),
    ("merge MISSING FOLDER MISSING", 1, "MODEL: there is no folder "),
    ("merge FOLDER FOLDER MISSING", 1, "FOLDER has no config.json"),
    ("merge FOLDER FOLDER FILE", 1, "OUT: "),
    ("universe FOLDER --out MISSING", 1, "leave none to train on"),
    ("universe MISSING FOLDER --dev 0 --test 1 --out MISSING", 1, "MISSING"),
    ("universe FOLDER --dev 0 --test 0 --out MISSING", 1, "FOLDER"),
    ("index build --corpus MISSING --name x --out FOLDER", 1, "MISSING"),
    ("index build --corpus QUESTIONS --name x --no-dense --out FILE", 1, "FILE"),
    ("index build --corpus QUESTIONS --name x --no-dense --out FOLDER", 1, "QUESTIONS:1: "),
    ("index build --corpus QUESTIONS --name x --no-dense --bm25 none --out FOLDER", 1, "nothing to search with"),
    ("index build --corpus QUESTIONS --name x --no-dense --kind sq8 --out FOLDER", 1, "--kind sq8"),
    ("index connect x --retrieve h:1 --out FOLDER", 1, "url: must be a URL"),
    ("index connect x --searxng DOWN --safesearch 3 --out FOLDER", 1, "safesearch: "),
    ("index connect x --searxng DOWN --version 1 --out FOLDER", 1, "version: "),
    ("index connect x --retrieve DOWN --key-file MISSING --out FOLDER", 1, "key_file: "),
    ("index connect x --retrieve DOWN --out FILE", 1, "FILE"),
    ("index connect x --out FOLDER", 2, "--searxng"),
    ("index convert MISSING --kind sq8 --name x", 1, "MISSING"),
    ("index create x --url DOWN", 1, "is the gateway running there?"),
    ("index push x MISSING", 1, "MISSING: No such file"),
    ("index push x QUESTIONS", 1, 'QUESTIONS:1: no "text"'),
    ("index push x FILE --batch 0", 2, "at least 1"),
    ("index remove x y --url DOWN", 1, "is the gateway running there?"),
    ("index remove x", 2, "ID"),
    ("index versions x --url OTHER", 1, "the answer has no 'name'"),
    ("index delete x --url DOWN", 1, "is the gateway running there?"),
    ("ask hi --filter {", 2, "not JSON"),
    ("ask hi --filter year>1990", 2, "neither >= nor <="),
    ("ask hi --filter year<", 2, "neither >= nor <="),
    ("index info FOLDER", 1, "FOLDER"),
    ("index rollback FOLDER", 1, "FOLDER"),
    ("index rollback x --url DOWN", 1, "is the gateway running there?"),
    ("index list --dir MISSING", 1, "MISSING: no such folder"),
    ("index ladder MISSING", 1, "MISSING"),
    ("index download nothing", 2, "wiki-18"),
    ("dance", 2, "dance"),
]


class Other(BaseHTTPRequestHandler):
    """Another server than a gateway."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"{}")

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def other() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_every_command_is_in_the_table() -> None:
    assert {command for command, *_ in COMMANDS} == {typed.split()[0] for typed, *_ in MISTAKES} - {"dance"}


@pytest.mark.parametrize(("typed", "status", "said"), MISTAKES, ids=lambda part: ascii(part)[:60])
def test_a_mistake_ends_in_one_line(
    tmp_path: Path, other: str, capsys: pytest.CaptureFixture[str], typed: str, status: int, said: str
) -> None:
    (tmp_path / "FILE").write_text("mine")
    (tmp_path / "FOLDER").mkdir()
    (tmp_path / "QUESTIONS").write_text(QUESTIONS)
    places = {name: str(tmp_path / name) for name in ("FILE", "FOLDER", "QUESTIONS", "MISSING")}
    places |= {"DOWN": DOWN, "OTHER": other}
    words = []
    for word in typed.split():
        stem = next((name for name in places if word.startswith(name)), "")
        words.append(places[stem] + word.removeprefix(stem) if stem else word)
    try:
        found = main(words)
    except SystemExit as stopped:
        found = int(stopped.code or 0)
    error = capsys.readouterr().err.strip()
    assert (found, said in error) == (status, True), error
    if status:
        assert error.split("\n")[-1].startswith("search-agent")
        assert (tmp_path / "FILE").read_text() == "mine"
        assert not (tmp_path / "MISSING").exists()


def _raise(error: BaseException) -> NoReturn:
    raise error


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (KeyboardInterrupt(), 130, "search-agent: interrupted\n"),
        (ModuleNotFoundError("no tqdm", name="tqdm"), 1, "tqdm is not installed"),
        (OSError(28, "No space left on device"), 1, "search-agent: No space left on device\n"),
        (PermissionError(13, "Permission denied", "/x/rows.jsonl"), 1, "/x/rows.jsonl: Permission denied"),
    ],
)
def test_what_stops_a_command(capsys: pytest.CaptureFixture[str], error: BaseException, status: int, said: str) -> None:
    assert told(lambda: _raise(error)) == status
    assert said in capsys.readouterr().err


def test_a_full_disk(capsys: pytest.CaptureFixture[str]) -> None:
    assert told(lambda: Path("/dev/full").write_text("x")) == 1
    assert capsys.readouterr().err == "search-agent: No space left on device\n"


def test_no_library_is_loaded_before_a_command_runs() -> None:
    code = """
import sys
before = set(sys.modules)
import cli.main
print([name for name in set(sys.modules) - before if "site-packages" in str(sys.modules[name])])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=True)
    assert done.stdout == b"[]\n"


def test_a_bug_is_not_hidden() -> None:
    with pytest.raises(KeyError):
        told(lambda: {}["bug"])  # type: ignore[no-any-return]


def test_a_failed_service_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    def ask() -> NoReturn:
        raise RetrieverError(Failure.UNAVAILABLE, "it cannot be reached")

    assert told(ask) == 1
    assert capsys.readouterr().err == "search-agent: retriever: it cannot be reached\n"


def test_an_output_that_nobody_reads() -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "cli", "index", "list", "--dir", "data/demo/indexes"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, timeout=60, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, b"")


def test_an_output_on_a_full_disk() -> None:
    command = [sys.executable, "-m", "cli", "index", "list", "--dir", "data/demo/indexes"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (1, b"search-agent: No space left on device\n")


def test_a_terminal_without_the_characters() -> None:
    code = "from cli.problems import told; told(lambda: print('奥斯特') or 0)"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, timeout=60, check=True)
    assert done.stdout == rb"\u5965\u65af\u7279" + b"\n"
