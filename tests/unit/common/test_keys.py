"""API keys and their stores."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cli.main import main
from common.keys import FileKeys, Limits, Scope, id_of, make
from search_agent.errors import Failure, KeysError

NOW = datetime.now(UTC)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def read(file: Path) -> str:
    return file.read_text(encoding="utf-8")


def write(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")


def test_only_the_whole_secret_opens_a_key_and_only_until_it_expires() -> None:
    key, secret = make("web", [Scope.ASK], lifetime=timedelta(hours=1))
    other, _ = make("web", [Scope.ASK])
    assert id_of(secret) == key.id
    assert key.is_opened_by(secret, NOW)
    for wrong in (secret[:-1], secret + "x", secret.replace(key.id, other.id), key.digest, "", "\udcff"):
        assert not key.is_opened_by(wrong, NOW)
    assert not other.is_opened_by(secret, NOW)
    assert not key.is_opened_by(secret, NOW + timedelta(hours=2))


@pytest.mark.parametrize("secret", ["", "sa", "sa_", "sa_id", "sa_id_", "sk_id_x", "Bearer"])
def test_what_has_not_the_form_of_a_key_has_no_id(secret: str) -> None:
    assert id_of(secret) == ""


async def test_a_file_keeps_keys_and_no_secret(file: Path) -> None:
    key, secret = make("wéb", [Scope.ASK, Scope.EVALUATE], ["demo"], timedelta(days=1), Limits(tokens_per_day=5))
    store, another = FileKeys(file), FileKeys(file)
    assert await another.all() == []
    await store.add(key)
    assert await store.get(key.id) == await another.get(key.id) == key
    assert secret not in read(file)
    assert secret.removeprefix(f"sa_{key.id}_") not in read(file)
    assert await another.remove(key.id)
    assert not await another.remove(key.id)
    assert await store.get(key.id) is None


async def test_one_damaged_record_hides_no_other_key(file: Path) -> None:
    store = FileKeys(file)
    first, second = make("first", [Scope.ASK])[0], make("second", [Scope.ASK])[0]
    await store.add(first)
    await store.add(second)
    records = json.loads(read(file))
    records[first.id]["scopes"] = ["everything"]
    write(file, json.dumps(records))
    assert await store.all() == [second]


@pytest.mark.parametrize("text", ["mine", "[]", '{"a": '])
async def test_a_damaged_file_opens_nothing(file: Path, text: str) -> None:
    write(file, text)
    with pytest.raises(KeysError) as raised:
        await FileKeys(file).get("x")
    assert raised.value.failure is Failure.BROKEN
    with pytest.raises(KeysError):
        await FileKeys(file).add(make("a", [Scope.ASK])[0])
    assert read(file) == text


def test_the_command_line_makes_lists_and_revokes(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def typed(*words: str) -> str:
        assert main(["keys", *words, "--store", str(file)]) == 0
        return capsys.readouterr().out.strip()

    assert typed("list") == "there are no keys"
    secret = typed("create", "web", "--scope", "ask", "--index", "demo", "--days", "2", "--tokens-per-day", "900")
    listed = typed("list")
    assert id_of(secret) in listed
    assert secret not in listed
    for part in ("web", "ask", "indexes: demo", "expires", "900 tokens a day"):
        assert part in listed
    typed("revoke", id_of(secret))
    assert typed("list") == "there are no keys"
