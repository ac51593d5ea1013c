"""Asks a running gateway and shows the search as it goes: `search-agent ask` and the demo."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from typing import Any, TextIO


class AskError(Exception):
    """The gateway could not be asked, or answered with a problem."""


def ask(url: str, question: str, method: str, **options: object) -> Iterator[tuple[str, dict[str, Any]]]:
    """The gateway's events for one question: ("turn" | "documents" | "answer.delta" | "done", data).

    `options` are fields of POST /v1/answer. Raises AskError.
    """
    body = {"question": question, "method": method, "stream": True, **options}
    return events("POST", url, "/v1/answer", body, 300)


def events(
    method: str, url: str, path: str, body: dict[str, Any] | None, silence_s: float | None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The Server-Sent Events of the gateway's answer, but "error". Waits `silence_s` seconds for each at most.

    Raises AskError.
    """
    import httpx  # here, so that the command line answers --help at once

    try:
        with httpx.stream(method, url + path, json=body, timeout=httpx.Timeout(30, read=silence_s)) as response:
            if response.status_code != 200:
                raise AskError(detail(response.read()))
            event = ""
            for line in response.iter_lines():
                if line.startswith("event: "):
                    event = line.removeprefix("event: ")
                elif line.startswith("data: "):
                    data = json.loads(line.removeprefix("data: "))
                    if event == "error":
                        raise AskError(data["detail"])
                    yield event, data
    except httpx.HTTPError as error:
        raise AskError(f"{url}: {error}; is the gateway running there?") from error


def detail(body: bytes) -> str:
    """What a problem says."""
    try:
        return str(json.loads(body)["detail"])
    except (ValueError, KeyError, TypeError):
        return body.decode("utf-8", "replace")[:500]


def show(events: Iterator[tuple[str, dict[str, Any]]], out: TextIO | None = None) -> dict[str, Any]:
    """Prints each turn (query, retrieved titles, kept ones marked) and the answer as it is written.

    `out` is standard output if not given. Returns the data of "done".
    """
    turn, done = 0, {}
    for event, data in events:
        if event == "turn":
            turn += 1
            print(f"  turn {turn}  query: {data['query'] or '(none)'}", file=out)
            for number, passage in enumerate(data["retrieved"], 1):
                kept = "keep" if passage in data["selected"] else "    "
                print(f"    {kept} {number}. {data['titles'][passage]}  [{passage}]", file=out)
            for passage in data["selected"]:
                if passage not in data["retrieved"]:
                    print(f"    keep {data['titles'][passage]}  [{passage}]", file=out)
            if data["error"]:
                print(f"    malformed: {data['error']}", file=out)
        elif event == "documents":
            print("  answer: ", end="", file=out, flush=True)
        elif event == "answer.delta":
            print(" ".join(data["text"].split("\n")), end="", file=out, flush=True)
        elif event == "done":
            done = data
            usage, took = data["usage"], data["timings_ms"]["total"] / 1000
            print(
                f"\n  {data['stop_reason']}; {len(data['documents'])} kept, {usage['searches']} searches, "
                f"{usage['prompt_tokens']} + {usage['completion_tokens']} tokens, {took:.1f} s"
                f"{' (cached)' if data['cached'] else ''}",
                file=out,
            )
    return done


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `search-agent ask`."""
    parser.add_argument("question")
    parser.add_argument("--method", default="s3", help="one of GET /v1/methods (default: %(default)s)")
    parser.add_argument("--index", help="default: the retriever's default index")
    parser.add_argument("--url", default="http://127.0.0.1:8080", help="the gateway (default: %(default)s)")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    options = {"index": args.index} if args.index else {}
    show(ask(args.url, args.question, args.method, **options))
    return 0
