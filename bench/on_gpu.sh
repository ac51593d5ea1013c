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
#                                             only: copies, engines behind one address; training-7b, LoRA on a 7B shape;
#                                             paper, two steps of s3's published setting in these shapes
#   bench/on_gpu.sh WORK cost [FLAGS…]        plays 1,024 questions by each method with the demo's adapters, 256 at once
#   bench/on_gpu.sh WORK evaluate             asks 500 dev questions by every method, with an untrained searcher
#   bench/on_gpu.sh WORK head-room            measures how much the reader gains from the right passage
#   bench/on_gpu.sh WORK adapters             trains the single-hop pair that the demo's adapters began from
#   bench/on_gpu.sh WORK reranker [FLAGS…]    trains a cross-encoder from the reader, which compare then includes
#   bench/on_gpu.sh WORK train SEED [FIELD=VALUE…]   reinforcement from the warm start
#   bench/on_gpu.sh WORK compare NAME…        asks naive RAG and searchers: smollm2, warm, trained-SEED
#
# A phase starts the services that do not answer yet. To run two phases side by side, give one of them PORTS, a number
# that is added to each port, and with several GPUs CUDA_VISIBLE_DEVICES. PORTS=12000 stays clear of the ports from 32768
# to 60999, which Linux uses for connections. COUNTS="1 4" chooses the numbers of GPUs that `gpus` compares, and
# LONGEST the seconds after which one of its training runs ends (600); the steps until then are measured. Two `train`
# phases at once are not supported: in separate Ray clusters on one host they share verl's sockets for weights, and in
# one cluster (RAY_ADDRESS) TransferQueue's controller. WORK/logs has the output of each process. PYTHON chooses the
# interpreter, GGUF the model (default: the embedded one), and VLLM_FLAGS adds options for vLLM.
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
several() { # several FROM COUNT [/MODEL]: addresses
    local number addresses=()
    for ((number = 0; number < $2; number++)); do addresses+=("127.0.0.1:$(($1 + number))${3-}"); done
    local IFS=,
    echo "${addresses[*]}"
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
    ;;
agents)
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
    ;;
