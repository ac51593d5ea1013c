"""Runs the retrieval server of another project: `PYTHON bench/other_server.py search-r1|flashrag --source FOLDER …`.

PYTHON is one that has the project's dependencies; none of ours is needed. The project's files stay as they are.

- Search-R1's server expects a GPU, listens on every address and has its port in its code. Here `.cuda()` does nothing
  where there is no GPU, and uvicorn gets an address of this machine and a port.
- FlashRAG has a retriever, but no server. Here its retriever answers in an endpoint like Search-R1's.

`--tuned` gives both what is fastest on a CPU: float32 for float16, threads that sleep while they wait, and no progress
bars or access logs. FlashRAG also gets its instruction given: it otherwise detects the language of a query in each
request.
"""

import argparse
import os
import runpy
import sys
from pathlib import Path
from typing import Any


def without_gpu() -> None:
    import torch

    if not torch.cuda.is_available():
        torch.nn.Module.cuda = torch.Tensor.cuda = lambda self, *args, **keywords: self


def listening_here(port: int, quiet: bool) -> None:
    """Makes `uvicorn.run` listen on 127.0.0.1 and `port`, whatever it is told."""
    import uvicorn

    run = uvicorn.run

    def here(app: Any, **settings: Any) -> None:
        settings |= {"host": "127.0.0.1", "port": port} | ({"log_level": "warning"} if quiet else {})
        run(app, timeout_keep_alive=3600, **settings)

    uvicorn.run = here


def search_r1(args: argparse.Namespace) -> None:
    import torch

    if args.tuned:
        torch.nn.Module.half = lambda self: self
    sys.argv = ["retrieval_server.py", "--index_path", args.index, "--corpus_path", args.corpus]
    sys.argv += ["--retriever_name", "e5", "--retriever_model", args.encoder]
    runpy.run_path(str(args.source / "search_r1" / "search" / "retrieval_server.py"), run_name="__main__")


def flashrag(args: argparse.Namespace) -> None:
    import uvicorn
    from fastapi import FastAPI
    from pydantic import BaseModel

    sys.path.insert(0, str(args.source))
    from flashrag.config import Config
    from flashrag.utils import get_retriever

    settings = {
        "retrieval_method": "e5",
        "retrieval_model_path": args.encoder,
        "index_path": args.index,
        "corpus_path": args.corpus,
        "save_dir": str(args.scratch),
        "disable_save": True,
    }
    if args.tuned:
        settings |= {"retrieval_use_fp16": False, "instruction": "query:"}
    retriever = get_retriever(Config(config_dict=settings))
    app = FastAPI()

    class Request(BaseModel):
        queries: list[str]
        topk: int
        return_scores: bool = True

    @app.post("/retrieve")
    def retrieve(request: Request) -> dict[str, Any]:
        found, scores = retriever.batch_search(request.queries, request.topk, True)
        return {
            "result": [
                [{"document": document, "score": score} for document, score in zip(documents, its, strict=True)]
                for documents, its in zip(found, scores, strict=True)
            ]
        }

    uvicorn.run(app)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", choices=["search-r1", "flashrag"])
    parser.add_argument("--source", type=Path, required=True, help="the project's repository")
    parser.add_argument("--index", required=True, help="FAISS index")
    parser.add_argument("--corpus", required=True, help="JSON lines with id and contents, in the index's order")
    parser.add_argument("--encoder", required=True, help="folder of a model that transformers loads")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--scratch", type=Path, required=True, help="folder for files that the project writes")
    parser.add_argument("--tuned", action="store_true", help="what is fastest on a CPU")
    args = parser.parse_args()
    if args.tuned:
        os.environ |= {"TQDM_DISABLE": "1", "OMP_WAIT_POLICY": "passive"}
    without_gpu()
    listening_here(args.port, args.tuned)
    {"search-r1": search_r1, "flashrag": flashrag}[args.project](args)


if __name__ == "__main__":
    main()
