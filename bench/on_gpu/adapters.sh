# shellcheck shell=bash
# A phase of bench/on_gpu.sh, which reads it.
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
