# shellcheck shell=bash
# A phase of bench/on_gpu.sh, which reads it.
start_retriever
start_reader
"$python" -m bench.head_room --questions $dev --limit 1500 --retriever 127.0.0.1:$retriever \
    --generator 127.0.0.1:$reader --out "$work/head-room.json" >"$work/logs/$phase.log" 2>&1
said "$(cat "$work/head-room.json")"
