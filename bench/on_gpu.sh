#!/usr/bin/env bash
# Runs the demo as processes on a machine with a GPU, vLLM and verl. A phase that was stopped resumes.
#
#   bench/on_gpu.sh WORK serve                serves retriever, vLLM and the reading adapter for the other phases
#   bench/on_gpu.sh WORK services             runs all services with vLLM in their processes: s3 on 500 questions, then
#                                             models changed under load
#   bench/on_gpu.sh WORK agents [FLAGS…]      plays s3: the demo's searcher and reader as adapters of one engine, and as
#                                             whole models on two engines each; a 7B shape. With vLLM's own ceiling
#   bench/on_gpu.sh WORK gpus [PART…]         compares 1, 2, 4 and 8 GPUs, as many as there are: engines of SmolLM2,
#                                             tensor-parallel (a 7B shape), vectors (21 million), training by FSDP2; and
#                                             serves a 7B and a 14B shape in the layout of deploy/gpu-2.env. By name
#                                             only: copies, engines in one service; training-graphs, rollouts as CUDA
#                                             graphs; training-7b, LoRA on a 7B shape; paper, two steps of s3's
#                                             published setting in these shapes
#   bench/on_gpu.sh WORK cost [FLAGS…]        plays 1,024 questions by each method with the demo's adapters, 256 at once
#   bench/on_gpu.sh WORK evaluate             asks 500 dev questions by every method, with an untrained searcher
#   bench/on_gpu.sh WORK head-room            measures how much the reader gains from the right passage
#   bench/on_gpu.sh WORK adapters             trains the single-hop pair that the demo's adapters began from
#   bench/on_gpu.sh WORK reranker [FLAGS…]    trains a cross-encoder from the reader, which compare then includes
#   bench/on_gpu.sh WORK train SEED [FIELD=VALUE…]   reinforcement from the warm start
#   bench/on_gpu.sh WORK compare NAME…        asks naive RAG and searchers: smollm2, warm, trained-SEED
#
# bench/on_gpu/ has a file for each phase. A phase starts the services that do not answer yet. To run two phases side
# by side, give one of them PORTS, a number that is added to each port, and with several GPUs CUDA_VISIBLE_DEVICES.
# PORTS=12000 stays clear of the ports from 32768 to 60999, which Linux uses for connections. COUNTS="1 4" chooses the
# numbers of GPUs that `gpus` compares, and LONGEST the seconds after which one of its training runs ends (600); the
# steps until then are measured. Two `train` phases at once are not supported: in separate Ray clusters on one host
# they share verl's sockets for weights, and in one cluster (RAY_ADDRESS) TransferQueue's controller. WORK/logs has
# the output of each process. PYTHON chooses the interpreter, GGUF the model (default: the embedded one), and
# VLLM_FLAGS adds options for vLLM.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mkdir -p "$1/logs" && cd "$1" && pwd)
phase=$2
python=${PYTHON:-python3}
base=$work/smollm2
dev=data/demo/qa_dev.jsonl.gz
shift_by=${PORTS:-0}
retriever=$((50051 + shift_by)) searcher=$((50052 + shift_by)) reader=$((50053 + shift_by))
gateway=$((8080 + shift_by)) vllm=$((8000 + shift_by))
pids=()
declare -A pid_of
trap 'for pid in "${pids[@]}"; do kill -- "-$pid" 2>/dev/null || true; done; wait; end_mps' EXIT

said() { printf '[%4ds] %s: %s\n' "$SECONDS" "$phase" "$*"; }

start_mps() { # CUDA's multi-process service: what starts later computes at the same time on one GPU
    export CUDA_MPS_PIPE_DIRECTORY=$work/mps CUDA_MPS_LOG_DIRECTORY=$work/logs
    nvidia-cuda-mps-control <<<quit >/dev/null 2>&1 || true # left by a run that was killed
    mkdir -p "$work/mps"
    env -u CUDA_VISIBLE_DEVICES nvidia-cuda-mps-control -d # with it, the service would number the GPUs anew
}

end_mps() { # if this phase started it
    [[ ${CUDA_MPS_PIPE_DIRECTORY-} = "$work/mps" ]] || return 0
    nvidia-cuda-mps-control <<<quit >/dev/null || true
    unset CUDA_MPS_PIPE_DIRECTORY CUDA_MPS_LOG_DIRECTORY
}

start() { # start NAME COMMAND...
    setsid "${@:2}" >"$work/logs/$phase-$1.log" 2>&1 </dev/null &
    pids+=($!) pid_of[$1]=$!
}

stop() { # the process started last
    kill -- "-${pids[-1]}" && wait "${pids[-1]}" 2>/dev/null || true
    unset 'pids[-1]'
}