gpus)
    IFS=, read -ra cards <<<"${CUDA_VISIBLE_DEVICES:-$(nvidia-smi -L | awk '{ print NR - 1 }' | paste -sd,)}"
    counts=()
    for count in ${COUNTS:-1 2 4 8}; do
        if ((count <= ${#cards[@]})); then counts+=("$count"); fi
    done
    first() { # first COUNT: the first GPUs
        local IFS=,
        echo "${cards[*]:0:$1}"
    }
    missing=()
    lacks() { # lacks PART: it was not measured; the others are
        missing+=("$1")
        said "$1 was not measured"
    }
    measured() { # measured PART COUNT MODULE FLAGS…: logs/gpus-PART-COUNT.json; parts that run side by side take turns
        local name=$phase-$1-$2
        rm -f "$work/logs/$name.json"
        flock "$work/logs/turn" "$python" -m "$3" --out "$work/logs/$name.json" "${@:4}" >"$work/logs/$name.log" 2>&1 || lacks "$1 on $2"
        said "$1 on $2: $(tail -n 1 "$work/logs/$name.log")"
    }
    asked() { # asked PART COUNT SKIP EACH SEARCHERS GENERATORS: for each GPU a retriever and EACH questions, 256 at once
        measured "$1" "$2" bench.agents --limit $(($4 * $2)) --skip "$3" --at-once $((256 * $2)) --processes $((4 * $2)) \
            --parameters "$(parameters_of_the_searcher)" --retriever "$(several $retrievers "$2")" --searcher "$5" --generator "$6"
    }
    engines() { # an engine a GPU, each asked what no engine has read yet
        local number count names=() skip=0 each=0
        for count in "${counts[@]}"; do each=$((each + count)); done
        each=$((6400 / each - 32)) each=${QUESTIONS:-$((each < 1024 ? each : 1024))}
        for ((number = 0; number < counts[-1]; number++)); do
            names+=("engine-$number")
            small "engine-$number" "${cards[number]}" $((engines + number)) 12000000000
        done
        lexical "${counts[-1]}"
        for ((number = 0; number < counts[-1]; number++)); do listens "engine-$number" $((engines + number)); done
        for count in "${counts[@]}"; do
            asked engines "$count" $skip "$each" "$(several $engines "$count" /searcher)" "$(several $engines "$count" /reader)"
            skip=$((skip + (each + 32) * count))
        done
        end "${names[@]}"
    }
    copies() { # the same load on one service, for which vLLM keeps a copy of the model on each GPU
        local count names=() each=$((6400 / counts[-1] - 32)) place=$((engines + 70))
        each=${QUESTIONS:-$((each < 1024 ? each : 1024))}
        for count in "${counts[@]}"; do
            names+=("copied-$count")
            small "copied-$count" "$(first "$count")" $((place + count)) 12000000000 "\"data_parallel_size\": $count"
        done
        lexical "${counts[-1]}"
        for count in "${counts[@]}"; do
            listens "copied-$count" $((place + count))
            asked copies "$count" 0 "$each" 127.0.0.1:$((place + count))/{searcher,reader}
        done
        end "${names[@]}"
    }
    tensor-parallel() { # one engine of the 7B shape over several GPUs: one question at a time, and 64 at once
        # Graphs of steps that read prompts have not been tried over several GPUs.
        local count place=20 decoding='"compilation_config": {"mode": "none", "cudagraph_mode": "full_decode_only",
            "cudagraph_capture_sizes": [1, 2, 4, 8, 16, 32, 64, 128, 256]}'
        shape 7b
        start_retriever
        for count in "${counts[@]}"; do # all start at once, and are asked one after the other
            start_engine "7b-$count" $((engines + place + count)) \
                "$(vllm_arguments $((20000000000 / count)) "$decoding, \"load_format\": \"dummy\"")" \
                CUDA_VISIBLE_DEVICES="$(first "$count")" GENERATOR_MODEL="$work/7b" GENERATOR_CONTEXT_TOKENS=8192 \
                GENERATOR_ADAPTER_RANK=0 GENERATOR_TENSOR_PARALLEL="$count" GENERATOR_GRAPH_TOKENS=0
        done
        for count in "${counts[@]}"; do
            listens "7b-$count" $((engines + place + count))
            local ask=(bench.agents --retriever 127.0.0.1:$retriever --{searcher,generator}=127.0.0.1:$((engines + place + count))
                --parameters '{"max_turns": 3, "turn_tokens": 128, "mode": "bm25"}')
            measured tensor-parallel-alone "$count" "${ask[@]}" --limit 8 --at-once 1
            measured tensor-parallel "$count" "${ask[@]}" --limit "${QUESTIONS:-192}" --skip 100 --at-once 64 --processes 4
        done
        for count in "${counts[@]}"; do end "7b-$count"; done
    }
    vectors() { # exact search, the vectors shared out over the GPUs
        local count
        for count in "${counts[@]}"; do
            # shellcheck disable=SC2046
            CUDA_VISIBLE_DEVICES=$(first "$count") measured vectors "$count" bench.vectors --vectors "${VECTORS:-21000000}" \
                --devices $(seq -f cuda:%g 0 $((count - 1)))
        done
    }
    searcher() { # a 7B shape that searches as the demo's searcher does, so that episodes have its turns and lengths
        [[ -d $work/7b-searcher ]] || "$python" -m bench.dummy_model "$work/7b-searcher" --like "$base" --adapter "$work/warm" \
            >"$work/logs/$phase-7b-searcher.log" 2>&1
    }
    training() { # 1,024 episodes a step from the demo's searcher
        reinforced training base_model="$base" adapter="$work/warm" data.limit=384 verl.data.train_batch_size=64 \
            verl.actor_rollout_ref.actor.ppo_mini_batch_size=32
    }
    training-7b() { # 256 episodes a step
        searcher
        reinforced training-7b base_model="$work/7b-searcher" data.limit=192 verl.data.train_batch_size=32 \
            verl.actor_rollout_ref.rollout.n=8 verl.actor_rollout_ref.model.enable_gradient_checkpointing=true
    }
    rollout=verl.actor_rollout_ref.rollout
    short=(data.validation=16 agent_parameters.mode=bm25 retriever=127.0.0.1:$retriever "${rollouts[@]}"
        verl.+actor_rollout_ref.rollout.engine_kwargs.vllm.compilation_config="'{\"mode\": 0, \"cudagraph_mode\": \"FULL_DECODE_ONLY\"}'"
        $rollout.enforce_eager=false $rollout.cudagraph_capture_sizes='[1, 2, 4, 8, 16, 32, 64, 128, 256, 512]'
        verl.trainer.val_before_train=false verl.trainer.test_freq=-1 verl.trainer.save_freq=-1)
    reinforced() { # reinforced PART FIELD=VALUE...: six steps of GRPO with LoRA by FSDP2 over the GPUs
        local count
        start_retriever
        small "$1-reader" "${cards[0]}" $((engines + 40)) 4000000000
        listens "$1-reader" $((engines + 40))
        for count in "${counts[@]}"; do
            trained "$1" "$count" "$count" smollm2-demo "${short[@]}" generator=127.0.0.1:$((engines + 40))/reader \
                stop.mixed_groups=null stop.choice_entropy=null stop.coverage_rise=null \
                $rollout.agent.num_workers=$((2 * count)) verl.trainer.total_training_steps=6 "${@:2}"
        done
        end "$1-reader"
    }
    trained() { # trained PART COUNT TRAINING CONFIGURATION FIELD=VALUE...: the run WORK/gpus-PART-COUNT on the first TRAINING GPUs
        local name=$phase-$1-$2
        rm -rf "${work:?}/$name" && mkdir -p "$work/$name"
        run_of "$name/config" "$4" verl.trainer.n_gpus_per_node="$3" "${@:5}"
        start "$1-$2" env CUDA_VISIBLE_DEVICES="$(first "$3")" RAY_ADDRESS="${RAY_ADDRESS:-local}" VLLM_USE_FLASHINFER_SAMPLER=0 \
            timeout -k 10 "${LONGEST:-600}" "$python" -m learning.train "$work/$name"
        wait "${pid_of[$1-$2]}" || said "$1 on $2 stopped"
        end "$1-$2"
        [[ -s $work/$name/metrics.jsonl ]] || { lacks "$1 on $2" && return; }
        said "$1 on $2: $(tail -n 1 "$work/$name/metrics.jsonl" | cut -c1-200)"
    }
    paper() { # s3's published setting in shape: PPO with a critic, 120 questions a step, all weights of a 7B searcher
        # The last GPU has the 14B generator. The others train, and it does too if it has room for both. The number that
        # train divides the 30 questions of a mini-batch; one is too small for the weights, gradients and moments of
        # 7 billion parameters. Micro-batches are by tokens.
        local count=0 try apart=1 more=()
        if (($(nvidia-smi --query-gpu=memory.total --format=csv,noheader,nounits | sort -n | head -n 1) > 120000)); then
            # Only the moments leave the GPUs, which saves the machine's memory, too.
            apart=0 more=(verl.{actor_rollout_ref.actor.fsdp_config,critic.fsdp}.param_offload=false)
        fi
        for try in 2 3 5 6; do if ((try + apart <= ${#cards[@]})); then count=$try; fi; done
        ((count)) || { lacks "paper, which needs three GPUs or two of 120 GiB," && return; }
        shape 14b
        start_engine 14b $((engines + 60)) "$(vllm_arguments 10000000000 '"load_format": "dummy"')" \
            CUDA_VISIBLE_DEVICES="${cards[count + apart - 1]}" GENERATOR_MODEL="$work/14b" GENERATOR_ADAPTER_RANK=0
        searcher
        start_retriever
        listens 14b $((engines + 60))
        trained paper $((count + apart)) $count s3-8-3-3 "${short[@]}" generator=127.0.0.1:$((engines + 60)) \
            base_model="$work/7b-searcher" data.questions=data/demo/qa_train.jsonl.gz data.keep=all data.limit=300 index=demo \
            agent_parameters.numbered_twice=true gate.questions=$dev $rollout.agent.num_workers=$((2 * count)) \
            verl.+actor_rollout_ref.rollout.engine_kwargs.vllm.kv_cache_memory_bytes=24000000000 \
            verl.actor_rollout_ref.actor.use_dynamic_bsz=true verl.actor_rollout_ref.actor.ppo_max_token_len_per_gpu=24576 \
            verl.trainer.total_training_steps=2 "${more[@]}"
        end 14b
    }
    layout() { # retriever, searcher and generator as deploy/gpu-2.env lays them out: a 7B and a 14B shape, all services
        shape 7b
        shape 14b
        local dummy='"load_format": "dummy"' began
        start layout env PYTHONUNBUFFERED=1 RETRIEVER_DEVICES="${cards[0]}" RETRIEVER_GPUS=1 \
            SEARCHER_DEVICES="${cards[0]}" SEARCHER_ENGINE=vllm SEARCHER_MODEL="$work/7b" SEARCHER_CONTEXT_TOKENS=8192 \
            SEARCHER_ADAPTER_RANK=0 SEARCHER_GPU_MEMORY=0.06 SEARCHER_GRAPH_TOKENS=$graph_tokens SEARCHER_VLLM_ARGUMENTS="$(vllm_arguments 20000000000 "$dummy")" \
            GENERATOR_DEVICES="${cards[1]-${cards[0]}}" GENERATOR_ENGINE=vllm GENERATOR_MODEL="$work/14b" \
            GENERATOR_ADAPTER_RANK=0 GENERATOR_GPU_MEMORY=0.06 GENERATOR_GRAPH_TOKENS=$graph_tokens GENERATOR_VLLM_ARGUMENTS="$(vllm_arguments 20000000000 "$dummy")" \
            GATEWAY_MAX_IN_FLIGHT=256 GATEWAY_FIRST_AT_ONCE=256 GATEWAY_MAX_SLOWDOWN=1000 VLLM_USE_FLASHINFER_SAMPLER=0 \
            "$python" -m deploy.local up --port $gateway
        ready layout http://127.0.0.1:$gateway/readyz 600
        began=$(date +%s.%N)
        evaluate gpus-layout s3 --limit "${QUESTIONS:-256}"
        "$python" - "$work/gpus-layout/rows.jsonl" "$began" >"$work/logs/$phase-layout-2.json" <<'P'
import json, os, sys

rows, began = sys.argv[1], float(sys.argv[2])
asked, seconds = len(open(rows).readlines()), os.path.getmtime(rows) - began  # the last row; then the report
print(json.dumps({"questions": asked, "seconds": seconds, "questions_per_s": asked / seconds}))
P
        end layout
    }

    parts=("${@:3}")
    ((${#parts[@]})) || parts=(engines tensor-parallel vectors training layout)
    for part in "${parts[@]}"; do
        case $part in
        engines | copies | tensor-parallel | vectors | training | training-7b | layout | paper) "$part" ;;
        *)
            said "there is no part $part"
            exit 2
            ;;
        esac
    done
    "$python" -m bench.gpus "$work" --out "$work/gpus.json"
    ((${#missing[@]} == 0)) || exit 1
    ;;
cost)
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
    single=(agent_parameters.{mode=dense,max_turns=1,max_selected=1,top_k=8,observation_chars=6000,turn_tokens=64,context_tokens=2048})
    run_of dense smollm2-demo "${single[@]}"
    run_of hybrid smollm2-demo "${single[@]}" agent_parameters.mode=hybrid
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
    [[ -f $run/config.yaml ]] || run_of run-$seed/config smollm2-demo base_model="$base" adapter="$work/warm" seed="$seed" \
        retriever=127.0.0.1:$retriever generator=127.0.0.1:$reader \
        "${rollouts[@]}" "${@:4}"
    RAY_ADDRESS=${RAY_ADDRESS:-local} VLLM_USE_FLASHINFER_SAMPLER=0 "$python" -m learning.train "$run" >>"$work/logs/run-$seed.log" 2>&1 ||
        said "stopped: $(cat "$run/reason.txt" 2>/dev/null || tail -n 1 "$work/logs/run-$seed.log")"
    newest=$(find "$run" -maxdepth 2 -name 'global_step_*' | sort -V | tail -n 1)
    [[ -n $newest ]] || exit 1
    rm -rf "$work/trained-$seed"
    weights=$newest/lora_adapter
    [[ -d $weights ]] || weights=$newest/model
    cp -r "$weights" "$work/trained-$seed"
    said "run $seed: $(wc -l <"$run/metrics.jsonl") lines of metrics, newest checkpoint ${newest##*/}"
    ;;
compare)
    [[ -f $work/reranker/config.json ]] && export RETRIEVER_RERANKER=$work/reranker
    start_retriever
    start_reader
    naive=direct,naive_rag:top_k=8
    for size in 1 2 3; do naive+=,naive_rag:top_k=$size,naive_rag:mode=hybrid:top_k=$size; done
    for name in "${@:3}"; do
        if [[ -f $work/$name/config.json ]]; then # a model of which all weights were trained
            start_engine searcher $searcher "$(vllm_arguments 4000000000)" GENERATOR_MODEL="$work/$name" \
                GENERATOR_CONTEXT_TOKENS=8192 GENERATOR_ADAPTER_RANK=0
            listens searcher $searcher
        else
            [[ $name = smollm2 ]] || load "$name"
            start_generator searcher $searcher "$name"
        fi
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
