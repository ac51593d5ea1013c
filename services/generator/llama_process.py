"""Runs one llama.cpp server: python llama_process.py JSON. Prints its address when it is ready.

It is a separate process because xllamacpp holds the interpreter lock for the seconds that a model takes to load, and
because a crash in native code must not fail another model's requests. It lives until its standard input closes, which
also happens when its parent dies.
"""

import json
import os
import signal
import sys

import xllamacpp


def start(options: dict) -> xllamacpp.Server:
    params = xllamacpp.CommonParams()
    params.model.path = options["model"]
    adapters = []
    for path in options["adapters"]:  # every request says how much of which it wants
        adapters.append(xllamacpp.CommonAdapterLoraInfo())
        adapters[-1].path = path
    params.lora_adapters = adapters
    params.n_parallel = options["parallel"]
    params.n_ctx = options["context_tokens"] * options["parallel"]
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options["threads"]
    params.n_gpu_layers = options["gpu_layers"]
    # Each waiting request holds a thread, so with fewer /health would wait behind the queue.
    params.n_threads_http = options["http_threads"]
    params.cache_ram_mib = 0  # otherwise it keeps up to 8 GiB of old prompts; each slot still keeps its last one
    params.cache_idle_slots = False
    params.ui = False
    params.verbosity = -1
    return xllamacpp.Server(params)


if __name__ == "__main__":
    for signum in (signal.SIGINT, signal.SIGTERM):  # the parent decides, once its requests are done
        signal.signal(signum, signal.SIG_IGN)
    ready = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # output of native code must not be taken for the address
    try:
        server = start(json.loads(sys.argv[1]))
    except RuntimeError as error:
        sys.exit(str(error))
    try:
        print(server.listening_address, file=ready, flush=True)
        sys.stdin.read()
    finally:  # the parent may have died by now, and llama.cpp can hang in an orderly end
        os._exit(0)
