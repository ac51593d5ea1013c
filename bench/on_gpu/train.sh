# shellcheck shell=bash
# A phase of bench/on_gpu.sh, which reads it.
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
