"""weights.py GGUF FOLDER: FOLDER/model.safetensors, bfloat16, as services.generator.base_model makes it."""
import re, sys
from pathlib import Path
import gguf, numpy as np, torch
from gguf.quants import dequantize
from safetensors.torch import save_file
reader = gguf.GGUFReader(sys.argv[1])
names = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
         "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
heads = {"attn_q": 9, "attn_k": 3}
out = {}
for t in reader.tensors:
    w = dequantize(t.data, t.tensor_type).astype(np.float32)
    if t.name == "token_embd.weight": name = "model.embed_tokens.weight"
    elif t.name == "output_norm.weight": name = "model.norm.weight"
    elif m := re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", t.name):
        if m[2] in heads:
            h = heads[m[2]]; dim = w.shape[0] // h // 2
            w = w.reshape(h, dim, 2, *w.shape[1:]).swapaxes(2, 1).reshape(w.shape)
        name = f"model.layers.{m[1]}.{names[m[2]]}.weight"
    else: raise SystemExit(f"what is {t.name}?")
    out[name] = torch.from_numpy(np.ascontiguousarray(w)).to(torch.bfloat16)
save_file(out, str(Path(sys.argv[2]) / "model.safetensors"), metadata={"format": "pt"})
print(len(out), "tensors")
