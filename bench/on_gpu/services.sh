# shellcheck shell=bash
# A phase of bench/on_gpu.sh, which reads it.
small=$(vllm_arguments 6000000000 '"enforce_eager": true') graph_tokens=0
RETRIEVER_GPUS=1 start_retriever
start_engine searcher $searcher "$small" GENERATOR_MODEL="$base" GENERATOR_ADAPTERS="{\"searcher\": \"$work/warm\"}"
start_engine reader $reader "$small" GENERATOR_MODEL="$base" GENERATOR_ADAPTERS="{\"reader\": \"$work/reader\"}"
listens searcher $searcher
listens reader $reader
start_gateway $reader "$(methods_of_the_demo)"
said "$(cat "$work/logs/$phase-first-answer.json")"
evaluate services s3,naive_rag:top_k=1 --limit 500
change() { # change NAME TO...: while 64 callers ask
    "$python" -m bench.load_model --generator 127.0.0.1:$reader --out "$work/logs/$1.json" --to "${@:2}" \
        >"$work/logs/$1.log" 2>&1 || said "$1 did not go through"
    said "$1: $(tail -n 60 "$work/logs/$1.log")"
}
change load-adapter "$work/warm" "$work/reader" "" "$work/reader"
[[ -d $base-again ]] || cp -r "$base" "$base-again"
change load-model "$base-again:$work/warm"
