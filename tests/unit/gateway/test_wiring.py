"""From settings to an application; nothing listens at the backends' addresses."""

import httpx
import pytest

from common.settings import load
from services.gateway.settings import GatewaySettings
from services.gateway.wiring import wire

NOBODY = "127.0.0.1:9"


def settings(**more: object) -> GatewaySettings:
    return GatewaySettings(retriever=NOBODY, searcher=NOBODY, generator=NOBODY, **more)  # type: ignore[arg-type]


async def test_each_address_is_one_model() -> None:
    own = {"search_r1": f"{NOBODY}/base", "ircot": NOBODY, "search_o1": f"{NOBODY}/base"}
    app = wire(settings(searchers=own, generators={"cot": f"{NOBODY}/base"}))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as http,
    ):
        states = (await http.get("/readyz")).json()["backends"]
    models = {"searcher", "searcher:search_r1,search_o1", "generator", "generator:cot"}
    assert {name for name in states if name.startswith(("searcher", "generator"))} == models


async def test_each_service_of_a_model_is_checked() -> None:
    app = wire(settings(searchers={"ircot": f"{NOBODY},127.0.0.1:10/base"}))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as http,
    ):
        states = (await http.get("/readyz")).json()["backends"]
    assert [name for name in states if name.startswith("searcher")] == [
        "searcher", "searcher:ircot", "searcher:ircot#1", "searcher:ircot#2"
    ]  # fmt: skip


def test_searchers_are_read_as_json() -> None:
    argv = ["--retriever", NOBODY, "--searcher", NOBODY, "--generator", NOBODY]
    assert load(GatewaySettings, [*argv, "--searchers", '{"search_r1": "there:1"}']).searchers == {
        "search_r1": "there:1"
    }


@pytest.mark.parametrize(("flags", "variable"), [(["--methods", '{"s3": {'], ""), ([], '{"s3": {')])
def test_broken_json_names_its_setting(
    flags: list[str], variable: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_METHODS", variable)
    with pytest.raises(SystemExit) as stopped:
        load(GatewaySettings, ["--retriever", NOBODY, "--searcher", NOBODY, "--generator", NOBODY, *flags])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "GATEWAY_METHODS: not valid JSON\n"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"searchers": {"magic": NOBODY}}, "GATEWAY_SEARCHERS: magic: no such method"),
        ({"generators": {"magic": NOBODY}}, "GATEWAY_GENERATORS: magic: no such method"),
        ({"methods": {"magic": {}}}, "GATEWAY_METHODS: magic: no such method"),
        ({"configurations": {"s3": {"method": "s3"}}}, "GATEWAY_CONFIGURATIONS: s3: is a method"),
        ({"configurations": {"quick": {"method": "magic"}}}, "GATEWAY_CONFIGURATIONS: quick.method: must be one of"),
        (
            {"configurations": {"quick": {"method": "s3", "parameters": {"max_turns": 0}}}},
            "GATEWAY_CONFIGURATIONS: quick.parameters.max_turns: must be between",
        ),
        ({"redis_url": "redis-host:6379"}, "GATEWAY_REDIS_URL: not a Redis URL"),
        ({"host": "0.0.0.0"}, "GATEWAY_KEYS: other machines reach the gateway"),
        ({"host": "::"}, "GATEWAY_OPEN_TO_ALL"),
        ({"published": "8080"}, "GATEWAY_KEYS"),
        ({"published": "0.0.0.0:8080"}, "GATEWAY_KEYS"),
        ({"published": "192.168.1.2:8080"}, "GATEWAY_KEYS"),
        ({"methods": {"search_r1": {"answerer": "me"}}}, "GATEWAY_METHODS: search_r1.answerer: must be one of"),
    ],
)
async def test_what_there_is_not_stops_the_start(
    more: dict[str, object], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        wire(settings(**more))
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "more",
    [
        {"host": "::1"},
        {"host": "0.0.0.0", "published": "127.0.0.1:8080"},
        {"host": "0.0.0.0", "published": "[::1]:8080"},
        {"host": "0.0.0.0", "open_to_all": True},
        {"host": "0.0.0.0", "keys": "/nowhere/keys.json"},
    ],
)
async def test_a_gateway_starts_without_keys_only_where_this_machine_alone_reaches_it(more: dict[str, object]) -> None:
    app = wire(settings(**more))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as http,
    ):
        assert (await http.get("/v1/keys")).status_code == (401 if "keys" in more else 404)


@pytest.mark.parametrize(
    ("flag", "wrong"),
    [("--hosts", "https://ask.example.org"), ("--hosts", "ask.example.org:8080"), ("--hosts", "*"),
     ("--cors-origins", "app.example.org"), ("--cors-origins", "https://app.example.org/")],
)  # fmt: skip
def test_a_name_that_nothing_can_match_stops_the_start(
    flag: str, wrong: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        load(GatewaySettings, ["--retriever", NOBODY, "--searcher", NOBODY, "--generator", NOBODY, flag, wrong])
    told = capsys.readouterr().err
    assert told.startswith(f"GATEWAY_{flag[2:].replace('-', '_').upper()}")
    assert wrong in told


def test_the_redis_of_the_keys_has_one_place(capsys: pytest.CaptureFixture[str]) -> None:
    url = "redis://:secret@redis:6379/0"
    with pytest.raises(SystemExit):
        load(GatewaySettings, ["--retriever", NOBODY, "--searcher", NOBODY, "--generator", NOBODY, "--keys", url])
    told = capsys.readouterr().err
    assert told.startswith("GATEWAY_KEYS: must be a file, or `redis`")
    assert "secret" not in told


def test_names_are_read_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_HOSTS", "ask.example.org, *.Example.com.")
    argv = ["--retriever", NOBODY, "--searcher", NOBODY, "--generator", NOBODY, "--cors-origins", "https://a.example"]
    found = load(GatewaySettings, argv)
    assert (found.hosts, found.cors_origins) == (("ask.example.org", "*.example.com"), ("https://a.example",))


@pytest.mark.parametrize("left_out", ["url", "model"])
def test_a_shadow_needs_a_judge(left_out: str, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--retriever", NOBODY, "--searcher", NOBODY, "--generator", NOBODY, "--shadow-share", "0.1"]
    judge = {"url": "http://judge/v1", "model": "judge-1"}
    given = [word for name, value in judge.items() if name != left_out for word in (f"--shadow-judge-{name}", value)]
    with pytest.raises(SystemExit):
        load(GatewaySettings, [*argv, *given])
    assert capsys.readouterr().err.startswith(f"GATEWAY_SHADOW_JUDGE_{left_out.upper()}: required")


async def test_a_gateway_with_a_shadow_starts_and_stops() -> None:
    app = wire(settings(shadow_share=1, shadow_judge_url="http://judge/v1", shadow_judge_model="judge-1"))
    async with app.router.lifespan_context(app):
        pass
