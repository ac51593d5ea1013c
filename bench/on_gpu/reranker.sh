# shellcheck shell=bash
# A phase of bench/on_gpu.sh, which reads it.
start_retriever
"$python" -m bench.reranker --model "$base" --adapter "$work/reader" --retriever 127.0.0.1:$retriever \
    --out "$work/reranker" "${@:3}" >"$work/logs/$phase.log" 2>&1
said "$(cat "$work/reranker/held-out.json")"
