"""tables.py ROWS_FOLDER TAG [--by]: figures of ev.py's rows: intervals, pairs, by data set and hops."""
import collections, glob, json, random, sys
def load(folder, tag):
    rows = {}
    for f in glob.glob(f"{folder}/{tag}.[0-9]*.jsonl"):
        for l in open(f):
            try: r = json.loads(l)
            except ValueError: continue
            if "failed" in r: continue
            rows[(r["id"], r["what"], r.get("mode", ""), r.get("k", 0), r.get("searcher", ""), r.get("reader", ""))] = r
    return list(rows.values())
def interval(d, n=2000):
    if not d: return None
    r = random.Random(0); m = sorted(sum(r.choices(d, k=len(d))) / len(d) for _ in range(n))
    return [round(100 * x, 2) for x in (sum(d) / len(d), m[int(n * .025)], m[-1 - int(n * .025)])]
def pair(a, b, n=2000):
    ids = sorted(set(a) & set(b)); d = [a[i] - b[i] for i in ids]
    return {"difference": interval(d, n), "won": sum(x > 0 for x in d), "lost": sum(x < 0 for x in d), "questions": len(ids)}
mean = lambda xs: sum(xs) / max(1, len(xs))
def table(rows, readers=None, start=None, modes=None):
    """{mode: {reader: {naive, gold, searchers}}}"""
    modes = modes or sorted({r["mode"] for r in rows if r.get("mode")}); out = {}
    readers = readers or sorted({r["reader"] for r in rows if r.get("reader")})
    for m in modes:
        for rd in readers:
            nv = collections.defaultdict(dict); gold = {}; ep = collections.defaultdict(dict)
            for r in rows:
                if r["what"] == "naive" and r["mode"] == m and r["reader"] == rd: nv[r["k"]][r["id"]] = r["right"]
                if r["what"] == "gold" and r["reader"] == rd: gold[r["id"]] = r["right"]
                if r["what"] == "episode" and r["mode"] == m and rd in r["right"]: ep[r["searcher"]][r["id"]] = r
            t = {"questions": max([len(x) for x in [*nv.values(), gold, *ep.values()]] or [0]), "naive": {str(k): interval(list(v.values())) for k, v in sorted(nv.items())}, "gold": interval(list(gold.values()))}
            if nv:
                best = max(nv, key=lambda k: mean(list(nv[k].values()))); t["best_naive"] = best
            for n, e in ep.items():
                acc = {i: r["right"][rd] for i, r in e.items()}; same = {i: r["naive_same"][rd] for i, r in e.items()}
                s = {"questions": len(e), "accuracy": interval(list(acc.values())), "naive_same": interval(list(same.values())), "all_kept": interval([r["all_kept"] for r in e.values()]), "coverage": interval([r["coverage"] for r in e.values() if r["coverage"] is not None]),
                     "all_seen": interval([r["all_seen"] for r in e.values()]), **{k: round(mean([r[k] for r in e.values()]), 3) for k in ("kept", "turns", "searches", "malformed", "repeated")}, "over_naive_same": pair(acc, same)}
                if nv:  # the best naive row of at most as many passages (rounded up), and the best of all
                    few = [k for k in nv if k <= max(1, -(-s["kept"] // 1))]
                    s["over_best_naive"] = pair(acc, nv[best]) | {"passages": best}
                    fb = max(few, key=lambda k: mean(list(nv[k].values()))); s["over_best_naive_of_at_most_as_many"] = pair(acc, nv[fb]) | {"passages": fb}
                if gold:
                    g, b = mean([gold[i] for i in acc if i in gold]), mean(list(same.values())); s["share_of_way_to_gold"] = round(100 * (mean(list(acc.values())) - b) / (g - b), 1) if g > b else None
                if start and n != start and start in ep:
                    s["over_start"] = {"accuracy": pair(acc, {i: r["right"][rd] for i, r in ep[start].items()})} | {k: pair({i: r[k] for i, r in e.items()}, {i: r[k] for i, r in ep[start].items()}) for k in ("all_kept", "coverage", "all_seen")}
                t[n] = s
            out.setdefault(m, {})[rd] = t
    return out
def grouped(rows, **how):
    groups = collections.defaultdict(list)
    for r in rows:
        groups["all"].append(r); d, h = r.get("dataset", ""), r.get("hops", "")
        if d: groups[d].append(r)
        if h: groups[f"{d}, {h} hops"].append(r)
    return {g: table(rs, **how) for g, rs in groups.items()}
if __name__ == "__main__":
    rows = load(sys.argv[1], sys.argv[2]); start = sys.argv[3] if len(sys.argv) > 3 else None
    t = grouped(rows, start=start) if "--by" in sys.argv else {"all": table(rows, start=start if start != "--by" else None)}
    for g, x in t.items():
        for m, y in x.items():
            for rd, z in y.items():
                print(g, m, rd, {k: v for k, v in z.items() if not isinstance(v, dict) or k == "naive"})
                for n, s in z.items():
                    if isinstance(s, dict) and "accuracy" in s: print("   ", n, json.dumps(s))
