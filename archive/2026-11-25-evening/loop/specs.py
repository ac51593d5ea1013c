"""specs.py NAME OUT [SEARCHER=ADAPTER ...]: a specification for ev.py. READERS: NAME=ADAPTER,… Modes: MODES."""
import json, os, sys
W = os.environ["W"]; name, out, more = sys.argv[1], sys.argv[2], sys.argv[3:]
mh = dict(top_k=6, max_selected=3, max_turns=3, turn_tokens=96, observation_chars=4200, context_tokens=5000, numbered_twice=True)
uni = dict(top_k=3, max_selected=1, max_turns=3, turn_tokens=64, observation_chars=1500, context_tokens=2048, numbered_twice=True)
old = dict(top_k=8, max_selected=1, max_turns=1, turn_tokens=64, observation_chars=6000, context_tokens=2048, numbered_twice=True)
readers = dict(x.split("=") for x in os.environ.get("READERS", "reader=reader").split(","))
modes = os.environ.get("MODES", "bm25").split(",")
s = {"tag": os.path.basename(out).removesuffix(".json"), "modes": modes, "answer_tokens": 32, "readers": readers, "gold": True, "naive": [1, 3, 6, 8]}
if name in ("dev", "test"): s |= {"questions": f"{W}/qa_{name}.jsonl.gz", "corpus": f"{W}/mh.jsonl.gz", "index": os.environ.get("INDEX", "multihop"), "retriever": "127.0.0.1:15053"}; p = mh
if name == "single": s |= {"questions": f"{W}/data/demo/qa_dev.jsonl.gz", "corpus": f"{W}/data/demo/corpus.jsonl.gz", "index": "demo", "retriever": "127.0.0.1:15053", "limit": int(os.environ.get("LIMIT", 1500)), "seed": 0, "answer_tokens": 48, "naive": [1, 3]}; p = mh
if name in ("udev", "utest"): s |= {"questions": f"{W}/data/universe/qa_{name[1:]}.jsonl.gz", "corpus": f"{W}/data/universe/corpus.jsonl.gz", "index": "universe", "retriever": "127.0.0.1:15053", "answer_tokens": 24, "naive": [1, 3, 8]}; p = uni
s["searchers"] = {}
for x in more:
    n, _, adapter = x.partition("=")
    s["searchers"][n] = {"adapter": adapter or n, "params": old if n == "old" else p} | ({"readers": ["old"]} if n == "old" and "old" in readers else {})
if os.environ.get("BARE"): s |= {"gold": False, "naive": []}
if os.environ.get("CUT"): s["limit"] = int(os.environ["CUT"])
json.dump(s, open(out, "w"))
