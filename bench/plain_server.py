"""A retrieval server of the reference's design over one of our indexes: `python -m bench.plain_server INDEX --port N`.

Like the server of s3 and Search-R1 it handles one request at a time and batches only within a request. It uses our
encoder and index, so that only the design differs. `POST /retrieve` takes {"queries", "topk", "return_scores"}.
"""

from __future__ import annotations

import argparse
import threading
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from services.retriever.encoders import encoder_of
from services.retriever.gpu import torch_devices
from services.retriever.index import Index
from services.retriever.passages import embedded_text


class Request(BaseModel):
    queries: list[str]
    topk: int
    return_scores: bool = False


def application(index: Index) -> FastAPI:
    encoder = encoder_of(index.manifest)
    app, one_at_a_time = FastAPI(), threading.Lock()

    @app.post("/retrieve")
    def retrieve(request: Request) -> dict[str, Any]:
        with one_at_a_time:
            rankings = index.dense(encoder.queries(request.queries), request.topk)
            passages = index.passages([row for ranking in rankings for row, _ in ranking])
        return {
            "result": [
                [
                    {"document": {"id": passages[row].id, "contents": embedded_text(passages[row])}, "score": score}
                    for row, score in ranking
                ]
                for ranking in rankings
            ]
        }

    return app


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.plain_server", description=__doc__)
    parser.add_argument("index", type=Path, help="folder of the index")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--gpus", type=int, default=0, help="GPUs that hold the vectors (default: none)")
    args = parser.parse_args()
    index = Index(args.index, verify_checksums=False, gpus=torch_devices(args.gpus) if args.gpus else ())
    # Keeps connections open: one that closed between two rounds would fail the next round's first request.
    uvicorn.run(application(index), host="127.0.0.1", port=args.port, log_level="warning", timeout_keep_alive=24 * 3600)


if __name__ == "__main__":
    main()
