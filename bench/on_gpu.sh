#!/usr/bin/env bash
# Runs the demo as processes on a machine with a GPU, vLLM and verl. A phase that was stopped resumes.
#
#   bench/on_gpu.sh WORK serve                serves retriever, vLLM and the reading adapter for the other phases
#   bench/on_gpu.sh WORK services             runs all services with vLLM in their processes: s3 on 500 questions, then
#                                             models changed under load
#   bench/on_gpu.sh WORK agents [FLAGS…]      plays 1,024 questions, 256 at once, and measures vLLM's own ceiling of them:
#                                             SmolLM2, a 7B shape
#   bench/on_gpu.sh WORK gpus [FLAGS…]        compares one GPU with two: engines of SmolLM2, a 7B shape by tensor
#                                             parallelism, exact search over 21 million vectors
#   bench/on_gpu.sh WORK evaluate             asks 500 dev questions by every method, with an untrained searcher
#   bench/on_gpu.sh WORK head-room            measures how much the reader gains from the right passage
#   bench/on_gpu.sh WORK adapters             trains the single-hop pair that the demo's adapters began from
#   bench/on_gpu.sh WORK reranker [FLAGS…]    trains a cross-encoder from the reader, which compare then includes
#   bench/on_gpu.sh WORK train SEED [FIELD=VALUE…]   reinforcement from the warm start
#   bench/on_gpu.sh WORK compare NAME…        asks naive RAG and searchers: smollm2, warm, trained-SEED
#
# A phase starts the services that do not answer yet. To run two phases side by side, give one of them PORTS, a number
# that is added to each port, and with two GPUs CUDA_VISIBLE_DEVICES (`gpus` takes the first two of the machine). PORTS=12000 stays clear of the ports from 32768 to
# 60999, which Linux uses for connections. Two `train` phases at once are not supported: in separate Ray clusters on one
# host they share verl's sockets for weights, and in one cluster (RAY_ADDRESS) TransferQueue's controller. WORK/logs has
# the output of each process. PYTHON chooses the interpreter, GGUF the model (default: the embedded one), and VLLM_FLAGS
# adds options for vLLM.
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
trap 'for pid in "${pids[@]}"; do kill -- "-$pid" 2>/dev/null || true; done; wait' EXIT

said() { printf '[%4ds] %s: %s\n' "$SECONDS" "$phase" "$*"; }

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

vllm_arguments() { # vllm_arguments CACHE MORE: as JSON, with the size of its cache as in start_model
    echo "{\"kv_cache_memory_bytes\": $1, \"kernel_config\": {\"enable_flashinfer_autotune\": false}, $2}"
}

# As an argument of vllm_arguments. A start has time for one graph for each of these numbers of requests.
graphs='"compilation_config": {"mode": "none", "cudagraph_mode": "full_decode_only",
    "cudagraph_capture_sizes": [1, 2, 4, 8, 16, 32, 64, 128, 256]}'

start_engine() { # start_engine NAME PORT ARGUMENTS VARIABLE=VALUE...: a generator service with vLLM in its process
    start "$1" env GENERATOR_ENGINE=vllm GENERATOR_PORT="$2" GENERATOR_METRICS_PORT=0 GENERATOR_GPU_MEMORY=0.06 \
        GENERATOR_FOLDERS="$work" \
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

evaluate() { # evaluate OUT METHODS ARGUMENTS...
    "$python" -c 'import sys; from cli.main import main; sys.exit(main())' evaluate --questions $dev \
        --out "$work/$1" --methods "$2" --concurrency 128 --url http://127.0.0.1:$gateway "${@:3}" \
        >"$work/logs/$1.log" 2>&1 || said "some questions failed: logs/$1.log"
    said "$1: $(wc -l <"$work/$1/rows.jsonl") answers"
}

run_of() { # run_of NAME FIELD=VALUE...: writes WORK/NAME.yaml, the demo's training run with these changes
    "$python" - "${@:2}" >"$work/$1.draft" <<'P'
import sys

import yaml

from common.run_config import dump, load

changes = (change.partition("=") for change in sys.argv[1:])
print(dump(load("smollm2-demo", {field: yaml.safe_load(value) for field, _, value in changes})), end="")
P
    mv "$work/$1.draft" "$work/$1.yaml"
}

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
case $phase in
serve)
    start_retriever
    start_reader
    wait
    ;;
