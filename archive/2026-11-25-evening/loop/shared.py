"""Attention in which a group's samples share their prompt, which is computed once: queries are the tokens of a row, keys of a sample are its prompt's and its own."""
import os
from contextlib import contextmanager
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError: varlen_attn = None
NAME = "shared_prompt"
SHARE = not os.environ.get("NO_SHARE")
_now = {}

def packed(groups, limit):
    """Micro-batches of whole groups, or parts of one: ids, positions, pieces (start, length of queries; start of the prompt and its length), and for each learned token its row, label, old log-probability, advantage."""
    def fresh(): return {"ids": [], "places": [], "pieces": [], "rows": [], "labels": [], "old": [], "advantage": []}
    def close(m): return {k: v if k == "pieces" else torch.tensor(v, dtype=torch.float32 if k in ("old", "advantage") else torch.long) for k, v in m.items()}
    m = fresh()
    for prompt, samples in groups:
        at = None
        for response, mask, logprobs, advantage in samples:
            head = 0 if SHARE and at is not None else len(prompt)
            if m["ids"] and len(m["ids"]) + head + len(response) > limit:
                yield close(m); m, at, head = fresh(), None, len(prompt)
            if SHARE and at is None:
                at = len(m["ids"])
                m["ids"] += prompt[:-1]; m["places"] += range(len(prompt) - 1); m["pieces"].append((at, len(prompt) - 1, at, 0))
            if SHARE:  # the prompt's last token begins each sample, so that its first token has a row of its own
                begin = len(m["ids"])
                m["ids"] += [prompt[-1], *response]; m["places"] += range(len(prompt) - 1, len(prompt) + len(response))
                m["pieces"].append((begin, 1 + len(response), at, len(prompt) - 1)); first = begin
            else:
                begin = len(m["ids"])
                m["ids"] += [*prompt, *response]; m["places"] += range(len(prompt) + len(response))
                m["pieces"].append((begin, len(prompt) + len(response), begin, 0)); first = begin + len(prompt) - 1
            for n, bit in enumerate(mask):
                if bit:
                    m["rows"].append(first + n); m["labels"].append(response[n]); m["old"].append(logprobs[n]); m["advantage"].append(advantage)
    if m["rows"]: yield close(m)

@contextmanager
def layout(pieces, device):
    """The pieces of the row that the model is given inside."""
    q = torch.tensor([0] + [n for _, n, _, _ in pieces]).cumsum(0); k = torch.tensor([0] + [n + p for _, n, _, p in pieces]).cumsum(0)
    gather = torch.cat([torch.cat([torch.arange(a, a + p), torch.arange(b, b + n)]) for b, n, a, p in pieces])
    _now.update(pieces=pieces, q=q.to(device, torch.int32), k=k.to(device, torch.int32), gather=gather.to(device), longest=(max(n for _, n, _, _ in pieces), max(n + p for _, n, _, p in pieces)))
    try: yield
    finally: _now.clear()

def attend(module, query, key, value, attention_mask, scaling=None, dropout=0.0, **_):
    q, k, v = (x.transpose(1, 2)[0] for x in (query, key, value))
    k, v = k.index_select(0, _now["gather"]), v.index_select(0, _now["gather"])
    if query.is_cuda:
        out = varlen_attn(q, k, v, _now["q"], _now["k"], *_now["longest"], scale=scaling, window_size=(-1, 0))
        return out[None], None
    outs, at = [], 0
    for b, n, a, p in _now["pieces"]:
        mask = torch.ones(n, n + p, dtype=torch.bool).tril(p)
        each = [x.transpose(0, 1)[None] for x in (q[b : b + n], k[at : at + n + p], v[at : at + n + p])]
        outs.append(scaled_dot_product_attention(*each, attn_mask=mask, scale=scaling, enable_gqa=True)[0].transpose(0, 1)); at += n + p
    return torch.cat(outs)[None], None
AttentionInterface.register(NAME, attend)
