"""Has processes make token ids, says so, and ends with its input."""

import sys

from bench.encoder_folder import learned
from services.retriever.token_ids import in_processes, token_ids

if __name__ == "__main__":
    there = in_processes(token_ids(learned(["one two three"], words=60, max_tokens=64), 20), 2)
    there(["one"])
    print("tokenizing", flush=True)
    sys.stdin.read()
