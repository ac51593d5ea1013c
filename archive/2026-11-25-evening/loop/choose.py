"""choose.py: for each run, the checkpoint with the best greedy dev figures: GenAcc + half of all gold kept."""
import glob, json, os, re, sys
W = os.environ["W"]
for run in ("u1", "u2"):
    best = None
    for f in glob.glob(f"{W}/{run}/at-*"):
        n = int(f.rsplit("-", 1)[1]); rows = [json.loads(l) for x in glob.glob(f"{W}/rows/dev-{run}-{n}.*.jsonl") for l in open(x)]
        rows = [r for r in rows if r.get("what") == "episode" and "failed" not in r and r["searcher"] == f"{run}-{n}"]
        if len(rows) < 250: continue
        m = lambda g: sum(map(g, rows)) / len(rows)
        got = (m(lambda r: r["right"]["reader"]) + 0.5 * m(lambda r: r["all_kept"]), n)
        print(run, n, len(rows), got, file=sys.stderr)
        best = max(best or got, got)
    n = best[1] if best else max(int(f.rsplit("-", 1)[1]) for f in glob.glob(f"{W}/{run}/at-*"))
    print(run, f"{W}/{run}/at-{n}")
