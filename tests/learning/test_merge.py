"""A base model and its adapter become one model folder."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from cli.main import main
from common import model_card
from search_agent.types import ModelCard
from services.generator.taught import card_of
from tests.full_disk import full_disk
from tests.learning.model import TEMPLATE, write_model

torch = pytest.importorskip("torch")
CARD = ModelCard("s3", {"max_turns": 2}, "prompt", data=("questions 0-1",), figures={"step": 7})


def tiny(**changed: Any) -> Any:
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2}
    return AutoModelForCausalLM.from_config(LlamaConfig(vocab_size=258, initializer_range=0.2, **shape | changed))


def write_adapter(folder: Path, model: Any, target: str | list[str] = "all-linear", **terms: Any) -> None:
    from peft import LoraConfig, get_peft_model

    lora = LoraConfig(r=4, target_modules=target, init_lora_weights=False, task_type="CAUSAL_LM", **terms)
    get_peft_model(model, lora).save_pretrained(folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Writes a base model in bfloat16, whose embedding is its head, and an adapter with a card."""
    write_model(tmp_path / "base")
    tiny(tie_word_embeddings=True).to(torch.bfloat16).save_pretrained(tmp_path / "base")
    write_adapter(tmp_path / "adapter", tiny())
    model_card.write(tmp_path / "adapter", CARD)
    return tmp_path


def merge(folder: Path, base: str = "base", adapter: str = "adapter", out: str = "out") -> int:
    return main(["merge", *(str(folder / each) for each in (base, adapter, out))])


def test_it_computes_what_the_adapter_on_the_base_computes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert merge(folder) == 0
    assert capsys.readouterr().out == f"{folder / 'out'}\n"
    merged = AutoModelForCausalLM.from_pretrained(folder / "out")
    assert {weight.dtype for weight in merged.parameters()} == {torch.bfloat16}

    base = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    ids = torch.arange(40)[None] * 7 % 258
    with torch.no_grad():
        plain = base(input_ids=ids).logits
        adapted = PeftModel.from_pretrained(base, folder / "adapter")
        expected = adapted(input_ids=ids).logits
        found = merged.float()(input_ids=ids).logits
    rough = 0.02 * expected.std()  # bfloat16 has 8 bits
    assert (found - expected).abs().mean() < rough < (plain - expected).abs().mean()
    for name, weight in adapted.merge_and_unload().state_dict().items():  # rounded once, from the float32 sum
        assert torch.equal(merged.state_dict()[name], weight.bfloat16().float()), name

    tokenizer = AutoTokenizer.from_pretrained(folder / "out")
    assert tokenizer.chat_template == TEMPLATE
    assert tokenizer.get_vocab() == AutoTokenizer.from_pretrained(folder / "base").get_vocab()
    assert sorted(path.name for path in folder.iterdir()) == ["adapter", "base", "out"]
    assert len({file.stat().st_mode for file in (folder / "out").iterdir()}) == 1


def test_a_service_asks_it_as_the_adapter_was_taught(folder: Path) -> None:
    assert merge(folder) == 0
    assert card_of(str(folder / "out"), "") == CARD
    assert model_card.base_of(folder / "out") != model_card.base_of(folder / "base")


