#!/usr/bin/env bash
# The demo on a machine with one GPU, vllm and verl, as processes. A phase that was stopped goes on where it was.
#
#   bench/on_gpu.sh WORK evaluate          every method on 500 dev questions with the untrained model
#   bench/on_gpu.sh WORK adapters          the searcher's warm start; the reading adapter too, if WORK/reader is not there
#   bench/on_gpu.sh WORK train [SEED]      reinforcement from the warm start
#   bench/on_gpu.sh WORK compare NAME      naive RAG and the searcher NAME (smollm2, warm, trained-SEED), same reader
#
# WORK/logs holds what each process said. PYTHON chooses the interpreter, GGUF the model (default: the embedded one).
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mkdir -p "$1/logs" && cd "$1" && pwd)
python=${PYTHON:-python3}
base=$work/smollm2
dev=data/demo/qa_dev.jsonl.gz
retriever=50051 searcher=50052 generator=50053 gateway=8080 vllm=8000
pids=()
trap 'for pid in "${pids[@]}"; do kill -- "-$pid" 2>/dev/null || true; done' EXIT

said() { printf '[%4ds] %s\n' "$SECONDS" "$*"; }

start() { # start NAME COMMAND...
    setsid "${@:2}" >"$work/logs/$1.log" 2>&1 </dev/null &
    pids+=($!)
}

ready() { # ready NAME URL SECONDS: until it answers; stops all if the process died or the time is over
    local end=$((SECONDS + $3))
    until curl -sf "$2" >/dev/null; do
        if ((SECONDS > end)) || ! kill -0 "${pids[-1]}" 2>/dev/null; then
            tail -n 30 "$work/logs/$1.log" >&2
            said "$1 does not answer"
            exit 1
        fi
        sleep 1
    done
    said "$1 is ready"
}

adapters() { # those there are, as vLLM takes them
    for name in reader warm trained-1 trained-2; do
        [[ -f $work/$name/adapter_model.safetensors ]] && echo "$name=$work/$name"
    done
}

start_retriever() {
    start retriever env RETRIEVER_INDEXES=data/demo/indexes RETRIEVER_PORT=$retriever \
        RETRIEVER_METRICS_PORT=0 "$python" -m services.retriever
}

