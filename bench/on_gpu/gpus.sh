# shellcheck shell=bash
# A phase of bench/on_gpu.sh, which reads it.
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
from_the_demo=(base_model="$base" adapter="$work/warm" data.limit=384 verl.data.train_batch_size=64
    verl.actor_rollout_ref.actor.ppo_mini_batch_size=32)
training() { # 1,024 episodes a step from the demo's searcher
    reinforced training "${from_the_demo[@]}"
}
training-graphs() { # the same, but every step of the rollouts is a CUDA graph, as services/generator/vllm_model.py does it
    VLLM_USE_BREAKABLE_CUDAGRAPH=1 reinforced training-graphs "${from_the_demo[@]}" $rollout.max_num_batched_tokens=4096 \
        verl.+actor_rollout_ref.rollout.engine_kwargs.vllm.compilation_config="'{\"mode\": 0, \"cudagraph_mode\": \"FULL_AND_PIECEWISE\"}'" \
        $rollout.cudagraph_capture_sizes="$("$python" -c 'from services.generator.vllm_model import graphs; print(graphs(4096)["compilation_config"]["cudagraph_capture_sizes"])')"
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
    engines | copies | tensor-parallel | vectors | training | training-graphs | training-7b | layout | paper) "$part" ;;
    *)
        said "there is no part $part"
        exit 2
        ;;
    esac
done
"$python" -m bench.gpus "$work" --out "$work/gpus.json"
((${#missing[@]} == 0)) || exit 1
