"""The card of a model lies beside its weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from common import model_card
from search_agent import prompts
from search_agent.agents import AGENTS
from search_agent.types import UNTAUGHT, ModelCard

ROOT = Path(__file__).parents[3]
ADAPTERS = ROOT / "data/demo/adapters"
CARD = ModelCard("s3", {"max_turns": 1}, "abc", "def", ("nq/train 0-1",), {"gen_acc": 0.5})


def test_a_card_is_read_beside_a_folder_and_beside_a_file(tmp_path: Path) -> None:
    model_card.write(tmp_path, CARD)
    (tmp_path / "model.gguf").touch()
    assert model_card.read(tmp_path) == model_card.read(tmp_path / "model.gguf") == CARD


@pytest.mark.parametrize("text", ["", "{", "[]", '{"method": 7}', '{"parameters": []}', '{"figures": {"a": "b"}}'])
def test_a_damaged_card_says_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / model_card.FILE).write_text(text)
    assert model_card.read(tmp_path) == UNTAUGHT


def test_without_a_card_nothing_is_known_and_what_a_newer_version_adds_is_ignored(tmp_path: Path) -> None:
    assert model_card.read(tmp_path) == UNTAUGHT
    (tmp_path / model_card.FILE).write_text(json.dumps({"method": "s3", "colour": "red"}))
    assert model_card.read(tmp_path) == ModelCard("s3")


def test_the_base_is_named_by_its_weights_or_by_the_file_they_were_unpacked_from(tmp_path: Path) -> None:
    assert model_card.base_of(Path("Qwen/Qwen2.5-7B-Instruct")) == ""
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    first = model_card.base_of(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"other weights")
    assert len(first) == 12
    assert model_card.base_of(tmp_path) != first
    model_card.write(tmp_path, ModelCard(base_model="of the GGUF"))
    assert model_card.base_of(tmp_path) == "of the GGUF"


def test_an_adapter_has_learned_what_the_one_it_began_from_had(tmp_path: Path) -> None:
    model_card.write(tmp_path, ModelCard(data=("reading 0-0.6",)))
    trained = model_card.trained(CARD, tmp_path, tmp_path, {"steps": 3})
    assert (trained.data, trained.figures) == (("reading 0-0.6", "nq/train 0-1"), {"steps": 3})
    assert (trained.method, trained.parameters) == (CARD.method, CARD.parameters)


def test_a_merged_model_was_taught_what_its_adapter_was_and_has_learned_the_data_of_both(tmp_path: Path) -> None:
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    for folder in (base, adapter):
        folder.mkdir()
    model_card.write(base, ModelCard("search_r1", {"max_turns": 2}, data=("reading 0-0.6",)))
    assert model_card.merged(base, adapter) == model_card.read(base)
    model_card.write(adapter, CARD)
    expected = ModelCard("s3", {"max_turns": 1}, "abc", "", ("reading 0-0.6", "nq/train 0-1"), {"gen_acc": 0.5})
    assert model_card.merged(base, adapter) == expected


def test_the_demos_searcher_is_asked_with_the_prompt_that_it_was_taught() -> None:
    searcher, reader = model_card.read(ADAPTERS / "searcher"), model_card.read(ADAPTERS / "reader")
    assert searcher.prompt_version == prompts.version(searcher.method)
    assert AGENTS[searcher.method].as_taught(searcher).params.max_turns == searcher.parameters["max_turns"]
    assert searcher.base_model == reader.base_model != ""
    assert reader.method == ""