start_model() { # one vLLM for the base model and all adapters; $1 is its share of the GPU's memory
    local loras
    mapfile -t loras < <(adapters)
    ((${#loras[@]})) && loras=(--enable-lora --max-lora-rank 64 --max-loras 4 --lora-modules "${loras[@]}")
    # sampling and tuning by flashinfer compile at the first start, where it is installed
    start vllm env VLLM_USE_FLASHINFER_SAMPLER=0 "$python" -m vllm.entrypoints.openai.api_server --model "$base" \
        --served-model-name smollm2 --port $vllm --max-model-len 8192 --max-num-seqs 256 --stream-interval 16 \
        --gpu-memory-utilization "$1" --kernel-config '{"enable_flashinfer_autotune": false}' "${loras[@]}"
    ready vllm http://127.0.0.1:$vllm/health 240
}

start_generator() { # start_generator NAME PORT MODEL: a generator service in front of vLLM
    start "$1" env GENERATOR_ENGINE=openai GENERATOR_OPENAI_BASE_URL=http://127.0.0.1:$vllm/v1 \
        GENERATOR_OPENAI_MODEL="$3" GENERATOR_OPENAI_DIALECT=vllm GENERATOR_PORT="$2" \
        GENERATOR_METRICS_PORT=0 "$python" -m services.generator
}

start_gateway() { # start_gateway METHODS: parameters as JSON
    start gateway env GATEWAY_RETRIEVER=127.0.0.1:$retriever GATEWAY_SEARCHER=127.0.0.1:$searcher \
        GATEWAY_GENERATOR=127.0.0.1:$generator GATEWAY_MAX_IN_FLIGHT=256 GATEWAY_PORT=$gateway \
        GATEWAY_METHODS="$1" "$python" -m services.gateway
    ready gateway http://127.0.0.1:$gateway/readyz 60
    # /readyz asks the services, and only an answer asks the model behind them
    curl -sSf http://127.0.0.1:$gateway/v1/answer -H 'content-type: application/json' \
        -d '{"question": "Who found radium?"}' >"$work/logs/first-answer.json"
}

evaluate() { # evaluate OUT METHODS ARGUMENTS...
    "$python" -c 'import sys; from services.cli import main; sys.exit(main())' evaluate --questions $dev \
        --out "$work/$1" --methods "$2" --concurrency 128 --url http://127.0.0.1:$gateway "${@:3}" \
        >"$work/logs/$1.log" 2>&1 || said "some questions failed: logs/$1.log"
    said "$1: $(wc -l <"$work/$1/rows.jsonl") answers"
}

[[ -d $work/reader || ${2-} = adapters ]] || cp -r data/demo/adapters/reader "$work/reader"
"$python" -m services.trainer.base_model "$base" ${GGUF:+--gguf "$GGUF"} >"$work/logs/base.log" 2>&1
said "base model"
case $2 in
evaluate)
    all=s3,naive_rag,direct,cot,ircot,search_o1,search_r1,search_r1:answerer=searcher,deep_retrieval
    start_retriever
    start_model 0.3
    start_generator searcher $searcher smollm2
    start_generator generator $generator smollm2
    start_gateway '{}'
    evaluate evaluate "$all,naive_rag:mode=bm25,naive_rag:mode=hybrid" --limit 500 --budget 3
    evaluate evaluate "$all,naive_rag:top_k=1,naive_rag:top_k=8" --limit 500
    ;;
adapters)
    start_retriever
    for what in reading searching; do
        [[ -f $work/$what.jsonl ]] && continue
        part="0 0.8" # what comes after is the gate's
        [[ $what = reading ]] && part="0 0.6" # the searcher's reinforcement is on articles the reader has not seen
        # shellcheck disable=SC2086
        "$python" -m services.trainer.teach $what --questions data/demo/qa_train.jsonl.gz --part $part \
            --out "$work/$what.jsonl"
    done
    for pair in reading:reader:2 searching:warm:1; do
        IFS=: read -r what name epochs <<<"$pair"
        [[ -f $work/$name/adapter_model.safetensors ]] && continue
        "$python" -m services.trainer.supervised --model "$base" --examples "$work/$what.jsonl" --out "$work/$name" \
            --epochs "$epochs" >"$work/logs/$name.log" 2>&1
        said "$name: $(tail -n 1 "$work/$name/losses.jsonl")"
    done
    ;;
train)
    seed=${3:-1} run=$work/run-${3:-1}
    start_retriever
    start_model 0.2
    start_generator generator $generator reader
    mkdir -p "$run"
    [[ -f $run/config.yaml ]] || "$python" - "$base" "$work/warm" "$seed" >"$run/config.yaml" <<'P'
import sys

from services.trainer.config import dump, load

base, warm, seed = sys.argv[1:]
kernels = "verl.+actor_rollout_ref.rollout.engine_kwargs.vllm.kernel_config"
changes = {"base_model": base, "adapter": warm, "seed": int(seed), kernels: {"enable_flashinfer_autotune": False}}
print(dump(load("smollm2-demo", changes)), end="")
P
    VLLM_USE_FLASHINFER_SAMPLER=0 "$python" -m services.trainer.train "$run" >>"$work/logs/run-$seed.log" 2>&1 ||
        said "stopped: $(cat "$run/reason.txt" 2>/dev/null || tail -n 1 "$work/logs/run-$seed.log")"
    newest=$(find "$run" -maxdepth 2 -name 'global_step_*' | sort -V | tail -n 1)
    [[ -n $newest ]] || exit 1
    rm -rf "$work/trained-$seed"
    cp -r "$newest/lora_adapter" "$work/trained-$seed"
    said "run: $(wc -l <"$run/metrics.jsonl") lines of metrics, newest checkpoint ${newest##*/}"
    ;;
compare)
    start_retriever
    start_model 0.4
    start_generator searcher $searcher "$3"
    start_generator generator $generator reader
    start_gateway '{"s3": {"max_turns": 1, "max_selected": 1, "observation_chars": 6000}}'
    evaluate "compare-$3" \
        "s3,naive_rag:top_k=1,naive_rag,naive_rag:top_k=8,naive_rag:mode=hybrid:top_k=1,direct" --limit 1500
    ;;
*)
    said "no phase is called $2"
    exit 2
    ;;
esac