comes() { # comes NAME SECONDS COMMAND...: until it succeeds; stops all if the process died or the time is over
    local end=$((SECONDS + $2))
    until kill -0 "${pid_of[$1]}" 2>/dev/null && "${@:3}"; do
        if ((SECONDS > end)) || ! kill -0 "${pid_of[$1]}" 2>/dev/null; then
            tail -n 30 "$work/logs/$phase-$1.log" >&2
            said "$1 does not answer"
            exit 1
        fi
        sleep 0.5
    done
    said "$1 is ready"
}

ready() { # ready NAME URL SECONDS: until it answers
    comes "$1" "$3" curl -sf -o /dev/null "$2"
}

up() { # up PORT
    (: <"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

listens() { # listens NAME PORT
    comes "$1" 300 up "$2"
}

start_retriever() {
    up $retriever && return
    start retriever env RETRIEVER_INDEXES=data/demo/indexes RETRIEVER_PORT=$retriever \
        RETRIEVER_METRICS_PORT=0 "$python" -m services.retriever
    listens retriever $retriever
}

start_model() { # one vLLM for the base model and its adapters
    up $vllm && return
    # The cache's size is fixed: vLLM would count memory that others take while it starts as its own. flashinfer's
    # sampler and tuning, and vLLM's compilation, are off because they compile at the first start; CUDA graphs for
    # decoding still work.
    # shellcheck disable=SC2086
    start vllm env VLLM_USE_FLASHINFER_SAMPLER=0 VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 "$python" -m vllm.entrypoints.openai.api_server --model "$base" \
        --served-model-name smollm2 --port $vllm --max-model-len 8192 --max-num-seqs 256 --stream-interval 16 \
        --gpu-memory-utilization 0.1 --kv-cache-memory-bytes 12000000000 \
        --kernel-config '{"enable_flashinfer_autotune": false}' -cc.mode=none -cc.cudagraph_mode=full_decode_only \
        --enable-lora --max-lora-rank 32 --max-loras 4 --max-cpu-loras 8 ${VLLM_FLAGS-}
    ready vllm http://127.0.0.1:$vllm/health 300
}

load() { # load NAME: an adapter into vLLM, unless it is there
    curl -sf http://127.0.0.1:$vllm/v1/models | grep -q "\"$1\"" && return
    curl -sSf http://127.0.0.1:$vllm/v1/load_lora_adapter -H 'content-type: application/json' \
        -d "{\"lora_name\": \"$1\", \"lora_path\": \"$work/$1\"}" >>"$work/logs/$phase-load.log"
}

start_reader() { # vLLM with the reading adapter, and the generator service for it
    start_model
    load reader
    up $reader || start_generator reader $reader reader
}

start_generator() { # start_generator NAME PORT MODEL: a generator service in front of vLLM
    start "$1" env GENERATOR_ENGINE=openai GENERATOR_OPENAI_BASE_URL=http://127.0.0.1:$vllm/v1 \
        GENERATOR_OPENAI_MODEL="$3" GENERATOR_OPENAI_DIALECT=vllm GENERATOR_PORT="$2" \
        GENERATOR_METRICS_PORT=0 "$python" -m services.generator
    listens "$1" "$2"
}

vllm_arguments() { # vllm_arguments CACHE [MORE]: as JSON, with the size of its cache as in start_model
    echo "{\"kv_cache_memory_bytes\": $1, \"kernel_config\": {\"enable_flashinfer_autotune\": false}${2:+, $2}}"
}

graph_tokens=4096 # steps of up to so many tokens are CUDA graphs

start_engine() { # start_engine NAME PORT ARGUMENTS VARIABLE=VALUE...: a generator service with vLLM in its process
    start "$1" env GENERATOR_ENGINE=vllm GENERATOR_PORT="$2" GENERATOR_METRICS_PORT=0 GENERATOR_GPU_MEMORY=0.06 \
        GENERATOR_FOLDERS="$work" GENERATOR_GRAPH_TOKENS=$graph_tokens \
        GENERATOR_VLLM_ARGUMENTS="$3" VLLM_USE_FLASHINFER_SAMPLER=0 "${@:4}" "$python" -m services.generator
}

start_gateway() { # start_gateway GENERATOR METHODS: a port, and parameters as JSON
    start gateway env GATEWAY_RETRIEVER=127.0.0.1:$retriever GATEWAY_SEARCHER=127.0.0.1:$searcher \
        GATEWAY_GENERATOR=127.0.0.1:$1 GATEWAY_MAX_IN_FLIGHT=256 GATEWAY_PORT=$gateway \
        GATEWAY_METHODS="$2" "$python" -m services.gateway
    ready gateway http://127.0.0.1:$gateway/readyz 60
    # /readyz asks the services only; an answer also asks the model behind them
    curl -sSf http://127.0.0.1:$gateway/v1/answer -H 'content-type: application/json' \
        -d '{"question": "Who found radium?"}' >"$work/logs/$phase-first-answer.json"
}

serves_reranker() { # serves_reranker FOLDER: succeeds if the retriever, perhaps an earlier one, uses it
    curl -sf http://127.0.0.1:$gateway/v1/indexes | grep -q "\"reranker\": *\"$1\""
}

methods_of_the_demo() { # the parameters of its searcher's card as JSON: vLLM's server tells no card
    "$python" -c 'import json, sys; card = json.load(sys.stdin); print(json.dumps({card["method"]: card["parameters"]}))' \
        <data/demo/adapters/searcher/search_agent.json
}

end() { # end NAME...: processes, and waits for their memory
    local name
    for name in "$@"; do kill -- "-${pid_of[$name]}" 2>/dev/null || true; done
    for name in "$@"; do wait "${pid_of[$name]}" 2>/dev/null || true; done
}
small() { # small NAME GPUS PORT CACHE [ARGUMENTS]: an engine of SmolLM2 with searcher and reader
    start_engine "$1" "$3" "$(vllm_arguments "$4" "${5-}")" CUDA_VISIBLE_DEVICES="$2" GENERATOR_MODEL="$base" \
        GENERATOR_ADAPTERS="{\"searcher\": \"$work/warm\", \"reader\": \"$work/reader\"}" GENERATOR_ADAPTER_RANK=16 \
        GENERATOR_MAX_IN_FLIGHT=4096
}
shape() { # shape NAME: its model folder without weights
    [[ -d $work/$1 ]] || "$python" -m bench.dummy_model "$work/$1" --shape "$1" --tokenizer "$base" >"$work/logs/$phase-$1.log" 2>&1
}
several() { # several FROM COUNT [/MODEL]: addresses, with the model behind the last
    local number addresses=()
    for ((number = 0; number < $2; number++)); do addresses+=("127.0.0.1:$(($1 + number))"); done
    local IFS=,
    echo "${addresses[*]}${3-}"
}
parameters_of_the_searcher() { # as its card has them, over BM25, written freely first
    "$python" -c 'import json, sys; print(json.dumps(json.load(sys.stdin)["parameters"] | {"mode": "bm25", "free_first": True}))' \
        <"$work/warm/search_agent.json"
}
engines=$((50100 + shift_by)) retrievers=$((50200 + shift_by))
lexical() { # lexical COUNT: retrievers, which the caller's `names` then has too
    local number
    for ((number = 0; number < $1; number++)); do
        names+=("retriever-$number")
        start "retriever-$number" env CUDA_VISIBLE_DEVICES= RETRIEVER_INDEXES=data/demo/indexes \
            RETRIEVER_PORT=$((retrievers + number)) RETRIEVER_METRICS_PORT=0 "$python" -m services.retriever
    done
    for ((number = 0; number < $1; number++)); do listens "retriever-$number" $((retrievers + number)); done
}

evaluate() { # evaluate OUT METHODS ARGUMENTS...
    "$python" -c 'import sys; from cli.main import main; sys.exit(main())' evaluate --questions $dev \
        --out "$work/$1" --methods "$2" --concurrency 128 --url http://127.0.0.1:$gateway "${@:3}" \
        >"$work/logs/$1.log" 2>&1 || said "some questions failed: logs/$1.log"
    said "$1: $(wc -l <"$work/$1/rows.jsonl") answers"
}

run_of() { # run_of NAME CONFIGURATION FIELD=VALUE...: writes WORK/NAME.yaml, a run of the project with these changes
    "$python" - "${@:2}" >"$work/$1.draft" <<'P'
import sys

import yaml

from common.run_config import dump, load

configuration, *changed = sys.argv[1:]
changes = (change.partition("=") for change in changed)
print(dump(load(configuration, {field: yaml.safe_load(value) for field, _, value in changes})), end="")
P
    mv "$work/$1.draft" "$work/$1.yaml"
}

# How vLLM starts for the rollouts of a run, as start_model's.
rollouts=(verl.+actor_rollout_ref.rollout.engine_kwargs.vllm.{kernel_config='{enable_flashinfer_autotune: false}',kv_cache_memory_bytes=12000000000})

[[ -f bench/on_gpu/$phase.sh ]] || { said "there is no such phase" && exit 2; }
exec 9>"$work/logs/lock"
flock 9 # phases that start together do this once
if [[ $phase != adapters ]]; then # the demo's, unless they are made here
    [[ -d $work/reader ]] || cp -r data/demo/adapters/reader "$work/reader"
    [[ -d $work/warm ]] || cp -r data/demo/adapters/searcher "$work/warm"
fi
"$python" -m cli base-model "$base" ${GGUF:+--gguf "$GGUF"} >"$work/logs/$phase-base.log" 2>&1 ||
    { said "no base model: $(tail -n 1 "$work/logs/$phase-base.log")" && exit 1; }
exec 9>&-
said "base model"
# shellcheck source=/dev/null
. "bench/on_gpu/$phase.sh"
