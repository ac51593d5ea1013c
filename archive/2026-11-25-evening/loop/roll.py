"""Rollouts of one run: processes that play groups of episodes against vLLM servers, with the project's own agent, policy of token ids and reward."""
import asyncio, time
import aiohttp
from search_agent.types import Completion, FinishReason, ModelInfo

class Http:
    """Posts to the servers; a lost request is asked again, three times in all."""
    def __init__(self, urls, limit=20): self.urls, self.limit, self.session = urls, limit, None
    async def post(self, place, path, body):
        if self.session is None:
            self.session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=self.limit))
        for attempt in range(3):
            try:
                async with self.session.post(self.urls[place % len(self.urls)] + path, json=body) as r:
                    if r.status >= 400: raise RuntimeError(f"{r.status} {(await r.text())[:200]}")
                    return await r.json()
            except (aiohttp.ClientError, asyncio.TimeoutError):
                if attempt == 2: raise

class Reader:
    """Generator port: a reading adapter, asked once for what several samples read alike."""
    def __init__(self, http, place, name="reader"): self.http, self.place, self.name, self.asked = http, place, name, {}
    async def info(self): return ModelInfo(self.name + "@vllm")
    async def stream(self, messages, sampling):
        text = messages[0].content
        if text not in self.asked: self.asked[text] = asyncio.ensure_future(self._ask(text, sampling))
        yield Completion(await asyncio.shield(self.asked[text]), FinishReason.STOP, 0, 0, model=self.name + "@vllm")
    async def _ask(self, text, s):
        j = await self.http.post(self.place, "/v1/chat/completions", {"model": self.name, "messages": [{"role": "user", "content": text}], "max_tokens": s.max_tokens, "temperature": 0.0})
        return j["choices"][0]["message"]["content"] or ""

class Player:
    def __init__(self, config, urls, samples, reader):
        from transformers import AutoTokenizer
        from common import run_config
        from common.backends import GrpcRetriever
        from evaluation import questions
        from learning.waiting import PatientRetriever, SharedRetriever
        self.run = run_config.load(config)
        self.tokenizer = AutoTokenizer.from_pretrained(self.run.base_model)
        self.http = Http(urls)
        self.retriever = SharedRetriever(PatientRetriever(GrpcRetriever(self.run.retriever, 20), 40), 20000)
        self.questions = questions.load(self.run.data.questions[0])
        self.samples, self.reader = samples, reader
        v = self.run.verl; self.limits = (v["data.max_prompt_length"], v["data.max_response_length"])
    async def group(self, engine, place, adapter, step):
        from dataclasses import replace
        from learning.episodes import Example, Stage
        from learning.groups import first_choice
        from learning.policy import Limits, TokenPolicy
        from search_agent.episode import answer_prompt
        from search_agent.grading import answers
        from search_agent.types import Message, Sampling
        from search_agent.world import World
        q = self.questions[place]
        reader = Reader(self.http, engine, self.reader)
        stage = Stage(self.run.method, World(self.retriever, generator=reader), self.run.reward)
        top = (await self.retriever.search([q.text], replace(self.run.method.params, top_k=self.run.reward.rag_documents)))[0]
        text = "".join([p.text async for p in reader.stream([Message("user", answer_prompt("answer", q.text, top))], Sampling(max_tokens=self.run.reward.answer_tokens))])
        example = Example(q, answers.span_match(text.strip(), q.golds), self.reader + "@vllm")
        async def generate(ids, s):
            j = await self.http.post(engine, "/v1/completions", {"model": adapter, "prompt": ids, "max_tokens": s.max_tokens, "temperature": 1.0, "stop": list(s.stop), "logprobs": 0, "return_token_ids": True, "skip_special_tokens": False})
            c = j["choices"][0]
            return c["token_ids"], c["logprobs"]["token_logprobs"]
        async def one():
            policy = TokenPolicy(self.tokenizer, generate, Limits(*self.limits))
            try:
                played = await stage.play(policy, example, step)
            except Exception as error:  # dropped and counted
                return {"failed": f"{type(error).__name__}: {error}"[:200]}
            return {"prompt": policy.prompt_ids, "response": policy.response_ids, "mask": policy.mask, "logprobs": policy.logprobs, "reward": played.reward, "parts": played.parts, "choice": first_choice(played.trajectory), "group": str(q.groups.get("dataset", "")), "hops": str(q.groups.get("hops", ""))}
        return await asyncio.gather(*(one() for _ in range(self.samples)))
    async def groups(self, places, adapter, step):
        got = await asyncio.gather(*(self.group(*p, adapter, step) for p in places), return_exceptions=True)
        return [[{"failed": f"{type(g).__name__}: {g}"[:200]}] * self.samples if isinstance(g, BaseException) else g for g in got]

def serve(config, urls, samples, reader, jobs, results):
    """A worker: (job, places, adapter, step) in, (job, groups, seconds) out, until None."""
    loop = asyncio.new_event_loop(); asyncio.set_event_loop(loop)
    player = Player(config, urls, samples, reader)
    results.put(("ready", [str(q.groups.get("dataset", "")) for q in player.questions], 0))
    while (job := jobs.get()) is not None:
        name, places, adapter, step = job
        began = time.time()
        try: got = loop.run_until_complete(player.groups(places, adapter, step))
        except Exception as error: got = f"{type(error).__name__}: {error}"
        results.put((name, got, time.time() - began))
