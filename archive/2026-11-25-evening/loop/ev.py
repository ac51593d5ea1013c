"""ev.py SPEC.json URLS [PROCESSES]: greedy episodes, naive RAG and gold passages; a row a question, written as it comes. Goes on where it stopped.

SPEC: {"tag", "questions", "limit"?, "shuffle"?, "corpus", "index", "modes": [...], "retriever", "answer_tokens", "naive": [1, 3, ...], "gold": true,
"readers": {name: adapter}, "searchers": {name: {"adapter", "params": {...}, "readers"?: [...]}}}. Rows: $W/rows/TAG.PROCESS.jsonl. UNTIL: seconds since 1970.
"""
import asyncio, glob, gzip, json, multiprocessing as mp, os, random, sys, time
W = os.environ.get("W", "/tmp/w"); UNTIL = float(os.environ.get("UNTIL", "inf"))

def key(row): return (row["id"], row["what"], row.get("mode", ""), row.get("k", 0), row.get("searcher", ""), row.get("reader", ""))

class Models:
    def __init__(self, urls):
        from roll import Http
        self.http, self.n = Http(urls), 0
    async def chat(self, place, model, messages, s, cont=False):
        from search_agent.types import Completion, FinishReason
        body = {"model": model, "messages": messages, "max_tokens": s.max_tokens, "temperature": s.temperature, "stop": list(s.stop)}
        if cont: body |= {"continue_final_message": True, "add_generation_prompt": False}
        j = await self.http.post(place, "/v1/chat/completions", body)
        c, u = j["choices"][0], j["usage"]; stop = c.get("stop_reason")
        return Completion(c["message"]["content"] or "", FinishReason.STOP if c["finish_reason"] == "stop" else FinishReason.LENGTH, u["prompt_tokens"], u["completion_tokens"], stop=stop if isinstance(stop, str) else "")

class Policy:
    def __init__(self, models, adapter, place): self.models, self.adapter, self.place = models, adapter, place
    async def complete(self, spans, s):
        first, *rest = spans
        m = [{"role": "user", "content": first.text}]
        if rest: m.append({"role": "assistant", "content": "".join(x.text for x in rest)})
        return await self.models.chat(self.place, self.adapter, m, s, bool(rest))

