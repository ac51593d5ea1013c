# shellcheck shell=bash
# A phase of bench/on_gpu.sh, which reads it.
RETRIEVER_GPUS=1 start_retriever
small demo "${CUDA_VISIBLE_DEVICES:-0}" $searcher 12000000000
listens demo $searcher
parts=()
play() { # play NAME METHOD PARAMETERS SEARCHER GENERATOR FLAGS...: the last two are models of the service
    "$python" -m bench.agents --method "$2" --parameters "$3" --limit 1024 --retriever 127.0.0.1:$retriever \
        --searcher "127.0.0.1:$searcher/$4" --generator "127.0.0.1:$searcher/$5" --processes 4 \
        --out "$work/logs/cost-$1.json" "${@:6}" >"$work/logs/cost-$1.log" 2>&1 || said "$1 was not measured"
    said "$1: $(tail -n 1 "$work/logs/cost-$1.log")"
    parts+=("$1=$work/logs/cost-$1.json")
    "$python" -m bench.recorded --command "bench/on_gpu.sh WORK cost" --out "$work/cost.json" "${parts[@]}"
}
card=$("$python" -c 'import json, sys; print(json.dumps(json.load(sys.stdin)["parameters"]))' <"$work/warm/search_agent.json")
play s3 s3 "$card" searcher reader "${@:3}"
for size in 1 3 8; do play naive_rag-$size naive_rag "{\"top_k\": $size}" base reader "${@:3}"; done
for method in direct cot search_r1; do play $method $method '{}' base base "${@:3}"; done
play ircot ircot '{}' base reader "${@:3}"
play search_o1 search_o1 '{}' base base "${@:3}"
