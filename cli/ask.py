"""`search-agent ask`, and the demo: asks a running gateway and shows the search as it goes."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any, TextIO

from cli import rest
from cli.arguments import add_url


def ask(url: str, question: str, method: str, **options: object) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields the gateway's events for one question: ("turn" | "documents" | "answer.delta" | "done", data).

    `options` are fields of POST /v1/answer. Raises AskError.
    """
    body = {"question": question, "method": method, "stream": True, **options}
    return rest.events("POST", f"{url}/v1/answer", body)


def show(events: Iterator[tuple[str, dict[str, Any]]], out: TextIO | None = None) -> dict[str, Any]:
    """Prints each turn (query, retrieved titles, kept ones marked) and the answer as it is written.

    `out` defaults to standard output. Returns the data of "done".
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
    """Adds the arguments of `search-agent ask`."""
    parser.add_argument("question")
    parser.add_argument("--method", default="s3", help="one of GET /v1/methods (default: %(default)s)")
    parser.add_argument("--index", help="default: the retriever's default index")
    add_url(parser)
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    options = {"index": args.index} if args.index else {}
    show(ask(args.url, args.question, args.method, **options))
    return 0
