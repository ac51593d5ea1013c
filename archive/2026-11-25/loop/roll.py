"""Rollouts of one run: processes that play groups of episodes against a vLLM server, with the project's own agent, policy of token ids and reward."""
import asyncio, os, random, sys, time
import aiohttp
from search_agent.types import Completion, FinishReason, Mode
VLLM = {}

class Http:
    def __init__(self, url): self.url, self.session = url, None
    async def post(self, path, body):
        if self.session is None:
            self.session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=90))
        for attempt in range(3):
            try:
                async with self.session.post(self.url + path, json=body) as r:
                    if r.status >= 400: raise RuntimeError(f"{r.status} {(await r.text())[:200]}")
                    return await r.json()
            except (aiohttp.ClientError, asyncio.TimeoutError):
                if attempt == 2: raise

class Reader:
    """Generator port: vLLM's reading adapter, asked once for what several samples read alike."""
    NAME = "reader@vllm"
    def __init__(self, http): self.http, self.asked = http, {}
    async def stream(self, messages, sampling):
        text = messages[0].content
        if text not in self.asked: self.asked[text] = asyncio.ensure_future(self._ask(text, sampling))
        answer = await asyncio.shield(self.asked[text])
        yield Completion(answer, FinishReason.STOP, 0, 0, model=self.NAME)
    async def _ask(self, text, s):
        j = await self.http.post("/v1/chat/completions", {"model": "reader", "messages": [{"role": "user", "content": text}], "max_tokens": s.max_tokens, "temperature": 0.0})
        return j["choices"][0]["message"]["content"] or ""

class Player:
    def __init__(self, config, url, samples):
        from transformers import AutoTokenizer
        from common import run_config
        from common.backends import GrpcRetriever
        from evaluation import questions
        from learning.episodes import Stage
        from learning.waiting import PatientRetriever, SharedRetriever
        self.run = run_config.load(config)
        self.tokenizer = AutoTokenizer.from_pretrained(self.run.base_model)
        self.http = Http(url)
        self.retriever = SharedRetriever(PatientRetriever(GrpcRetriever(self.run.retriever, 90), 90), 20000)
        self.reader = Reader(self.http)
        self.stage = Stage(self.run.method, self.retriever, self.reader, None, self.run.reward)
        self.questions = questions.load(self.run.data.questions[0])
        self.samples = samples
    async def group(self, place, adapter, step):
        from learning.episodes import Example
        from learning.groups import first_choice
        from learning.policy import Limits, TokenPolicy
        from search_agent.episode import answer_prompt
        from search_agent.grading import answers
        from search_agent.types import Message, Sampling
        q = self.questions[place]
        top = (await self.retriever.search([q.text], 3, self.run.index, Mode.BM25))[0]
        text = "".join([p.text async for p in self.reader.stream([Message("user", answer_prompt("answer", q.text, top))], Sampling(max_tokens=self.run.reward.answer_tokens))])
        example = Example(q, answers.span_match(text.strip(), q.golds), Reader.NAME)
        async def generate(ids, s):
            j = await self.http.post("/v1/completions", {"model": adapter, "prompt": ids, "max_tokens": s.max_tokens, "temperature": 1.0, "stop": list(s.stop), "logprobs": 0, "return_token_ids": True, "skip_special_tokens": False})
            c = j["choices"][0]
            return c["token_ids"], c["logprobs"]["token_logprobs"]
        async def one():
            policy = TokenPolicy(self.tokenizer, generate, Limits(2048, 3072))
            try:
                played = await self.stage.play(policy, example, step)
            except Exception as error:  # dropped and counted
                return {"failed": f"{type(error).__name__}: {error}"[:200]}
            return {"prompt": policy.prompt_ids, "response": policy.response_ids, "mask": policy.mask, "logprobs": policy.logprobs, "reward": played.reward, "parts": played.parts, "choice": first_choice(played.trajectory)}
        return await asyncio.gather(*(one() for _ in range(self.samples)))
    async def groups(self, places, adapter, step): return await asyncio.gather(*(self.group(p, adapter, step) for p in places))

def serve(config, url, samples, jobs, results):
    """A worker: (job, places, adapter, step) in, (job, groups) out, until None."""
    loop = asyncio.new_event_loop(); asyncio.set_event_loop(loop)
    player = Player(config, url, samples)
    results.put(("ready", len(player.questions)))
    while (job := jobs.get()) is not None:
        name, places, adapter, step = job
        began = time.time()
        try: got = loop.run_until_complete(player.groups(places, adapter, step))
        except Exception as error: got = f"{type(error).__name__}: {error}"
        results.put((name, got, time.time() - began))
