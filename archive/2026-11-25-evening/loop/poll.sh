#!/usr/bin/env bash
# poll.sh SECONDS [FILE] [ADAPTER FOLDER...]: waits for the time or the file; state, newest steps; results and adapters to $OUT
. "$(dirname "$0")/env.sh"
end=$((SECONDS + $1)); while ((SECONDS < end)) && [[ -z $2 || ! -e $W/$2 ]]; do sleep 0.5; done
echo "now $(now)"; tail -n ${STATES:-12} $W/state | cut -c1-900; tail -n 1 $W/beat
for s in u1 u2 uni; do tail -n ${STEPS:-2} $W/logs/grpo-$s.log 2>/dev/null | cut -c1-470; done
for s in reader2 novice ureader; do [[ -f $W/$s.rc ]] || tail -n 1 $W/$s/losses.jsonl 2>/dev/null; done
[[ -n $ALSO ]] && eval "$ALSO"
cd $W; tar -czf $OUT/results.tgz --ignore-failed-read --exclude='logs/vllm*' state beat logs rows out u1/metrics.jsonl u2/metrics.jsonl uni/metrics.jsonl */losses.jsonl */settings.json cfg-*/config.yaml ppo*/metrics.jsonl 2>/dev/null
shift 2 2>/dev/null; for f in "$@"; do f=$(ls -d $f 2>/dev/null | sort -V | tail -n 1); [[ -f $f/adapter_config.json ]] && tar -czf $OUT/$(tr / - <<<$f).tgz --exclude=checkpoint.pt $f; done
for p in 8001 8011 8021; do tail -n 400 $W/logs/vllm-$p.log 2>/dev/null | grep -av 'POST\|GET' | tail -n 1 | cut -c1-260; done
ls $OUT | tr '\n' ' '; true
