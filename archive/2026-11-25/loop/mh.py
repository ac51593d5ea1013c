"""What probe.py and final.py share: questions, vLLM with adapters by name, episodes and readings."""
import asyncio, gzip, json, math, os, sys
from collections import Counter
import httpx
from common.backends import GrpcRetriever
from learning.waiting import SharedRetriever, PatientRetriever
from search_agent.agents import AGENTS
from search_agent.episode import Episode, answer_prompt
from search_agent.grading import answers
from search_agent.types import Completion, FinishReason, Mode, Sampling

PARAMS = dict(top_k=6, max_selected=3, max_turns=3, turn_tokens=96, observation_chars=4200, context_tokens=4864, numbered_twice=True, mode="bm25", index="multihop", constrained=False)
W = os.environ.get("W", "/tmp/w")
CORPUS = {}

def lines(path):
    with gzip.open(path, "rt") as f:
        return [json.loads(line) for line in f]

class Models:
    """Chat completions of vLLM servers, which share the work in turn."""
    def __init__(self, urls, at_once=384):
        self.urls, self.n = urls, 0
        self.http = httpx.AsyncClient(timeout=120, limits=httpx.Limits(max_connections=at_once * 2, max_keepalive_connections=at_once * 2))
        self.gate = asyncio.Semaphore(at_once)
    async def chat(self, model, messages, s, cont=False, key=None):
        body = {"model": model, "messages": messages, "max_tokens": s.max_tokens, "temperature": s.temperature, "stop": list(s.stop)}
        if cont: body |= {"continue_final_message": True, "add_generation_prompt": False}
        if key is None: self.n += 1
        url = self.urls[(self.n if key is None else hash(key)) % len(self.urls)]
        async with self.gate:
            for attempt in range(3):
                try:
                    r = await self.http.post(url + "/v1/chat/completions", json=body); r.raise_for_status(); break
                except httpx.HTTPError as error:
                    if attempt == 2 or getattr(getattr(error, "response", None), "status_code", 0) == 400: raise
        j = r.json(); c = j["choices"][0]; u = j["usage"]; stop = c.get("stop_reason")
        return Completion(c["message"]["content"] or "", FinishReason.STOP if c["finish_reason"] == "stop" else FinishReason.LENGTH, u["prompt_tokens"], u["completion_tokens"], stop=stop if isinstance(stop, str) else "")
    async def read(self, reader, question, passages):
        done = await self.chat(reader, [{"role": "user", "content": answer_prompt("answer", question, passages)}], Sampling(max_tokens=32), key=question)
        return done.text.strip()

class Policy:
    def __init__(self, models, name, temperature, key): self.models, self.name, self.t, self.key = models, name, temperature, key
    async def complete(self, spans, s):
        from dataclasses import replace
        first, *rest = spans
        m = [{"role": "user", "content": first.text}]
        if rest: m.append({"role": "assistant", "content": "".join(x.text for x in rest)})
        return await self.models.chat(self.name, m, replace(s, temperature=self.t), bool(rest), self.key)

def retriever(target=os.environ.get("RETRIEVER", "127.0.0.1:50051")):
    return SharedRetriever(PatientRetriever(GrpcRetriever(target, 120), 120), 50_000)

async def episode(q, models, name, temperature, R):
    e = Episode("s3", q["question"], R, Policy(models, name, temperature, q["question"]), None)
    await AGENTS["s3"].with_params(PARAMS).run(e)
    return e

def gold_sets(q):
    """One set of ids for each passage that the answer needs: its own and those that count as it."""
    same = q["metadata"].get("same_title_ids") or {}
    return [{i, *same.get(i, [])} for i in q["metadata"]["passage_ids"]]

def facts(q, e):
    """Coverage and conduct of one episode."""
    gold = gold_sets(q)
    kept = {p.id for p in e.passages}; seen = {p.id for t in e.turns for p in t.retrieved}
    return {"coverage": sum(bool(g & kept) for g in gold) / len(gold), "all_kept": float(all(g & kept for g in gold)), "all_seen": float(all(g & seen for g in gold)),
            "kept": len(kept), "turns": len(e.turns), "searches": sum(bool(t.query) for t in e.turns), "malformed": sum(bool(t.error) for t in e.turns),
            "first": tuple(sorted(p.id for p in e.turns[0].selected)), "stop": str(e.stop_reason)}

def right(q, answer): return answers.span_match(answer, tuple(q["golden_answers"]))
def mean(xs): xs = list(xs); return sum(xs) / max(1, len(xs))
def entropy(items):
    n = Counter(items); t = sum(n.values())
    return -sum(c / t * math.log(c / t) for c in n.values())
