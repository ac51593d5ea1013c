#!/usr/bin/env bash
# drive.sh sft | all: see the phases below. State in $W/state, results in $W/out.
. "$(dirname "$0")/env.sh"
wait_for() { # wait_for SECONDS COMMAND...
    local end=$((SECONDS + $1)); shift
    until "$@" 2>/dev/null; do ((SECONDS > end)) && return 1; sleep 1; done
}
up() { (: <"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
learn() { # learn GPU NAME EXAMPLES START ARGUMENTS...
    local gpu=$1 name=$2; shift 2
    CUDA_VISIBLE_DEVICES=$gpu timeout 420 python3 -m learning.warm_start.supervised --model $W/base --examples $1 --start $2 --out $W/$name --epochs 1 \
        --batch-tokens 24576 --learning-rate 4e-4 --max-tokens 5000 --save-steps 1000000 "${@:3}" >> $W/logs/$name.log 2>&1
    local rc=$?; said "$name rc $rc: $(tail -n 1 $W/$name/losses.jsonl 2>/dev/null)"; echo $rc > $W/$name.rc
}
both() {
    rm -f $W/searcher.rc $W/reader.rc
    learn 0 searcher $W/searching.jsonl $W/code/data/demo/adapters/searcher --stop 44 88 132 &
    learn $LAST reader $W/reading.jsonl $W/code/data/demo/adapters/reader &
}
sft() {
    said "sft: $(nvidia-smi --query-gpu=name,memory.used --format=csv,noheader | tr '\n' ' ')"
    early
    cat /tmp/parts/gguf_* | xz -dc > $W/model.gguf
    xz -dk $W/searching.jsonl.xz $W/reading.jsonl.xz
    python3 $S/weights.py $W/model.gguf $W/base > $W/logs/base.log 2>&1 || said "base failed: $(tail -n 1 $W/logs/base.log)"
    said "base $(tail -n 1 $W/logs/base.log)"
    touch $W/base.done
    timeout 60 python3 $S/check.py > $W/logs/check.log 2>&1; local checked=$?; said "check rc $checked: $(tail -n 1 $W/logs/check.log)"
    if ((checked)); then sed -i 's/^_GROUPED = .*/varlen_attn, _GROUPED = None, {}/' $W/code/learning/attention.py; said "sample by sample then"; fi
    both; wait
}
serve() {
    CUDA_VISIBLE_DEVICES= setsid python3 -c 'import sys; from cli.main import main; sys.exit(main())' index build --corpus $W/corpus.jsonl.gz --name multihop --out $W/idx --no-dense > $W/logs/index.log 2>&1
    said "index rc $?: $(tail -n 1 $W/logs/index.log)"
    RETRIEVER_INDEXES=$W/idx RETRIEVER_PORT=$RP RETRIEVER_METRICS_PORT=0 CUDA_VISIBLE_DEVICES= setsid python3 -m services.retriever > $W/logs/retriever.log 2>&1 &
    wait_for 60 up $RP; said "retriever rc $?"
}
vllm() { # vllm GPU
    CUDA_VISIBLE_DEVICES=$1 VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 setsid python3 -m vllm.entrypoints.openai.api_server --model $W/base --served-model-name smollm2 --port 800$1 \
        --max-model-len 8192 --max-num-seqs 256 --stream-interval 16 --gpu-memory-utilization 0.1 --kv-cache-memory-bytes 12000000000 --kernel-config '{"enable_flashinfer_autotune": false}' \
        -cc.mode=none -cc.cudagraph_mode=full_decode_only --enable-lora --max-lora-rank 16 --max-loras 8 --max-cpu-loras 16 > $W/logs/vllm-$1.log 2>&1 &
}
load() { # load NAME FOLDER: into every vLLM
    for g in $(seq 0 $LAST); do
        curl -sf http://127.0.0.1:800$g/v1/models | grep -q "\"$1\"" || curl -sS http://127.0.0.1:800$g/v1/load_lora_adapter -H 'content-type: application/json' \
            -d "{\"lora_name\": \"$1\", \"lora_path\": \"$2\"}" >> $W/logs/load.log 2>&1
        echo " $1 -> $g" >> $W/logs/load.log
    done
}
reader_service() {
    GENERATOR_ENGINE=openai GENERATOR_OPENAI_BASE_URL=http://127.0.0.1:800$LAST/v1 GENERATOR_OPENAI_MODEL=reader GENERATOR_OPENAI_DIALECT=vllm GENERATOR_PORT=50053 GENERATOR_METRICS_PORT=0 \
        CUDA_VISIBLE_DEVICES= setsid python3 -m services.generator > $W/logs/generator.log 2>&1 &
    wait_for 60 up 50053; said "reader service rc $?"
}
urls() { local u=; for g in $(seq 0 $LAST); do u+=${u:+,}http://127.0.0.1:800$g; done; echo $u; }
train() { # train SEED MORE...
    local seed=$1 gpu=$(( ($1 - 1) % NG )) run=$W/run-$1; shift
    python3 $S/mkrun.py $run $seed "$@" >> $W/logs/mkrun.log 2>&1
    [[ -d $run/data ]] || cp -r $W/prepared/data $run/data
    said "train $seed on GPU $gpu: $*"
    RL_RUN=s$seed CUDA_VISIBLE_DEVICES=$gpu RAY_ADDRESS=local setsid python3 -m learning.train $run >> $W/logs/train-$seed.log 2>&1 &
    echo $! > $W/train-$seed.pid
}
steps() { [[ -f $W/run-$1/metrics.jsonl ]] && wc -l < $W/run-$1/metrics.jsonl || echo 0; }
alive() { kill -0 $(cat $W/train-$1.pid) 2>/dev/null; }
watch_run() { # once a second run died or stands still before its first step, it begins again on the padded path
    local seed=$1 began=$SECONDS again=
    while sleep 5; do
        [[ -f $W/halt ]] && return
        if ! alive $seed; then
            said "train $seed ended after $(steps $seed) steps: $(cat $W/run-$seed/reason.txt 2>/dev/null; grep -aE 'Error|error' $W/logs/train-$seed.log | tail -n 1 | cut -c1-300)"
            (( $(now) > 1250 )) && return
            [[ -n $again ]] && return
            again=1; began=$SECONDS; cp $W/logs/train-$seed.log $W/logs/train-$seed.first.log
            (($(steps $seed) > 0)) && train $seed || train $seed verl.actor_rollout_ref.model.use_remove_padding=false verl.actor_rollout_ref.actor.ppo_max_token_len_per_gpu=16384
        elif (($(steps $seed) == 0 && SECONDS - began > 330)) && [[ -z $again ]]; then
            said "train $seed has no step after 330 s"; kill -9 -- -$(cat $W/train-$seed.pid)
        fi
    done
}
evaluate() { # evaluate SPLIT NAME...
    local split=$1; shift
    URLS=$(urls) timeout ${LONGEST:-240} python3 $S/final.py $W/out/$split.json $W/qa_${split%%-*}.jsonl.gz reader "$@" > $W/logs/final-$split.log 2>&1
    said "final $split rc $?: $(grep -a '^failed' $W/logs/final-$split.log)"
}
all() {
    mkdir -p /tmp/site; cat /tmp/parts/kit_* | xz -dc -T0 | tar -C /tmp/site -xf - && xz -dc $W/extra.tar.xz | tar -C /tmp/site -xf -; said "unpacked rc $?"
    sed -i "s#rl-colocate-zmq-{job_id}#rl-colocate-zmq-{os.environ.get('RL_RUN', '')}{job_id}#" /tmp/site/verl/workers/rollout/vllm_rollout/{vllm_rollout,utils}.py
    python3 -m compileall -q -j 0 /tmp/site $W/code > /dev/null 2>&1
    kit; said "kit"
    serve & local serving=$!
    wait_for 120 test -f $W/base.done
    for g in $(seq 0 $LAST); do vllm $g; done
    wait_for 300 test -f $W/reader.rc && wait_for 200 test -f $W/searcher.rc
    if [[ $(cat $W/reader.rc $W/searcher.rc | tr -d '\n') != 00 ]]; then said "once more with the kit"; mv $W/reader $W/reader.bad; mv $W/searcher $W/searcher.bad; both; wait_for 420 test -f $W/reader.rc; wait_for 420 test -f $W/searcher.rc; fi
    tar -C $W -czf $W/out/reader.tgz reader & tar -C $W -czf $W/out/searcher-losses.tgz searcher/losses.jsonl searcher/settings.json &
    for g in $(seq 0 $LAST); do wait_for 240 curl -sf -o /dev/null http://127.0.0.1:800$g/health || said "vllm $g: $(tail -n 1 $W/logs/vllm-$g.log)"; done; said "vllm ready"
    wait $serving
    load reader $W/reader
    local names=; for f in $W/searcher/step-*; do n=s$(basename $f | cut -c6-); load $n $f; names+="$n "; done; load s999 $W/searcher; names+=s999
    load old $W/code/data/demo/adapters/searcher
    reader_service
    (PREPARE=1 timeout 200 python3 $S/mkrun.py $W/prepared 1 > $W/logs/prepare.log 2>&1; said "prepared rc $?: $(tail -n 1 $W/logs/prepare.log)"; touch $W/prepared.done) &
    URLS=$(urls) timeout 200 python3 $S/probe.py $W/out/probe $W/qa_dev.jsonl.gz ${PROBE:-$((NG > 1 ? 48 : 32))} 16 reader $names > $W/logs/probe.log 2>&1
    local chosen=$(cat $W/choose 2>/dev/null || cat $W/out/probe/chosen 2>/dev/null || echo s88); said "probe rc $?: chosen $chosen"
    ln -sfn $([[ $chosen = s999 ]] && echo $W/searcher || echo $W/searcher/step-${chosen#s}) $W/start
    mkdir -p $W/warm && cp $W/start/adapter_* $W/warm/ && rm $W/start && cp -r $W/warm $W/start && load warm $W/warm && tar -C $W -czf $W/out/warm.tgz warm
    wait_for 200 test -f $W/prepared.done
    for seed in $(seq 1 $NG); do
        train $seed; watch_run $seed &
        CUDA_VISIBLE_DEVICES= setsid nice python3 $S/extract.py $W/run-$seed/checkpoints $W/start $W/adapters t$seed > $W/logs/extract-$seed.log 2>&1 &
    done
    # while verl starts: the head room of the start over all of dev, and how it does against naive RAG
    URLS=$(urls) timeout 150 python3 $S/probe.py $W/out/headroom $W/qa_dev.jsonl.gz 300 16 reader warm > $W/logs/headroom.log 2>&1; said "headroom rc $?: $(grep -a '^warm' $W/logs/headroom.log | cut -c1-900)"
    LONGEST=100 evaluate dev-warm warm old
    while (($(now) < ${UNTIL:-1500})) && [[ ! -f $W/finish ]]; do sleep 1; done
    touch $W/halt
    sleep 2
    for seed in $(seq 1 $NG); do pkill -9 -s $(cat $W/train-$seed.pid) 2>/dev/null; kill -9 -- -$(cat $W/train-$seed.pid) 2>/dev/null; done
    pkill -9 -f 'ray::|raylet|gcs_server' 2>/dev/null
    said "stopped: $(for s in $(seq 1 $NG); do echo seed $s $(steps $s) steps; done)"
    local last=; for seed in $(seq 1 $NG); do n=$(ls -d $W/adapters/t$seed-* 2>/dev/null | grep -v draft | sort -V | tail -n 1); [[ -n $n ]] && { load $(basename $n) $n; last+="$(basename $n) "; }; done
    LONGEST=100 evaluate dev warm $last
    evaluate test warm $last
    said "done"
    touch $W/done
}
"$1"
