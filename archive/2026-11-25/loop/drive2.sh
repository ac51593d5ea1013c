#!/usr/bin/env bash
# The second GPU time: GRPO beside vLLM from the warm start, then dev and test. drive2.sh kit | go
. "$(dirname "$0")/env.sh"
wait_for() { local end=$((SECONDS + $1)); shift; until "$@" 2>/dev/null; do ((SECONDS > end)) && return 1; sleep 0.5; done; }
up() { (: <"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
vllm() {
    CUDA_VISIBLE_DEVICES=$1 VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 setsid python3 -m vllm.entrypoints.openai.api_server --model $W/base --served-model-name smollm2 --port 800$1 \
        --max-model-len 8192 --max-num-seqs 256 --stream-interval 16 --gpu-memory-utilization 0.1 --kv-cache-memory-bytes 16000000000 --kernel-config '{"enable_flashinfer_autotune": false}' \
        -cc.mode=none -cc.cudagraph_mode=full_decode_only --enable-lora --max-lora-rank 16 --max-loras 8 --max-cpu-loras 24 > $W/logs/vllm-$1.log 2>&1 &
}
load() {
    for g in $(seq 0 $LAST); do curl -sS http://127.0.0.1:800$g/v1/load_lora_adapter -H 'content-type: application/json' -d "{\"lora_name\": \"$1\", \"lora_path\": \"$2\"}" >> $W/logs/load.log 2>&1; done
}
urls() { local u=; for g in $(seq 0 $LAST); do u+=${u:+,}http://127.0.0.1:800$g; done; echo $u; }
evaluate() { # evaluate OUT SPLIT NAME...
    local out=$1 split=$2; shift 2
    URLS=$(urls) timeout ${LONGEST:-100} python3 $S/final.py $W/out/$out.json $W/qa_$split.jsonl.gz reader "$@" > $W/logs/final-$out.log 2>> $W/logs/final-err.log
    said "final $out rc $?: $(grep -a '^failed' $W/logs/final-$out.log)"
}
newest() { ls -d $W/g$1/at-* 2>/dev/null | sort -V | tail -n 1; }
kit_only() {
    mkdir -p /tmp/site; cat /tmp/parts/kit_* | xz -dc -T0 | tar -C /tmp/site -xf - && xz -dc $W/extra.tar.xz | tar -C /tmp/site -xf -; said "unpacked rc $?"
    python3 -m compileall -q -j 0 /tmp/site $W/code > /dev/null 2>&1; said "kit"; touch $W/kit.done
}
go() {
    cd $W/code
    cat /tmp/parts/gguf_* | xz -dc > $W/model.gguf; said "gguf"
    (early; python3 $S/weights.py $W/model.gguf $W/base > $W/logs/base.log 2>&1; said "base rc $? $(tail -n 1 $W/logs/base.log)"; touch $W/base.done) &
    wait_for 60 test -f $W/kit.done; kit
    (CUDA_VISIBLE_DEVICES= python3 -c 'import sys; from cli.main import main; sys.exit(main())' index build --corpus $W/corpus.jsonl.gz --name multihop --out $W/idx --no-dense > $W/logs/index.log 2>&1; said "index rc $?"
     RETRIEVER_INDEXES=$W/idx RETRIEVER_PORT=$RP RETRIEVER_METRICS_PORT=0 CUDA_VISIBLE_DEVICES= setsid python3 -m services.retriever > $W/logs/retriever.log 2>&1 & ) &
    wait_for 60 test -f $W/base.done
    for g in $(seq 0 $LAST); do vllm $g; done
    export PYTHONPATH=$S:$PYTHONPATH
    timeout 60 python3 $S/check2.py > $W/logs/check2.log 2>&1; local checked=$?; said "check2 rc $checked: $(tail -n 1 $W/logs/check2.log)"; ((checked)) && export NO_SHARE=1 TOKENS=32768
    for seed in $(seq 1 $NG); do
        python3 $S/mkrun.py $W/cfg$seed $seed reward.kept_penalty=${KEPT:-0.03} >> $W/logs/mkrun.log 2>&1
        CUDA_VISIBLE_DEVICES=$((seed - 1)) OMP_NUM_THREADS=2 setsid python3 $S/grpo.py $W/g$seed $W/cfg$seed/config.yaml $W/warm http://127.0.0.1:800$((seed - 1)) $seed $(( $(cat $W/t0) + UNTIL )) > $W/logs/grpo-$seed.log 2>&1 &
    done
    for g in $(seq 0 $LAST); do wait_for 200 curl -sf -o /dev/null http://127.0.0.1:800$g/health || said "vllm $g: $(tail -n 1 $W/logs/vllm-$g.log)"; done; said "vllm ready"
    wait_for 60 up $RP; said "retriever rc $?"
    load warm $W/warm; load reader $W/reader; said "adapters"
    while (($(now) < UNTIL + 3)); do sleep 1; done
    for i in $(seq 12); do (($(grep -l finished $W/logs/grpo-*.log | wc -l) >= NG)) && break; sleep 1; done
    pkill -f '[g]rpo.py'; said "learned: $(for s in $(seq 1 $NG); do echo seed $s $(wc -l < $W/g$s/metrics.jsonl) steps; done)"
    local names=; for s in $(seq 1 $NG); do n=$(newest $s); load u$s $n; names+="u$s "; echo "u$s $n" >> $W/out/names; done
    LONGEST=75 evaluate test test warm $names
    LONGEST=40 evaluate dev dev warm $names
    said "done"; touch $W/done
    local curve=; for s in $(seq 1 $NG); do for n in 5 10 20 30; do [[ -d $W/g$s/at-$n ]] && { load u$s-$n $W/g$s/at-$n; curve+="u$s-$n "; }; done; done
    LONGEST=60 evaluate dev-curve dev $curve
}
case $1 in kit) kit_only ;; go) go ;; esac
