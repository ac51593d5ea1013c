# shellcheck shell=bash
# A phase of bench/on_gpu.sh, which reads it.
names=()
lexical 4
play() { # play NAME PARAMETERS QUESTIONS AT_ONCE SEARCHERS GENERATORS FLAGS...
    rm -f "$work/logs/"{agents,ceiling}-"$1".{json,calls}
    "$python" -m bench.agents --parameters "$2" --limit "$3" --at-once "$4" --processes $(($4 / 64)) \
        --retriever "$(several $retrievers 4)" --searcher "$5" --generator "$6" --calls "$work/logs/agents-$1.calls" \
        --out "$work/logs/agents-$1.json" "${@:7}" >"$work/logs/agents-$1.log" 2>&1 ||
        said "$1 was not measured: $(tail -n 1 "$work/logs/agents-$1.log")"
    said "agents-$1: $(tail -n 1 "$work/logs/agents-$1.log")"
}
ceiling() { # ceiling NAME MODEL ARGUMENTS FLAGS...: after the engine has left the GPU
    "$python" -m bench.ceiling --calls "$work/logs/agents-$1.calls" --played "$work/logs/agents-$1.json" --model "$2" \
        --graph-tokens $graph_tokens --arguments "{\"max_model_len\": 8192, \"max_num_seqs\": 256, ${3#\{}" "${@:4}" \
        --out "$work/logs/ceiling-$1.json" >"$work/logs/ceiling-$1.log" 2>&1 ||
        said "$1 has no ceiling: $(tail -n 1 "$work/logs/ceiling-$1.log")"
    said "ceiling-$1: $(tail -n 1 "$work/logs/ceiling-$1.log")"
}
card=$(parameters_of_the_searcher) gpu=${CUDA_VISIBLE_DEVICES:-0} cache=12000000000 place=$((engines + 80))
for merged in searcher:warm reader:reader; do
    [[ -d $work/merged-${merged%:*} ]] || "$python" -m cli merge "$base" "$work/${merged#*:}" "$work/merged-${merged%:*}" \
        >"$work/logs/$phase-merge.log" 2>&1 || { said "not merged: $(tail -n 1 "$work/logs/$phase-merge.log")" && exit 1; }
done
small adapters "$gpu" "$place" $cache
listens adapters "$place"
play adapters "$card" 768 256 127.0.0.1:"$place"/{searcher,reader} "${@:3}"
end adapters
ceiling adapters "$base" "$(vllm_arguments $cache)" --adapters "{\"searcher\": \"$work/warm\", \"generator\": \"$work/reader\"}"

start_mps
whole=()
for number in 0 1; do # two engines each, with whole models
    for model in searcher reader; do
        at=$((place + 1 + number)) && [[ $model = searcher ]] || at=$((at + 4))
        whole+=("$model-$number")
        start_engine "$model-$number" $at "$(vllm_arguments $cache)" GENERATOR_MODEL="$work/merged-$model" \
            GENERATOR_ADAPTER_RANK=0 GENERATOR_PARALLEL=512 GENERATOR_MAX_IN_FLIGHT=4096
    done
done
for number in 0 1; do
    listens "searcher-$number" $((place + 1 + number))
    listens "reader-$number" $((place + 5 + number))
done
play merged "$card" 2048 1024 "$(several $((place + 1)) 2)" "$(several $((place + 5)) 2)" "${@:3}"
end "${whole[@]}"
end_mps

shape 7b
seven=$(vllm_arguments 48000000000 '"load_format": "dummy"')
start_engine seven $((place + 9)) "$seven" GENERATOR_MODEL="$work/7b" GENERATOR_CONTEXT_TOKENS=8192 GENERATOR_ADAPTER_RANK=0
listens seven $((place + 9))
play seven '{"max_turns": 3, "turn_tokens": 128, "mode": "bm25"}' 192 256 127.0.0.1:$((place + 9)){,} "${@:3}"
end seven
ceiling seven "$work/7b" "$seven"
"$python" -m bench.recorded --command "bench/on_gpu.sh WORK agents" --out "$work/agents.json" \
    adapters="$work/logs/agents-adapters.json" ceiling="$work/logs/ceiling-adapters.json" \
    merged="$work/logs/agents-merged.json" seven="$work/logs/agents-seven.json" seven-ceiling="$work/logs/ceiling-seven.json"