services)
    small=$(vllm_arguments 6000000000 '"enforce_eager": true')
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
    ;;
agents)
    "$python" -m bench.dummy_model "$work/seven" --tokenizer "$base" >"$work/logs/$phase-shape.log" 2>&1
    RETRIEVER_GPUS=1 start_retriever
    small=$(vllm_arguments 6000000000 "$graphs")
    seven=$(vllm_arguments 48000000000 "$graphs, \"load_format\": \"dummy\"")
    start_engine small $searcher "$small" GENERATOR_MODEL="$base" GENERATOR_CONTEXT_TOKENS=8192 GENERATOR_ADAPTER_RANK=0
    start_engine seven $reader "$seven" GENERATOR_MODEL="$work/seven" GENERATOR_CONTEXT_TOKENS=8192 \
        GENERATOR_ADAPTER_RANK=0
    play() { # play NAME PORT MODEL ARGUMENTS FLAGS...: one model as searcher and generator
        listens "$1" "$2"
        "$python" -m bench.agents --retriever 127.0.0.1:$retriever --searcher 127.0.0.1:"$2" \
            --generator 127.0.0.1:"$2" --parameters '{"max_turns": 3, "turn_tokens": 128, "temperature": 1.0}' \
            --calls "$work/logs/agents-$1.calls" --out "$work/logs/agents-$1.json" "${@:5}" >"$work/logs/agents-$1.log" 2>&1 ||
            said "$1 was not measured: $(tail -n 1 "$work/logs/agents-$1.log")"
        said "agents-$1: $(tail -n 1 "$work/logs/agents-$1.log")"
        kill -- "-${pid_of[$1]}" # the offline engine needs its memory
        "$python" -m bench.ceiling --calls "$work/logs/agents-$1.calls" --played "$work/logs/agents-$1.json" --model "$3" \
            --arguments "{\"max_model_len\": 8192, \"max_num_seqs\": 256, ${4#\{}" --out "$work/logs/ceiling-$1.json" \
            >"$work/logs/ceiling-$1.log" 2>&1 || said "$1 has no ceiling: $(tail -n 1 "$work/logs/ceiling-$1.log")"
        said "ceiling-$1: $(tail -n 1 "$work/logs/ceiling-$1.log")"
    }
    play small $searcher "$base" "$small" "${@:3}"
    play seven $reader "$work/seven" "$seven" "${@:3}"
    ;;