def test_an_adapter_of_another_base_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model_card.write(folder / "adapter", ModelCard("s3", base_model="0123456789ab"))
    assert merge(folder) == 0
    assert "trained on the base model 0123456789ab" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"base": "missing"}, "MODEL: there is no folder "),
        ({"adapter": "missing"}, "ADAPTER: there is no folder "),
        ({"base": "adapter", "adapter": "base"}, "adapter has no config.json"),
        ({"adapter": "base"}, "base has no adapter_config.json"),
        ({"out": "base"}, "OUT: "),
        ({"adapter": "deeper"}, "which has no "),
        ({"adapter": "wider"}, "size mismatch"),
        ({"adapter": "head"}, "changes the embedding or the head"),
        ({"adapter": "torn"}, "ADAPTER: cannot be merged"),
        ({"adapter": "half"}, "half is incomplete: it has no base_model."),
        ({"adapter": "nan"}, "nan is damaged: base_model."),
        ({"adapter": "bare"}, "bare has no adapter_model.*"),
        ({"adapter": "odd"}, "ADAPTER: cannot be merged"),
        ({"adapter": "prompts"}, "ADAPTER: cannot be merged"),
        ({"base": "odd-base"}, "odd-base cannot be read: "),
        ({"base": "sampling"}, "sampling cannot be written again: "),
        ({"base": "torn-base"}, "MODEL: "),
        ({"out": "base/config.json/out"}, "Not a directory"),
    ],
)
def test_what_cannot_be_merged(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: dict[str, str], said: str
) -> None:
    from safetensors.torch import load_file, save_file

    write_adapter(folder / "deeper", tiny(num_hidden_layers=3))
    write_adapter(folder / "wider", tiny(hidden_size=128))
    write_adapter(folder / "head", tiny(), ["q_proj", "lm_head"])
    for torn, whole, weights in (("torn", "adapter", "adapter_model"), ("torn-base", "base", "model")):
        (folder / torn).mkdir()
        for file in (folder / whole).iterdir():
            (folder / torn / file.name).write_bytes(file.read_bytes())
        os.truncate(folder / torn / f"{weights}.safetensors", 1000)
    for changed, whole, file, values in (
        ("odd", "adapter", "adapter_config.json", {"r": "4"}),
        ("prompts", "adapter", "adapter_config.json", {"peft_type": "PROMPT_TUNING"}),
        ("half", "adapter", "adapter_config.json", {}),
        ("nan", "adapter", "adapter_config.json", {}),
        ("bare", "adapter", "adapter_config.json", {}),
        ("odd-base", "base", "config.json", {"num_hidden_layers": "2"}),
        ("sampling", "base", "generation_config.json", {"do_sample": False, "temperature": 0.5}),
    ):
        shutil.copytree(folder / whole, folder / changed)
        there = folder / changed / file
        there.write_text(json.dumps(json.loads(there.read_text()) | values))
    weights = load_file(folder / "half/adapter_model.safetensors")
    save_file({name: weights[name] for name in sorted(weights)[1:]}, folder / "half/adapter_model.safetensors")
    weights[sorted(weights)[0]][0, 0] = float("nan")
    save_file(weights, folder / "nan/adapter_model.safetensors")
    (folder / "bare/adapter_model.safetensors").unlink()
    before = sorted(folder.rglob("*"))
    assert merge(folder, **arguments) == 1
    assert said in capsys.readouterr().err.strip().split("\n")[-1]
    assert sorted(folder.rglob("*")) == before


def test_a_neighbour_with_a_drafts_name_stays(folder: Path) -> None:
    (folder / "base").rename(folder / "out.draft")
    assert merge(folder, base="out.draft") == 0
    assert sorted(path.name for path in folder.iterdir()) == ["adapter", "out", "out.draft"]


def test_several_chat_templates_travel(folder: Path) -> None:
    (folder / "base/additional_chat_templates").mkdir()
    (folder / "base/additional_chat_templates/tools.jinja").write_text("tools")
    assert merge(folder) == 0
    found = folder / "out/additional_chat_templates"
    assert (found / "tools.jinja").read_text() == "tools"
    assert found.stat().st_mode == (folder / "base/additional_chat_templates").stat().st_mode


def test_a_full_disk_leaves_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with full_disk(100_000):
        assert merge(folder) == 1
    assert "File too large" in capsys.readouterr().err
    assert sorted(path.name for path in folder.iterdir()) == ["adapter", "base"]


def test_what_peft_cannot_merge(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_adapter(folder / "adapter", tiny(), "all-linear", lora_bias=True)
    assert merge(folder) == 1
    assert "ADAPTER: cannot be merged into " in capsys.readouterr().err


def test_a_base_in_float32_stays_so(folder: Path) -> None:
    tiny().save_pretrained(folder / "base")
    assert merge(folder) == 0
    assert json.loads((folder / "out" / "config.json").read_text())["dtype"] == "float32"
