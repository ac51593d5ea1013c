"""grpo.py OUT CONFIG START URL SEED UNTIL (seconds since 1970): GRPO of a LoRA adapter beside a vLLM server, one step ahead; a line of metrics a step.

Rollouts of step N + 1 are played with the weights after step N - 1 while step N is learned. The prompt that a group's samples share is computed once.
"""
import json, math, multiprocessing as mp, os, random, shutil, statistics, sys, time, urllib.request
from pathlib import Path
out, config, start, url, seed = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), sys.argv[4], int(sys.argv[5])
until = float(sys.argv[6])
QUESTIONS, SAMPLES, WORKERS = int(os.environ.get("QUESTIONS", 32)), int(os.environ.get("SAMPLES", 16)), int(os.environ.get("WORKERS", 6))
LR, MINI, TOKENS, SAVE = float(os.environ.get("LR", 1e-4)), int(os.environ.get("MINI", 2)), int(os.environ.get("TOKENS", 24576)), int(os.environ.get("SAVE", 5))
LOW, HIGH, WARM, AHEAD = 0.2, 0.28, 2, int(os.environ.get("AHEAD", 1))

def main():
    import roll
    out.mkdir(parents=True, exist_ok=True)
    context = mp.get_context("spawn")
    results = context.Queue(); jobs = [context.Queue() for _ in range(WORKERS)]
    workers = [context.Process(target=roll.serve, args=(config, url, SAMPLES, j, results), daemon=True) for j in jobs]
    for w in workers: w.start()
    import torch
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM
    import shared
    from common import run_config
    run = run_config.load(config)
    torch.manual_seed(seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    base = AutoModelForCausalLM.from_pretrained(run.base_model, dtype=torch.bfloat16 if device == "cuda" else None, attn_implementation=shared.NAME)
    model = PeftModel.from_pretrained(base, str(start), is_trainable=True).to(device).train()
    learned = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=LR, weight_decay=0.0)
    asked = results.get()[1]
    for _ in workers[1:]: results.get()
    order = []; dice = random.Random(seed)
    def batch():
        nonlocal order
        if len(order) < QUESTIONS: order = dice.sample(range(asked), asked)
        taken, order = order[:QUESTIONS], order[QUESTIONS:]
        return taken
    def send(step, adapter):
        places = batch()
        parts = [places[n::WORKERS] for n in range(WORKERS)]
        for n, part in enumerate(parts):
            if part: jobs[n].put((step, part, adapter, step))
        return (sum(bool(p) for p in parts),)
    def receive(sent):
        groups, longest = [], 0.0
        for _ in range(sent[0]):
            name, got, seconds = results.get(timeout=120)
            longest = max(longest, seconds)
            if isinstance(got, str): print("worker:", got, flush=True); continue
            groups += got
        return groups, longest
    def publish(step):
        folder = out / f"at-{step}"; folder.mkdir(parents=True, exist_ok=True)
        save_file({n: w.detach().half().contiguous().cpu() for n, w in get_peft_model_state_dict(model).items()}, str(folder / "adapter_model.safetensors"), metadata={"format": "pt"})
        shutil.copy(start / "adapter_config.json", folder)
        name = f"r{seed}-{step}"
        def post(path, body):
            request = urllib.request.Request(url + path, json.dumps(body).encode(), {"content-type": "application/json"})
            return urllib.request.urlopen(request, timeout=30).read()
        post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(folder.resolve())})
        for old in out.glob("at-*"):
            n = int(old.name[3:])
            if n < step - AHEAD - 2 and n % SAVE:
                try: post("/v1/unload_lora_adapter", {"lora_name": f"r{seed}-{n}"})
                except OSError: pass
                shutil.rmtree(old, ignore_errors=True)
        return name
    def learn(groups):
        """One update on some groups: [(prompt, [(response, mask, logprobs, advantage)])]. Returns what is logged."""
        tokens = sum(sum(s[1]) for _, samples in groups for s in samples)
        log = {"loss": 0.0, "entropy": 0.0, "clipped": 0.0, "kl": 0.0}
        for micro in shared.packed(groups, TOKENS):
            ids, places, rows = micro["ids"].to(device), micro["places"].to(device), micro["rows"].to(device)
            labels, old, advantage = micro["labels"].to(device), micro["old"].to(device), micro["advantage"].to(device)
            with shared.layout(micro["pieces"], device), torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
                hidden = model.get_base_model().model(input_ids=ids[None], position_ids=places[None], use_cache=False).last_hidden_state[0]
                logits = model.get_base_model().lm_head(hidden[rows])
            every = logits.float().log_softmax(-1)
            new = every.gather(1, labels[:, None])[:, 0]
            ratio = (new - old).exp()
            worth = torch.minimum(ratio * advantage, ratio.clamp(1 - LOW, 1 + HIGH) * advantage)
            loss = -worth.sum() / tokens
            loss.backward()
            with torch.no_grad():
                log["loss"] += loss.item(); log["entropy"] += (-(every.exp() * every).sum(-1)).sum().item() / tokens
                log["clipped"] += (((ratio > 1 + HIGH) & (advantage > 0)) | ((ratio < 1 - LOW) & (advantage < 0))).sum().item() / tokens
                log["kl"] += (old - new).sum().item() / tokens
        log["gradient_norm"] = torch.nn.utils.clip_grad_norm_(learned, 1.0).item()
        optimizer.step(); optimizer.zero_grad()
        return log
    while True:  # the server and its reading adapter
        try:
            if b'"reader"' in urllib.request.urlopen(url + "/v1/models", timeout=5).read(): break
        except OSError: pass
        time.sleep(0.5)
    print("server is there", flush=True)
    names = {0: publish(0)}
    sent = send(1, names[0])
    step, began = 1, time.time()
    print("ready", flush=True)
    while time.time() < until:
        t0 = time.time()
        groups, played = receive(sent)
        t1 = time.time()
        if AHEAD: sent = send(step + 1, names[step - 1])
        failed = sum("failed" in s for g in groups for s in g); why = next((s["failed"] for g in groups for s in g if "failed" in s), "")
        alive = [[s for s in g if "failed" not in s] for g in groups]
        alive = [g for g in alive if len(g) > 1]
        flat = [s for g in alive for s in g]
        kept = []
        for g in alive:
            mean = statistics.fmean(s["reward"] for s in g)
            if max(s["reward"] for s in g) - min(s["reward"] for s in g) < 1e-6: continue
            kept.append((g[0]["prompt"], [(s["response"], s["mask"], s["logprobs"], s["reward"] - mean) for s in g]))
        random.Random(step).shuffle(kept)
        for group in optimizer.param_groups: group["lr"] = LR * min(1.0, step / WARM)
        share = max(1, math.ceil(len(kept) / MINI))
        logs = [learn(kept[n : n + share]) for n in range(0, len(kept), share)]
        t2 = time.time()
        names[step] = publish(step)
        if not AHEAD: sent = send(step + 1, names[step])
        t3 = time.time()
        parts = {}
        for s in flat:
            for k, v in s["parts"].items(): parts.setdefault(k, []).append(v)
        entropy = lambda c: -sum(c.count(x) / len(c) * math.log(c.count(x) / len(c)) for x in set(c))
        data = {f"search/{k}": statistics.fmean(v) for k, v in parts.items()}
        data |= {"search/mixed_groups": len(kept) / max(1, len(alive)), "search/choice_entropy": statistics.fmean(entropy([s["choice"] for s in g]) for g in alive), "search/dropped": failed,
                 "tokens/all": sum(len(s["prompt"]) + len(s["response"]) for s in flat), "tokens/learned": sum(sum(s["mask"]) for s in flat),
                 "timing_s/step": t3 - t0, "timing_s/rollouts": played, "timing_s/waited": t1 - t0, "timing_s/update": t2 - t1, "timing_s/publish": t3 - t2, "episodes": len(flat), "seconds": t3 - began}
        for k in logs[0] if logs else (): data[f"policy/{k}"] = statistics.fmean(l[k] for l in logs)
        if device == "cuda": data["gpu/allocated_gb"] = torch.cuda.max_memory_allocated() / 1e9
        with (out / "metrics.jsonl").open("a") as f: f.write(json.dumps({"step": step, "data": data}) + "\n")
        g = lambda k, n=3: round(data.get(k, float("nan")), n)
        print(f"#{step} r {g('search/reward')} acc {g('search/accuracy')} cov {g('search/coverage')} all {g('search/all_kept')} seen {g('search/all_seen')} srch {g('search/searches', 2)} kept {g('search/selected', 2)} bad {g('search/malformed')} mix {g('search/mixed_groups', 2)} chs {g('search/choice_entropy', 2)} ent {g('policy/entropy')} kl {g('policy/kl', 5)} clip {g('policy/clipped', 4)} gn {g('policy/gradient_norm')} | step {g('timing_s/step', 1)} roll {g('timing_s/rollouts', 1)} wait {g('timing_s/waited', 1)} upd {g('timing_s/update', 1)} pub {g('timing_s/publish', 1)} failed {failed} {why}", flush=True)
        step += 1
    print("finished", flush=True)
    for w in workers: w.terminate()
    os._exit(0)

if __name__ == "__main__":
    main()
