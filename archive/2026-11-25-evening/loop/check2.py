"""Shared prompts on this GPU against plain packing, forwards and backwards."""
import torch, shared
torch.manual_seed(0)
P, R = 400, [33, 120, 1, 64]
groups = [([5] * P, [([7] * n, [1] * n, [0.0] * n, 1.0) for n in R])]
res = []
for share in (True, False):
    shared.SHARE = share
    (m,) = shared.packed(groups, 10**6)
    g = torch.Generator(device="cuda").manual_seed(1)
    full = {}
    def values(heads):
        prompt = torch.randn(P, heads, 64, device="cuda", generator=g); own = [torch.randn(n, heads, 64, device="cuda", generator=g) for n in R]
        rows = [prompt[:-1]] if share else []
        for o in own: rows += [prompt[-1:], o] if share else [prompt, o]
        return torch.cat(rows).bfloat16().transpose(0, 1)[None].requires_grad_()
    q, k, v = values(9), values(3), values(3)
    with shared.layout(m["pieces"], "cuda"): out = shared.attend(None, q, k, v, None)[0][0]
    picked = out[m["rows"].cuda()]
    w = torch.randn(picked.shape, device="cuda", generator=g)
    (picked.float() * w).sum().backward()
    own_k = torch.cat([k.grad[0, :, i : i + n] for i, n in zip([b + 1 for b, *_ in m["pieces"][1:]] if share else [b + P for b, *_ in m["pieces"]], R)], 1)
    first = k.grad[0, :, : P - 1] if share else sum(k.grad[0, :, b : b + P - 1] for b, *_ in m["pieces"])
    res.append([picked.detach(), own_k, first])
err = [((x.float() - y.float()).norm() / y.float().norm()).item() for x, y in zip(*res)]
print("shared prompts", [f"{e:.1e}" for e in err], "ok" if max(err) < 3e-2 else "WRONG")
assert max(err) < 3e-2