gpus)
    "$python" -m bench.dummy_model "$work/seven" --tokenizer "$base" >"$work/logs/$phase-shape.log" 2>&1
    start_retriever # on the CPU
    engine() { # engine NAME GPUS PORT MODEL CACHE ARGUMENTS VARIABLE=VALUE...: CACHE is bytes a GPU
        start_engine "$1" "$3" "$(vllm_arguments "$5" "$graphs$6")" CUDA_VISIBLE_DEVICES="$2" \
            GENERATOR_MODEL="$4" GENERATOR_CONTEXT_TOKENS=8192 GENERATOR_ADAPTER_RANK=0 GENERATOR_MAX_IN_FLIGHT=4096 "${@:7}"
    }
    play() { # play NAME ADDRESSES LIMIT AT_ONCE PROCESSES FLAGS...: one model as searcher and generator
        "$python" -m bench.agents --retriever 127.0.0.1:$retriever --searcher "$2" --generator "$2" --limit "$3" \
            --at-once "$4" --processes "$5" --parameters '{"max_turns": 3, "turn_tokens": 128, "mode": "bm25"}' \
            --out "$work/logs/gpus-$1.json" "${@:6}" >"$work/logs/gpus-$1.log" 2>&1 ||
            said "$1 was not measured"
        said "$1: $(tail -n 1 "$work/logs/gpus-$1.log")"
    }
    left=127.0.0.1:$searcher right=127.0.0.1:$reader
    engine first 0 $searcher "$base" 12000000000 ""
    engine second 1 $reader "$base" 12000000000 ""
    listens first $searcher
    listens second $reader
    play one-engine $left 1024 256 8 "${@:3}"
    play two-engines $left,$right 2048 512 8 --skip 1400 "${@:3}" # questions that no engine has read yet
    kill -- "-${pid_of[first]}" "-${pid_of[second]}"
    wait "${pid_of[first]}" "${pid_of[second]}" || true
    for count in 1 2; do
        gpus=$(seq -s, 0 $((count - 1)))
        engine "seven-$count" "$gpus" $searcher "$work/seven" $((40000000000 / count)) ', "load_format": "dummy"' \
            GENERATOR_TENSOR_PARALLEL=$count
        listens "seven-$count" $searcher
        play "tensor-parallel-$count-alone" $left 8 1 1
        play "tensor-parallel-$count" $left 256 64 4 --skip 100
        kill -- "-${pid_of[seven-$count]}"
        wait "${pid_of[seven-$count]}" || true
    done
    for devices in cuda:0 "cuda:0 cuda:1"; do
        name=vectors-$(wc -w <<<"$devices")
        # shellcheck disable=SC2086
        "$python" -m bench.vectors --vectors 21000000 --devices $devices --out "$work/logs/gpus-$name.json" \
            >"$work/logs/gpus-$name.log" 2>&1 || said "$name was not measured"
        said "$name: $(tail -n 1 "$work/logs/gpus-$name.log")"
    done
    ;;
evaluate)
    all=s3,naive_rag,direct,cot,ircot,search_o1,search_r1,search_r1:answerer=searcher,deep_retrieval
    start_retriever
    start_reader
    start_generator searcher $searcher smollm2
    start_gateway $reader '{}'
    evaluate evaluate "$all,naive_rag:mode=bm25,naive_rag:mode=hybrid" --limit 500 --budget 3
    evaluate evaluate "$all,naive_rag:top_k=1,naive_rag:top_k=8" --limit 500
    ;;
head-room)
    start_retriever
    start_reader
    "$python" -m bench.head_room --questions $dev --limit 1500 --retriever 127.0.0.1:$retriever \
        --generator 127.0.0.1:$reader --out "$work/head-room.json" >"$work/logs/$phase.log" 2>&1
    said "$(cat "$work/head-room.json")"
    ;;
adapters)
    start_retriever
    teach() { # teach FILE WHAT ARGUMENTS...: examples
        [[ -f $work/$1.jsonl ]] || "$python" -m cli teach "$2" --part 0 0.6 --config "$work/dense.yaml" \
            --retriever 127.0.0.1:$retriever --out "$work/$1.jsonl" "${@:3}" >>"$work/logs/teach.log" 2>&1
    }
    learn() { # learn NAME FILE ARGUMENTS...: an adapter
        [[ -f $work/$1/adapter_model.safetensors ]] && return
        "$python" -m cli supervised --model "$base" --examples "$work/$2.jsonl" --out "$work/$1" \
            "${@:3}" >"$work/logs/$1.log" 2>&1
        said "$1: $(tail -n 1 "$work/$1/losses.jsonl")"
    }
    # A searcher of one turn, which keeps one passage of eight.
    single=(agent_parameters.{max_turns=1,max_selected=1,top_k=8,observation_chars=6000,turn_tokens=64,context_tokens=2048})
    run_of dense "${single[@]}"
    run_of hybrid "${single[@]}" agent_parameters.mode=hybrid
    # Articles from 0.6 on are new to the reader, so that reinforcement sees how it reads unseen text. The gate uses the
    # last ones, from 0.95, which neither model has seen.
    [[ -f $work/reader/adapter_model.safetensors ]] || teach reading reading
    learn reader reading --epochs 2
    # The searcher starts from the reader, which already tells passages apart to some degree.
    teach drawn searching --draws 2
    teach more searching --draws 3 --seed 7 --part 0 0.8
    learn drawn drawn --start "$work/reader" --epochs 1 --batch-tokens 12288
    learn more more --start "$work/drawn" --epochs 1 --batch-tokens 16384 --learning-rate 3e-4
    # Then articles that it has not seen, with dense and hybrid rankings, and a little of what it has.
    teach dense searching --draws 3 --seed 21 --part 0.8 0.95
    teach hybrid searching --draws 3 --seed 22 --part 0.8 0.95 --config "$work/hybrid.yaml"
    teach again searching --draws 1 --seed 23 --part 0 0.8
    cat "$work"/{dense,hybrid,again}.jsonl >"$work/fresh.jsonl"
    learn warm fresh --start "$work/more" --epochs 1 --batch-tokens 16384 --learning-rate 3e-4 --seed 1
    ;;
