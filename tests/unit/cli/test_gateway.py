"""The key that commands send to the gateway."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.gateway import api_key
from common.problems import Problem


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SEARCH_AGENT_API_KEY", "SEARCH_AGENT_API_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)


def test_the_key_comes_from_the_environment_or_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert api_key() == ""
    monkeypatch.setenv("SEARCH_AGENT_API_KEY", "sa-1")
    assert api_key() == "sa-1"
    (tmp_path / "key").write_text("sa-2\n")
    monkeypatch.setenv("SEARCH_AGENT_API_KEY_FILE", str(tmp_path / "key"))
    with pytest.raises(Problem, match="both set"):
        api_key()
    monkeypatch.delenv("SEARCH_AGENT_API_KEY")
    assert api_key() == "sa-2"
