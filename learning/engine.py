"""verl's FSDP engines for actor and critic, with each prompt computed once and the head on learned tokens only.

Importing this registers them for NVIDIA's cards; verl's own stay for others. Models of other architectures are packed
as verl packs them. Tokens that are not learned get 0 as log-probability, entropy and value; verl's losses and
advantages mask them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from peft.tuners.lora import Linear, LoraLayer
from tensordict import TensorDict
from torch import distributed
from torch.distributed.tensor import DTensor
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_name
from verl.utils.experimental.torch_functional import FusedLinearForPPO
from verl.utils.fsdp_utils import fsdp_version, normalize_peft_param_name, offload_fsdp_model_to_cpu
from verl.utils.model import convert_weight_keys
from verl.workers.engine.base import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngine, FSDPEngineWithLMHead, FSDPEngineWithValueHead
from verl.workers.engine.utils import postprocess_batch_func

from learning.attention import CAUSAL
from learning.packing import Packed, Sample, even_micro_batches, micro_batches, pack, samples_of

_KNOWN = ("llama", "qwen2", "qwen3")  # pass what they are given on to their attention, which has no window


def _known(config: Any) -> bool:
    return config.model_type in _KNOWN and getattr(config, "sliding_window", None) is None


def _samples(data: TensorDict) -> list[Sample]:
    return samples_of(data["prompts"].cpu().unbind(), data["response_mask"].cpu().unbind())


class SharedPrompts(FSDPEngine):
    """Packs micro-batches so that samples with the same prompt share its computation."""

    def _build_module(self) -> torch.nn.Module:
        self._shares = _known(self.model_config.hf_config) and not self.use_ulysses_sp and not self.pad_to_length
        if self._shares:
            self.model_config.hf_config._attn_implementation = CAUSAL
        module = super()._build_module()
        if self._shares:
            whole = module.forward

            def forward(*args: Any, packed: Packed | None = None, **kwargs: Any) -> Any:
                return whole(*args, **kwargs) if packed is None else self.predict(module, packed, kwargs)

            module.forward = forward
        return module

    def predict(self, module: torch.nn.Module, packed: Packed, inputs: Mapping[str, Any]) -> Any:
        """Returns what the engine's kind of model predicts at the packed rows."""
        raise NotImplementedError

    def _hidden(self, module: torch.nn.Module, packed: Packed, input_ids: torch.Tensor) -> torch.Tensor:
        """Returns the hidden states before learned tokens: [learned tokens, size]."""
        positions, layout = packed.positions[None], packed.layout
        states = module.model(input_ids=input_ids, position_ids=positions, use_cache=False, layout=layout)
        return states.last_hidden_state[0, packed.rows]

    def _can_share(self, data: TensorDict) -> bool:
        def asked(key: str, default: bool = False) -> bool:
            return bool(tu.get_non_tensor_data(data=data, key=key, default=default))

        beyond = asked("distillation_use_topk") or asked("calculate_sum_pi_squared")
        return self._shares and asked("use_remove_padding", True) and not beyond

    def prepare_model_inputs(self, micro_batch: TensorDict) -> tuple[dict[str, Any], dict[str, Any]]:
        if not self._can_share(micro_batch):
            return super().prepare_model_inputs(micro_batch)
        ids = micro_batch["input_ids"].values()
        packed = pack(_samples(micro_batch), ids.device)
        inputs = {"input_ids": ids[packed.tokens][None], "packed": packed}
        return inputs | self._extra(packed, ids, micro_batch), {"packed": packed}

    def _extra(self, packed: Packed, ids: torch.Tensor, micro_batch: TensorDict) -> dict[str, Any]:
        return {}

    def forward_backward_batch(
        self, data: TensorDict, loss_function: Callable[..., Any], forward_only: bool = False
    ) -> Any:
        dynamic = tu.get_non_tensor_data(data=data, key="use_dynamic_bsz", default=True)
        if not dynamic or not self._can_share(data):
            return super().forward_backward_batch(data, loss_function, forward_only)
        group, device = self.get_data_parallel_group(), get_device_name()
        learned = data["loss_mask"].sum().to(device)
        distributed.all_reduce(learned, group=group)
        samples, limit = _samples(data), tu.get_non_tensor_data(data=data, key="max_token_len_per_gpu", default=None)
        count = torch.tensor(len(micro_batches(samples, limit)), device=device)
        # every rank does as many: FSDP gathers in each
        distributed.all_reduce(count, op=distributed.ReduceOp.MAX, group=group)
        places = even_micro_batches(samples, limit, int(count))
        tu.assign_non_tensor(data, batch_num_tokens=learned.item(), dp_size=self.get_data_parallel_size(), sp_size=1)
        keep = forward_only or tu.get_non_tensor_data(data=data, key="return_model_output", default=False)
        outputs = []
        for place, chosen in enumerate(places):
            last = place == len(places) - 1
            sync = nullcontext() if forward_only else self._gradient_sync_context(is_last_micro_batch=last)
            with torch.set_grad_enabled(not forward_only), sync:
                micro_batch = tu.index_select_tensor_dict(data, chosen)
                loss, output = self.forward_step(micro_batch, loss_function, forward_only)
                if not forward_only:
                    (self.scaler.scale(loss) if self.scaler else loss).backward()
            if not keep:
                del output["model_output"]
            outputs.append(output)
        return postprocess_batch_func(output_lst=outputs, indices=places, data=data)


