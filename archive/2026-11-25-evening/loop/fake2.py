"""Stand-in for vLLM with token ids. fake2.py PORT TOKENIZER"""
import asyncio, json, random, re, sys
import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Route
from transformers import AutoTokenizer
tok = AutoTokenizer.from_pretrained(sys.argv[2])
async def completions(request):
    b = await request.json(); text = tok.decode(b["prompt"])
    assert isinstance(b["prompt"], list) and b["return_token_ids"]
    sel = sorted(random.sample(range(1, 7), random.randint(1, 3))); more = random.random() < .4
    say = f"<important_info>{sel}</important_info>\n<search_complete>{'False' if more else 'True'}</search_complete>"
    if more: say += '\n<query>{"query": "' + " ".join(random.sample(re.findall(r"[A-Za-z]{4,}", text[-1500:]), 3)) + '"}</query>'
    if text.rstrip().endswith("</search_complete>"): say = '\n<query>{"query": "more of it"}</query>'
    if random.random() < .03: say = "hm"
    ends = [say.find(s) + len(s) for s in b["stop"] if s in say]
    if ends: say = say[: min(ends)]
    ids = tok.encode(say, add_special_tokens=False)
    if not ends: ids += [tok.eos_token_id]
    return JSONResponse({"choices": [{"index": 0, "text": say, "token_ids": ids, "logprobs": {"token_logprobs": [-random.random() for _ in ids]}, "finish_reason": "stop"}]})
async def chat(request):
    b = await request.json(); m = b["messages"]; last = m[-1]["content"]
    if "You choose the documents" in m[0]["content"]:
        cold = b["temperature"] == 0
        sel = [1] if cold else sorted(random.sample(range(1, 7), random.randint(1, 3)))
        more = (not cold) and random.random() < .4 and len(m) == 1
        text = f"<important_info>{sel}</important_info>\n<search_complete>{'False' if more else 'True'}</search_complete>"
        if more: text += '\n<query>{"query": "' + " ".join(random.sample(re.findall(r"[A-Za-z]{4,}", m[0]["content"][-2000:]), 3)) + '"}</query>'
        if not cold and random.random() < .05: text = "hm"
    else: text = random.choice(re.findall(r"\w+", last)) if random.random() < .9 else "I do not know."
    await asyncio.sleep(0.005)
    if b.get("stream"):
        async def pieces():
            base = {"id": "x", "object": "chat.completion.chunk", "created": 0, "model": b["model"]}
            yield "data: " + json.dumps(base | {"choices": [{"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": None}]}) + "\n\n"
            yield "data: " + json.dumps(base | {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "stop_reason": None}]}) + "\n\n"
            yield "data: " + json.dumps(base | {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}}) + "\n\n"
            yield "data: [DONE]\n\n"
        return StreamingResponse(pieces(), media_type="text/event-stream")
    return JSONResponse({"id": "x", "object": "chat.completion", "created": 0, "model": b["model"], "choices": [{"index": 0, "finish_reason": "stop", "stop_reason": None, "message": {"role": "assistant", "content": text}}], "usage": {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}})
async def ok(request): print(request.url.path, flush=True); return PlainTextResponse("ok")
uvicorn.run(Starlette(routes=[Route("/v1/completions", completions, methods=["POST"]), Route("/v1/chat/completions", chat, methods=["POST"]), Route("/health", ok), Route("/v1/load_lora_adapter", ok, methods=["POST"]), Route("/v1/unload_lora_adapter", ok, methods=["POST"]), Route("/v1/models", lambda r: JSONResponse({"object": "list", "data": [{"id": "reader", "object": "model"}, {"id": "ureader", "object": "model"}]}))]), port=int(sys.argv[1]), log_level="warning")
