"""final.py OUT QUESTIONS READER NAME... : naive RAG, gold passages and every searcher, greedily, one row a question; paired figures."""
import collections, random, time
from pathlib import Path
from mh import *
out, file, reader, names = Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4:]
async def one(q, by, models, R, rows, episodes):
    text = q["question"]; gold = q["metadata"]["passage_ids"]
    top = (await R.search([text], 8, "multihop", Mode.BM25))[0]
    row = {"id": q["id"], "dataset": q["metadata"]["dataset"], "hops": q["metadata"]["hops"]}
    cache = {}
    async def read(ps):
        key = tuple(p.id for p in ps)
        if key not in cache: cache[key] = asyncio.ensure_future(models.read(reader, text, ps))
        return await asyncio.shield(cache[key])
    async def naive(k): row[f"naive{k}"] = right(q, await read(top[:k]))
    async def golden(): row["gold"] = right(q, await read([by[g] for g in gold]))
    async def searched(n):
        e = await episode(q, models, n, 0.0, R); f = facts(q, e); f.pop("first")
        answer = await read(e.passages) if e.passages else ""
        f["accuracy"] = right(q, answer)
        f["naive_same"] = right(q, await read(top[: max(1, len(e.passages))]))
        row[n] = f
        episodes.append({"id": q["id"], "name": n, "question": text, "golds": q["golden_answers"], "answer": answer, "accuracy": f["accuracy"], "all_kept": f["all_kept"],
                         "turns": [[t.query, [p.title for p in t.selected], [p.title for p in t.retrieved], t.error] for t in e.turns], "gold": [by[g].title for g in gold]})
    await asyncio.gather(*(naive(k) for k in (1, 3, 6, 8)), golden(), *(searched(n) for n in names))
    for k in (6, 8): row[f"all@{k}"] = float(all(g & {p.id for p in top[:k]} for g in gold_sets(q)))
    rows.append(row)
def interval(d, n=2000):
    r = random.Random(0); m = sorted(sum(r.choices(d, k=len(d))) / len(d) for _ in range(n))
    return [round(100 * x, 2) for x in (sum(d) / len(d), m[int(n * .025)], m[-1 - int(n * .025)])]
def pair(a, b): return {"difference": interval([x - y for x, y in zip(a, b)]), "won": sum(x > y for x, y in zip(a, b)), "lost": sum(x < y for x, y in zip(a, b))}
def table(rows):
    t = {"questions": len(rows)}
    for k in ("naive1", "naive3", "naive6", "naive8", "gold"): t[k] = interval([r[k] for r in rows])
    for k in ("all@6", "all@8"): t[k] = round(100 * mean(r[k] for r in rows), 2)
    best = max(("naive1", "naive3", "naive6", "naive8"), key=lambda k: mean(r[k] for r in rows)); t["best_naive"] = best
    for n in names:
        c = lambda k: [r[n][k] for r in rows]
        t[n] = {"accuracy": interval(c("accuracy")), "naive_same": interval(c("naive_same")), "all_kept": interval(c("all_kept")), "coverage": interval(c("coverage")), "all_seen": round(100 * mean(c("all_seen")), 2),
                **{k: round(mean(c(k)), 3) for k in ("kept", "turns", "searches", "malformed")}, "over_naive_same": pair(c("accuracy"), c("naive_same")), "over_best_naive": pair(c("accuracy"), [r[best] for r in rows])}
        g, b = mean(r["gold"] for r in rows), mean(c("naive_same")); t[n]["share_of_way_to_gold"] = round(100 * (mean(c("accuracy")) - b) / (g - b), 1) if g > b else None
        if n != names[0]: t[n]["over_" + names[0]] = {k: pair(c(k), [r[names[0]][k] for r in rows]) for k in ("accuracy", "all_kept", "coverage")}
    return t
async def main():
    from search_agent.types import Passage
    by = {d["id"]: Passage(d["id"], d["title"], d["text"]) for d in lines(os.environ.get("CORPUS", f"{W}/corpus.jsonl.gz"))}
    qs = lines(file); limit = int(os.environ.get("LIMIT", "0")); qs = qs[:limit] if limit else qs
    models, R, rows, episodes, t = Models(os.environ.get("URLS", "http://127.0.0.1:8000").split(",")), retriever(), [], [], time.time()
    done = await asyncio.gather(*(one(q, by, models, R, rows, episodes) for q in qs), return_exceptions=True)
    bad = [repr(d)[:300] for d in done if d is not None]
    rows = [r for r in rows if all(n in r for n in names)]
    print("failed", len(bad), bad[:2], "seconds", round(time.time() - t), flush=True)
    groups = {"all": rows}
    for r in rows:
        groups.setdefault(r["dataset"], []).append(r); groups.setdefault(f"{r['dataset']}, {r['hops']} hops", []).append(r)
    res = {g: table(rs) for g, rs in groups.items()}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"reader": reader, "searchers": names, "failed": len(bad), "tables": res, "rows": rows}))
    out.with_suffix(".episodes.json").write_text(json.dumps(episodes))
    a = res["all"]; print({k: v for k, v in a.items() if k not in names})
    for n in names: print(n, json.dumps(a[n]), flush=True)
asyncio.run(main())