async def work(spec, urls, me, of, done):
    from dataclasses import replace
    from common.backends import GrpcRetriever
    from evaluation import questions
    from learning.waiting import PatientRetriever, SharedRetriever
    from search_agent.agents import AGENTS
    from search_agent.episode import answer_prompt
    from search_agent.grading import answers
    from search_agent.types import Mode, Passage, Retrieval, Sampling
    from search_agent.world import World
    qs = questions.load(spec["questions"])
    if spec.get("part"): qs = questions.part(qs, *spec["part"])
    if "seed" in spec: qs = questions.pick(qs, spec.get("limit"), spec["seed"])
    elif spec.get("limit"): qs = qs[: spec["limit"]]
    qs = list(enumerate(qs))[me::of]
    wanted = frozenset[str]().union(*(q.gold_ids for _, q in qs)) if spec.get("gold") else frozenset()
    by = {}
    if wanted:
        for l in gzip.open(spec["corpus"], "rt"):
            d = json.loads(l)
            if d["id"] in wanted: by[d["id"]] = Passage(d["id"], d["title"], d["text"])
    models = Models(urls); R = SharedRetriever(PatientRetriever(GrpcRetriever(spec["retriever"], 20), 40), 20000)
    out = open(f"{W}/rows/{spec['tag']}.{me}.jsonl", "a")
    def write(row):
        out.write(json.dumps(row, ensure_ascii=False) + "\n"); out.flush()
    async def one(n, q):
        cache = {}
        async def read(reader, ps):
            k = (reader, tuple(p.id for p in ps))
            if k not in cache:
                m = [{"role": "user", "content": answer_prompt("answer", q.text, ps)}]
                cache[k] = asyncio.ensure_future(models.chat(n, spec["readers"][reader], m, Sampling(max_tokens=spec["answer_tokens"])))
            return (await asyncio.shield(cache[k])).text.strip()
        right = lambda a: answers.span_match(a, q.golds)
        base = {"id": q.id, **q.groups}
        async def guarded(row, do):
            if key(row) in done or time.time() > UNTIL: return
            try: row |= await do()
            except Exception as error: row["failed"] = f"{type(error).__name__}: {error}"[:200]
            write(row)
        tops = {}
        async def top(mode, k):
            if mode not in tops: tops[mode] = asyncio.ensure_future(R.search([q.text], Retrieval(top_k=9, index=spec["index"], mode=Mode(mode))))
            return (await asyncio.shield(tops[mode]))[0][:k]
        def naive(mode, k, reader):
            async def do():
                ps = await top(mode, k); a = await read(reader, ps)
                return {"right": right(a), "answer": a, "all": float(all(set(g) & {p.id for p in ps} for g in q.gold_passages))}
            return guarded(base | {"what": "naive", "mode": mode, "k": k, "reader": reader}, do)
        def gold(reader):
            async def do():
                a = await read(reader, [next(by[i] for i in g if i in by) for g in q.gold_passages])
                return {"right": right(a), "answer": a}
            return guarded(base | {"what": "gold", "reader": reader}, do)
        def searched(mode, name, s):
            async def do():
                t = time.time()
                agent = AGENTS["s3"].with_params({**s["params"], "mode": mode, "index": spec["index"], "constrained": False})
                e = await agent.play(q, World(R, Policy(models, s["adapter"], n)))
                kept = e.passages; ids = {p.id for p in kept}; seen = {p.id for x in e.turns for p in x.retrieved}
                g = [set(x) for x in q.gold_passages]
                readers = s.get("readers") or list(spec["readers"])
                got = {r: await read(r, kept) if kept else "" for r in readers}
                same = {r: right(await read(r, await top(mode, max(1, len(kept))))) for r in readers}
                return {"right": {r: right(a) for r, a in got.items()}, "answer": got, "naive_same": same, "coverage": sum(bool(x & ids) for x in g) / len(g) if g else None,
                        "all_kept": float(all(x & ids for x in g)), "all_seen": float(all(x & seen for x in g)), "kept": len(ids), "turns": len(e.turns), "searches": sum(bool(x.query) for x in e.turns),
                        "repeated": len([x.query for x in e.turns if x.query]) - len({x.query for x in e.turns if x.query}), "malformed": sum(bool(x.error) for x in e.turns), "question": q.text, "golds": list(q.golds)[:3],
                        "trace": [[x.query, [p.title for p in x.selected], x.error] for x in e.turns], "gold_titles": [by[i].title for x in q.gold_passages for i in x if i in by][:4], "seconds": round(time.time() - t, 2)}
            return guarded(base | {"what": "episode", "mode": mode, "searcher": name}, do)
        jobs = [naive(m, k, r) for m in spec["modes"] for k in spec["naive"] for r in spec["readers"]]
        jobs += [searched(m, name, s) for m in spec["modes"] for name, s in spec["searchers"].items()]
        if spec.get("gold"): jobs += [gold(r) for r in spec["readers"]]
        await asyncio.gather(*jobs)
    gate = asyncio.Semaphore(int(os.environ.get("AT_ONCE", 24)))
    async def gated(n, q):
        async with gate:
            if time.time() < UNTIL: await one(n, q)
    await asyncio.gather(*(gated(n, q) for n, q in qs))

def process(spec, urls, me, of, done): asyncio.run(work(spec, urls, me, of, done))

def main():
    spec, urls = json.load(open(sys.argv[1])), sys.argv[2].split(","); of = int(sys.argv[3]) if len(sys.argv) > 3 else 4
    began = time.time(); done = set(); os.makedirs(f"{W}/rows", exist_ok=True)
    for f in glob.glob(f"{W}/rows/{spec['tag']}.*.jsonl"):
        for l in open(f):
            try: r = json.loads(l)
            except ValueError: continue
            if "failed" not in r: done.add(key(r))
    c = mp.get_context("spawn"); ps = [c.Process(target=process, args=(spec, urls, n, of, done)) for n in range(of)]
    for p in ps: p.start()
    for p in ps: p.join()
    good = bad = 0; why = ""; acc = {}
    for f in glob.glob(f"{W}/rows/{spec['tag']}.*.jsonl"):
        for l in open(f):
            r = json.loads(l)
            if "failed" in r: bad += 1; why = r["failed"]; continue
            good += 1
            if r["what"] == "episode":
                for rd, x in r["right"].items(): acc.setdefault(f"{r['searcher']}/{r['mode']}/{rd}", []).append(x)
                for k in ("all_kept", "searches", "kept"): acc.setdefault(f"{r['searcher']}/{r['mode']}/{k}", []).append(r[k])
            else: acc.setdefault(f"{r['what']}{r.get('k', '')}/{r.get('mode', '')}/{r['reader']}", []).append(r["right"])
    print(f"{spec['tag']}: {good} rows, {bad} failed {why} in {time.time() - began:.0f} s; " + "; ".join(f"{k} {sum(v) / len(v):.3f} ({len(v)})" for k, v in acc.items()), flush=True)

if __name__ == "__main__": main()