reranker)
    start_retriever
    "$python" -m bench.reranker --model "$base" --adapter "$work/reader" --retriever 127.0.0.1:$retriever \
        --out "$work/reranker" "${@:3}" >"$work/logs/$phase.log" 2>&1
    said "$(cat "$work/reranker/held-out.json")"
    ;;
train)
    seed=$3 run=$work/run-$3
    start_retriever
    start_reader
    mkdir -p "$run"
    options=verl.+actor_rollout_ref.rollout.engine_kwargs.vllm # as start_model's
    [[ -f $run/config.yaml ]] || run_of run-$seed/config base_model="$base" adapter="$work/warm" seed="$seed" \
        retriever=127.0.0.1:$retriever generator=127.0.0.1:$reader \
        $options.kernel_config='{enable_flashinfer_autotune: false}' $options.kv_cache_memory_bytes=12000000000 "${@:4}"
    RAY_ADDRESS=${RAY_ADDRESS:-local} VLLM_USE_FLASHINFER_SAMPLER=0 "$python" -m learning.train "$run" >>"$work/logs/run-$seed.log" 2>&1 ||
        said "stopped: $(cat "$run/reason.txt" 2>/dev/null || tail -n 1 "$work/logs/run-$seed.log")"
    newest=$(find "$run" -maxdepth 2 -name 'global_step_*' | sort -V | tail -n 1)
    [[ -n $newest ]] || exit 1
    rm -rf "$work/trained-$seed"
    cp -r "$newest/lora_adapter" "$work/trained-$seed"
    said "run $seed: $(wc -l <"$run/metrics.jsonl") lines of metrics, newest checkpoint ${newest##*/}"
    ;;
compare)
    [[ -f $work/reranker/config.json ]] && export RETRIEVER_RERANKER=$work/reranker
    start_retriever
    start_reader
    naive=direct,naive_rag:top_k=8
    for size in 1 2 3; do naive+=,naive_rag:top_k=$size,naive_rag:mode=hybrid:top_k=$size; done
    for name in "${@:3}"; do
        [[ $name = smollm2 ]] || load "$name"
        start_generator searcher $searcher "$name"
        start_gateway $reader "$(methods_of_the_demo)"
        more= reranked=
        if serves_reranker "$work/reranker"; then
            more=,s3:rerank=20,s3:mode=hybrid:rerank=20
            for kind in rerank=20 mode=hybrid:rerank=20; do reranked+=,naive_rag:$kind:top_k=1,naive_rag:$kind; done
        fi
        evaluate "compare-$name" "s3,s3:mode=hybrid$more" --limit 1500
        evaluate compare-naive "$naive$reranked" --limit 1500
        stop
        stop
    done
    ;;
*)
    said "there is no such phase"
    exit 2
    ;;
esac
