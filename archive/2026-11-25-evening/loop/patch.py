"""vLLM waits for the base model's weights, and need not inspect the model's class in a process of its own."""
import hashlib, json, os
from pathlib import Path
W, site = os.environ["W"], Path(os.environ.get("SITE", "/tmp/site")); M = site / "vllm/model_executor"
p = M / "model_loader/default_loader.py"; s = p.read_text()
head = "    def load_weights(self, model: nn.Module, model_config: ModelConfig) -> None:\n"
assert s.count(head) == 1
if "base.done" not in s: p.write_text(s.replace(head, head + f"        import os as _os, time as _time\n        while not _os.path.exists('{W}/base.done'): _time.sleep(0.2)\n"))
cache = Path(os.environ["VLLM_CACHE_ROOT"]) / "modelinfos"; cache.mkdir(parents=True, exist_ok=True)
info = dict(architecture="LlamaForCausalLM", is_text_generation_model=True, is_pooling_model=False, attn_type="decoder", default_seq_pooling_type="LAST", default_tok_pooling_type="ALL", score_type="bi-encoder",
    supports_multimodal=False, supports_multimodal_raw_input_only=False, requires_raw_input_tokens=False, supports_multimodal_encoder_tp_data=False, supports_pp=True, has_inner_state=False, is_attention_free=False,
    is_hybrid=False, has_noops=False, supports_mamba_prefix_caching=False, supports_transcription=False, supports_transcription_only=False)
(cache / "vllm-model_executor-models-llama-LlamaForCausalLM.json").write_text(json.dumps({"hash": hashlib.md5((M / "models/llama.py").read_bytes()).hexdigest(), "modelinfo": info}))
print("patched")