def _scattered(values: torch.Tensor, packed: Packed, micro_batch: TensorDict) -> torch.Tensor:
    """Returns a value for each token of each sample (nested), 0 except before learned tokens."""
    ids = micro_batch["input_ids"]
    everywhere = values.new_zeros(ids.values().shape[0]).index_put((packed.before,), values)
    return torch.nested.nested_tensor_from_jagged(everywhere, ids.offsets())


@EngineRegistry.register(model_type="language_model", backend=["fsdp", "fsdp2"], vendor="nvidia")
class Actor(SharedPrompts, FSDPEngineWithLMHead):
    """Gives log-probabilities and entropy of learned tokens."""

    def _build_module(self) -> torch.nn.Module:
        module = super()._build_module()
        if self._shares:
            head = module.lm_head  # called as a module, since FSDP may have its weight in parts until then
            logits = head.forward

            def forward(hidden: torch.Tensor, *terms: Any) -> Any:
                # for 512 tokens at a time, so that no logits of a whole batch exist
                return FusedLinearForPPO()(hidden, head.weight, *terms) if terms else logits(hidden)

            head.forward = forward
        return module

    def _extra(self, packed: Packed, ids: torch.Tensor, micro_batch: TensorDict) -> dict[str, Any]:
        return {"targets": ids[packed.before + 1], "temperature": micro_batch["temperature"]}

    def predict(
        self, module: torch.nn.Module, packed: Packed, inputs: Mapping[str, Any]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns log-probabilities and entropies."""
        hidden = self._hidden(module, packed, inputs["input_ids"])
        return module.lm_head(hidden, inputs["targets"], inputs["temperature"])

    def prepare_model_outputs(
        self, output: Any, output_args: dict[str, Any], micro_batch: TensorDict, logits_processor_func: Any
    ) -> dict[str, torch.Tensor]:
        if "packed" not in output_args:
            return super().prepare_model_outputs(output, output_args, micro_batch, logits_processor_func)
        found = dict(zip(("log_probs", "entropy"), output, strict=True))
        if not tu.get_non_tensor_data(data=micro_batch, key="calculate_entropy", default=False):
            del found["entropy"]
        return {name: _scattered(values, output_args["packed"], micro_batch) for name, values in found.items()}

    @torch.no_grad()
    def _merged_lora_per_tensor_param(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yields each weight with the adapter added, as the rollouts' engine takes it, and changes none in the model.

        verl changes them and meanwhile keeps all weights in the machine's memory, which takes 30 s for 7 billion.
        """
        adapted = {
            f"{name}.base_layer.weight": layer
            for name, layer in self.module.named_modules()
            if isinstance(layer, LoraLayer)
        }
        on_gpu = fsdp_version(self.module) == 2 and not self._uses_fsdp2_cpu_offload_policy
        if not on_gpu or not all(map(_changes_weight, adapted.values())):
            yield from super()._merged_lora_per_tensor_param()
            return
        try:
            weights, adapted = map(self._served, (self.module.state_dict(), adapted))
            for name, weight in weights.items():
                if not isinstance(weight, DTensor):
                    yield name, weight.clone()
                    continue
                if layer := adapted.get(name):
                    for adapter in layer.active_adapters:
                        variant = layer.lora_variant.get(adapter)  # DoRA and others, which verl merges wrongly
                        if variant:
                            weight = variant.merge_safe(layer, adapter, weight)
                        else:
                            weight = weight + layer.get_delta_weight(adapter)
                yield name, weight.to(torch.bfloat16).full_tensor()
        finally:
            if self._is_offload_param:
                offload_fsdp_model_to_cpu(self.module)

    def _served(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the same by the names that the weights have without an adapter."""
        return convert_weight_keys(normalize_peft_param_name(dict(found)), self.module)


def _changes_weight(layer: LoraLayer) -> bool:
    """Returns whether the layer's adapter changes its weight and nothing else."""
    return isinstance(layer, Linear) and not any(layer.lora_bias.values())


@EngineRegistry.register(model_type="value_model", backend=["fsdp", "fsdp2"], vendor="nvidia")
class Critic(SharedPrompts, FSDPEngineWithValueHead):
    """Gives the value of the state before each learned token."""

    def _build_module(self) -> torch.nn.Module:
        # verl's own way to load a critic needs flash-attn; by its architecture it gets the attention that was chosen
        config = self.model_config.hf_config
        config.num_labels, config.classifier_dropout = 1, 0.0
        config.architectures = [config.architectures[0].replace("ForCausalLM", "ForTokenClassification")]
        kind, self.model_config.model_type = self.model_config.model_type, "language_model"
        try:
            return super()._build_module()
        finally:
            self.model_config.model_type = kind

    def predict(self, module: torch.nn.Module, packed: Packed, inputs: Mapping[str, Any]) -> torch.Tensor:
        """Returns values."""
        return module.score(self._hidden(module, packed, inputs["input_ids"]))[:, 0].float()

    def prepare_model_outputs(
        self, output: Any, output_args: dict[str, Any], micro_batch: TensorDict, logits_processor_func: Any
    ) -> dict[str, torch.Tensor]:
        if "packed" not in output_args:
            return super().prepare_model_outputs(output, output_args, micro_batch, logits_processor_func)
        return {"values": _scattered(output, output_args["packed"], micro_batch)}
