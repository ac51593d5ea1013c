"""grpo.py OUT CONFIG START URLS NAME SEED UNTIL (seconds since 1970): GRPO of a LoRA adapter beside vLLM servers, one step ahead; a line of metrics a step.

Rollouts of step N + 1 are played with the weights after step N - 1 while step N is learned. The prompt that a group's samples share is computed once.
OUT/control.json may change "lr" (peak) while it runs; OUT/stop ends it. SINGLE is the share of a batch that is of the data set "demo".
"""
import json, math, multiprocessing as mp, os, queue, random, shutil, statistics, sys, time, urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
out, config, start, urls, label, seed = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), sys.argv[4].split(","), sys.argv[5], int(sys.argv[6])
until = float(sys.argv[7])
E = os.environ.get
QUESTIONS, SAMPLES, WORKERS = int(E("QUESTIONS", 32)), int(E("SAMPLES", 16)), int(E("WORKERS", 6))
LR, LAST, MINI, TOKENS, SAVE = float(E("LR", 1e-4)), float(E("LAST", 2e-5)), int(E("MINI", 2)), int(E("TOKENS", 24576)), int(E("SAVE", 10))
SINGLE, READER, FIRST = float(E("SINGLE", 0)), E("READER", "reader"), int(E("FIRST", 0))
LOW, HIGH, WARM, AHEAD = 0.2, 0.28, 3, int(E("AHEAD", 1))

