"""probe.py OUT QUESTIONS LIMIT SAMPLES READER NAME... : the head room of each searcher, and the best warm start in OUT/chosen."""
import json, random, time
from pathlib import Path
from mh import *
out, file, limit, samples, reader, names = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5], sys.argv[6:]
async def one(q, name, models, R, rows):
    async def play(t):
        e = await episode(q, models, name, t, R)
        f = facts(q, e)
        f["accuracy"] = right(q, await models.read(reader, q["question"], e.passages)) if e.passages else 0.0
        return f
    naive = right(q, await models.read(reader, q["question"], (await R.search([q["question"]], 3, "multihop", Mode.BM25))[0]))
    greedy, *many = await asyncio.gather(play(0.0), *(play(1.0) for _ in range(samples)))
    reward = [f["accuracy"] - naive + f["coverage"] - 0.2 * f["malformed"] - 0.05 * f["kept"] for f in many]
    rows.append({"id": q["id"], "dataset": q["metadata"]["dataset"], "hops": q["metadata"]["hops"], "naive3": naive, "greedy": {k: greedy[k] for k in greedy if k != "first"},
        "mixed_accuracy": len({f["accuracy"] for f in many}) > 1, "mixed_coverage": len({f["coverage"] for f in many}) > 1, "mixed_reward": len({round(r, 6) for r in reward}) > 1,
        "best_accuracy": max(f["accuracy"] for f in many), "best_coverage": max(f["coverage"] for f in many), "best_all_kept": max(f["all_kept"] for f in many),
        "mean": {k: mean(f[k] for f in many) for k in ("accuracy", "coverage", "all_kept", "all_seen", "kept", "turns", "searches", "malformed")},
        "well_formed": mean(f["malformed"] == 0 for f in many), "choice_entropy": entropy(f["first"] for f in many)})
async def main():
    out.mkdir(parents=True, exist_ok=True)
    qs = lines(file); random.Random(7).shuffle(qs); qs = qs[:limit]
    urls = os.environ.get("URLS", "http://127.0.0.1:8000").split(",")
    table = {}
    for name in names:
        models, R, rows, t = Models(urls), retriever(), [], time.time()
        done = await asyncio.gather(*(one(q, name, models, R, rows) for q in qs), return_exceptions=True)
        bad = [repr(d)[:300] for d in done if d is not None]
        if not rows: print(name, "failed", bad[:2], flush=True); continue
        g = lambda k: round(mean(r["greedy"][k] for r in rows), 4)
        m = lambda k: round(mean(r["mean"][k] for r in rows), 4)
        s = lambda k: round(mean(r[k] for r in rows), 4)
        table[name] = {"questions": len(rows), "samples": samples, "failed": len(bad), "seconds": round(time.time() - t, 1), "naive3_accuracy": s("naive3"),
            "greedy": {k: g(k) for k in ("accuracy", "coverage", "all_kept", "all_seen", "kept", "turns", "searches", "malformed")},
            "mean": {k: m(k) for k in rows[0]["mean"]}, "best": {k: s("best_" + k) for k in ("accuracy", "coverage", "all_kept")},
            "mixed": {k: s("mixed_" + k) for k in ("accuracy", "coverage", "reward")}, "well_formed": s("well_formed"), "choice_entropy": s("choice_entropy")}
        print(name, json.dumps(table[name]), bad[:1], flush=True)
        (out / f"{name}.rows.json").write_text(json.dumps(rows))
        (out / "headroom.json").write_text(json.dumps(table, indent=1))
    fit = {n: t for n, t in table.items() if t["well_formed"] >= 0.95} or table
    # pass@16 says what reinforcement can reach, the mean where it begins
    best = max(fit, key=lambda n: fit[n]["best"]["accuracy"] + fit[n]["best"]["all_kept"] + 0.5 * (fit[n]["mean"]["accuracy"] + fit[n]["mean"]["all_kept"]))
    (out / "chosen").write_text(best)
    print("chosen", best, flush=True)
asyncio.run(main())
