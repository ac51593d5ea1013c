"""Draws the trace of a real question: `python -m bench.trace --out docs/images/trace.png` starts the demo for it."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.otlp import Received, receiving
from common.addresses import free_port
from deploy.demo import demo_questions
from deploy.local import Stack
from search_agent_client import Client

_COLORS = {"gateway": "#4c72b0", "retriever": "#55a868", "generator": "#dd8452"}
_WAIT_S = 8.0  # spans are sent every five seconds


def tree(spans: Sequence[Received], parent: str = "", depth: int = 0) -> Iterator[tuple[int, Received]]:
    """Yields each span after the one above it, with its depth, in the order in which they began."""
    for span in sorted((each for each in spans if each.parent == parent), key=lambda each: each.began):
        yield depth, span
        yield from tree(spans, span.id, depth + 1)


def draw(spans: Sequence[Received], title: str, out: Path) -> None:
    """Writes a picture of a trace, a row for each span."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [*tree(spans)]
    start, end = rows[0][1].began, max(span.ended for _, span in rows)
    width = (end - start) / 1e9
    figure, axes = pyplot.subplots(figsize=(13, 1.2 + 0.235 * len(rows)), dpi=110)
    for row, (depth, span) in enumerate(rows):
        began, took = (span.began - start) / 1e9, (span.ended - span.began) / 1e9
        axes.barh(row, max(took, width / 800), left=began, height=0.68, color=_COLORS.get(span.service, "#888888"))
        told = [f"{took * 1e3:.0f} ms", *_tokens(span)]
        if began + took > 0.6 * width:  # what is told stands before the bar, or in it if it is long
            at, side, ink = (began + took, "right", "white") if took > 0.5 * width else (began, "right", "#333333")
        else:
            at, side, ink = began + took, "left", "#333333"
        axes.text(at, row, f" {', '.join(told)} ", va="center", ha=side, fontsize=7.5, color=ink)
        axes.text(-0.44 * width + 0.014 * width * depth, row, span.name, va="center", fontsize=8)
    axes.set(xlim=(-0.45 * width, width * 1.02), ylim=(len(rows) - 0.4, -0.8), yticks=[])
    axes.set_xlabel("seconds", loc="right")
    axes.set_xticks([tick for tick in axes.get_xticks() if 0 <= tick <= width])
    for side in ("left", "right", "top"):
        axes.spines[side].set_visible(False)
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    used = [service for service in _COLORS if any(span.service == service for span in spans)]
    handles = [pyplot.Rectangle((0, 0), 1, 1, color=_COLORS[service]) for service in used]
    axes.legend(handles, used, loc="upper right", fontsize=8, frameon=False, ncols=len(used), bbox_to_anchor=(1, 1.06))
    axes.set_title(title, fontsize=10, loc="left")
    figure.tight_layout()
    figure.savefig(out)


def _tokens(span: Received) -> list[str]:
    """Returns the tokens of a move or an answer, where the service that wrote it tells them."""
    if not span.name.startswith("engine"):
        return []
    names = ("gen_ai.usage.input_tokens", "gen_ai.usage.cache_read.input_tokens", "gen_ai.usage.output_tokens")
    read, known, wrote = (span.attributes.get(name, 0) for name in names)
    return [f"{read} tokens read ({known} known from before), {wrote} written"]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.trace", description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--question", default=demo_questions()[-1].text, help="by default one that needs two searches")
    args = parser.parse_args()
    with receiving() as (receiver, endpoint), tempfile.TemporaryDirectory() as logs:
        os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = endpoint
        with Stack(free_port(), Path(logs)) as stack, Client(stack.url, timeout_s=300) as client:
            answer = client.answer(args.question, "s3")
            time.sleep(_WAIT_S)
    draw(receiver.spans, f"s3: {len(answer.turns)} searches, {answer.timings_ms.total / 1e3:.1f} s", args.out)
    for depth, span in tree(receiver.spans):
        print(f"{'  ' * depth}{span.service} {span.name} {(span.ended - span.began) / 1e6:.1f} ms")
    print(f"{args.question} -> {answer.answer}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