def main():
    import roll
    out.mkdir(parents=True, exist_ok=True)
    context = mp.get_context("spawn")
    results = context.Queue(); jobs = [context.Queue() for _ in range(WORKERS)]
    workers = [context.Process(target=roll.serve, args=(config, urls, SAMPLES, READER, j, results), daemon=True) for j in jobs]
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
    datasets = results.get(timeout=180)[1]
    for _ in workers[1:]: results.get(timeout=180)
    pools = {"single": [n for n, d in enumerate(datasets) if d == "demo"] if SINGLE else [], "multi": [n for n, d in enumerate(datasets) if d != "demo" or not SINGLE]}
    print({k: len(v) for k, v in pools.items()}, flush=True)
    orders = {k: [] for k in pools}; dice = random.Random(seed + 1000 * FIRST)
    def take(kind, count):
        taken = []
        while len(taken) < count:
            if not orders[kind]: orders[kind] = dice.sample(pools[kind], len(pools[kind]))
            taken.append(orders[kind].pop())
        return taken
    def batch():
        few = round(SINGLE * QUESTIONS)
        places = take("multi", QUESTIONS - few) + (take("single", few) if few else [])
        dice.shuffle(places)
        return places
    def send(step, adapter):
        places = batch()
        parts = [list(enumerate(places))[n::WORKERS] for n in range(WORKERS)]
        for n, part in enumerate(parts):
            if part: jobs[n].put((step, part, adapter, step))
        return step, sum(bool(p) for p in parts)
    def receive(sent):
        groups, longest, left, end = [], 0.0, sent[1], time.time() + 100
        while left:
            try: name, got, seconds = results.get(timeout=max(0.1, end - time.time()))
            except queue.Empty: print(f"step {sent[0]}: {left} workers gave nothing in 100 s", flush=True); break
            if name != sent[0]: print("late result of step", name, flush=True); continue
            left -= 1; longest = max(longest, seconds)
            if isinstance(got, str): print("worker:", got, flush=True); continue
            groups += got
        return groups, longest
    pool = ThreadPoolExecutor(8)
    def post(url, path, body):
        request = urllib.request.Request(url + path, json.dumps(body).encode(), {"content-type": "application/json"})
        for attempt in range(3):
            try: return urllib.request.urlopen(request, timeout=20).read()
            except OSError as error:
                if attempt == 2: print("post", url, path, error, flush=True)
                time.sleep(0.2)
    def publish(step):
        folder = out / f"at-{FIRST + step}"; draft = out / "draft"; shutil.rmtree(draft, ignore_errors=True); draft.mkdir(parents=True)
        save_file({n: w.detach().half().contiguous().cpu() for n, w in get_peft_model_state_dict(model).items()}, str(draft / "adapter_model.safetensors"), metadata={"format": "pt"})
        shutil.copy(start / "adapter_config.json", draft); shutil.rmtree(folder, ignore_errors=True); draft.rename(folder)
        name = f"{label}-{FIRST + step}"
        list(pool.map(lambda u: post(u, "/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(folder.resolve())}), urls))
        for old in out.glob("at-*"):
            n = int(old.name[3:])
            if n < FIRST + step - AHEAD - 2:
                if n not in gone: gone.add(n); list(pool.map(lambda u: post(u, "/v1/unload_lora_adapter", {"lora_name": f"{label}-{n}"}), urls))
                if n % SAVE: shutil.rmtree(old, ignore_errors=True)
        return name
    gone = set()
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
                more = torch.stack([loss.detach(), (-(every.exp() * every).sum(-1)).sum() / tokens, (((ratio > 1 + HIGH) & (advantage > 0)) | ((ratio < 1 - LOW) & (advantage < 0))).sum() / tokens, (old - new).sum() / tokens]).tolist()
            for k, v in zip(log, more): log[k] += v
        log["gradient_norm"] = torch.nn.utils.clip_grad_norm_(learned, 1.0).item()
        optimizer.step(); optimizer.zero_grad()
        return log
    for url in urls:  # the servers and their reading adapter
        while True:
            try:
                if f'"{READER}"'.encode() in urllib.request.urlopen(url + "/v1/models", timeout=5).read(): break
            except OSError: pass
            if time.time() > until: os._exit(1)
            time.sleep(0.5)
    print("servers are there", flush=True)
    names = {0: publish(0)}
    sent = send(1, names[0])
    step, began = 1, time.time()
    while time.time() < until and not (out / "stop").exists():
        t0 = time.time()
        groups, played = receive(sent)
        t1 = time.time()
        if AHEAD: sent = send(step + 1, names[step - 1])
        failed = sum("failed" in s for g in groups for s in g); why = next((s["failed"] for g in groups for s in g if "failed" in s), "")
        alive = [[s for s in g if "failed" not in s] for g in groups]
        alive = [g for g in alive if len(g) > 1]
        if not alive:
            print("no group came", why, flush=True); step += 1; names[step - 1] = names[step - 2]
            if not AHEAD: sent = send(step, names[step - 1])
            continue
        flat = [s for g in alive for s in g]
        kept = []
        for g in alive:
            mean = statistics.fmean(s["reward"] for s in g)
            if max(s["reward"] for s in g) - min(s["reward"] for s in g) < 1e-6: continue
            kept.append((g[0]["prompt"], [(s["response"], s["mask"], s["logprobs"], s["reward"] - mean) for s in g]))
        random.Random(step).shuffle(kept)
        try: peak = float(json.loads((out / "control.json").read_text())["lr"])
        except (OSError, ValueError, KeyError): peak = LR
        done = min(1.0, (time.time() - began) / max(1.0, until - began))
        lr = peak * min(1.0, step / WARM); lr = max(min(lr, LAST), lr - (lr - LAST) * max(0.0, (done - 0.7) / 0.3))
        for group in optimizer.param_groups: group["lr"] = lr
        share = max(1, math.ceil(len(kept) / MINI))
        logs = [learn(kept[n : n + share]) for n in range(0, len(kept), share)]
        t2 = time.time()
        names[step] = publish(step)
        if not AHEAD: sent = send(step + 1, names[step])
        t3 = time.time()
        entropy = lambda c: -sum(c.count(x) / len(c) * math.log(c.count(x) / len(c)) for x in set(c))
        def means(samples, prefix):
            parts = {}
            for s in samples:
                for k, v in s["parts"].items(): parts.setdefault(k, []).append(v)
            return {f"{prefix}/{k}": statistics.fmean(v) for k, v in parts.items()}
        data = means(flat, "search")
        for kind in sorted({s["group"] for s in flat} if SINGLE else {s["hops"] for s in flat}):
            some = [s for s in flat if kind in (s["group"], s["hops"])]
            m = means(some, f"of_{kind}"); data |= {k: m[k] for k in m if k.split("/")[1] in ("accuracy", "rag_accuracy", "coverage", "all_kept", "all_seen", "searches", "selected", "reward", "malformed", "repeated")} | {f"of_{kind}/samples": len(some)}
        data |= {"search/mixed_groups": len(kept) / max(1, len(alive)), "search/choice_entropy": statistics.fmean(entropy([s["choice"] for s in g]) for g in alive), "search/dropped": failed,
                 "tokens/all": sum(len(s["prompt"]) + len(s["response"]) for s in flat), "tokens/learned": sum(sum(s["mask"]) for s in flat), "learning_rate": lr,
                 "timing_s/step": t3 - t0, "timing_s/rollouts": played, "timing_s/waited": t1 - t0, "timing_s/update": t2 - t1, "timing_s/publish": t3 - t2, "episodes": len(flat), "seconds": t3 - began}
        for k in logs[0] if logs else (): data[f"policy/{k}"] = statistics.fmean(l[k] for l in logs)
        if device == "cuda": data["gpu/allocated_gb"] = torch.cuda.max_memory_allocated() / 1e9
        with (out / "metrics.jsonl").open("a") as f: f.write(json.dumps({"step": FIRST + step, "data": data}) + "\n")
        g = lambda k, n=3: round(data.get(k, float("nan")), n)
        print(f"#{FIRST + step} r {g('search/reward')} acc {g('search/accuracy')} cov {g('search/coverage')} all {g('search/all_kept')} seen {g('search/all_seen')} srch {g('search/searches', 2)} kept {g('search/selected', 2)} bad {g('search/malformed')} rep {g('search/repeated')} mix {g('search/mixed_groups', 2)} chs {g('search/choice_entropy', 2)} | one: acc {g('of_demo/accuracy')} cov {g('of_demo/coverage')} srch {g('of_demo/searches', 2)} kept {g('of_demo/selected', 2)} | ent {g('policy/entropy')} kl {g('policy/kl', 5)} clip {g('policy/clipped', 4)} gn {g('policy/gradient_norm')} lr {lr:.1e} | step {g('timing_s/step', 1)} roll {g('timing_s/rollouts', 1)} wait {g('timing_s/waited', 1)} upd {g('timing_s/update', 1)} pub {g('timing_s/publish', 1)} failed {failed} {why}", flush=True)
        step += 1
    (out / f"at-{FIRST + step - 1}").exists() and (out / "last").write_text(f"at-{FIRST + step - 1}")
    print("finished", flush=True)
    for w in workers: w.terminate()
    os._exit(0)

if __name__ == "__main__":
    main()
