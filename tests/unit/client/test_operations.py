"""The client's requests and values are those of the gateway's contract."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_origin, get_type_hints
from urllib.parse import unquote

import pytest

from common.indexes import Removal
from search_agent_client import api, operations
from search_agent_client.requests import Request, Stream
from tests.unit.gateway.rest import Rest

CONTRACT = Rest().app.openapi()
CALLS: dict[str, Request[Any] | Stream[Any]] = {
    "search": operations.search("q", "s3", 3, top_k=2),
    "answer": operations.answer("q", "s3", 3, {"A": "a"}, "Be brief.", top_k=2),
    "stream_answer": operations.stream_answer("q", "s3", 3, {"A": "a"}, "Be brief.", top_k=2),
    "retrieve": operations.retrieve(["q"], 3, "demo", "bm25", 2, {"year": {"gte": 1990}}),
    "methods": operations.methods(),
    "indexes": operations.indexes(),
    "index": operations.index("{name}"),
    "create_index": operations.create_index("mine", "", "flat", "bm25s", "me", "CC0"),
    "delete_index": operations.delete_index("{name}"),
    "change_passages": operations.change_passages("{name}", [Removal("a")], 1),
    "index_change": operations.index_change("{name}", 1, 1),
    "rollback_index": operations.rollback_index("{name}", "v1"),
    "cache": operations.cache(),
    "clear_cache": operations.clear_cache("demo", "v1"),
    "runs": operations.runs(),
    "run": operations.run("{id}"),
    "start_run": operations.start_run("c", {"seed": 1}),
    "cancel_run": operations.cancel_run("{id}"),
    "resume_run": operations.resume_run("{id}"),
    "watch_run": operations.watch_run("{id}"),
    "promote": operations.promote("{id}", 3, "s"),
    "rollback": operations.rollback("s"),
    "keys": operations.keys(),
    "create_key": operations.create_key("web", ["ask"], ["demo"], 3, {"tokens_per_day": 9}),
    "revoke_key": operations.revoke_key("{id}"),
    "readiness": operations.readiness(),
}
EVENTS = {
    ("stream_answer", "turn"): "TurnOut",
    ("stream_answer", "done"): "AnswerResponse",
    ("watch_run", "run"): "RunOut",
    ("promote", "done"): "PromotionOut",
}


def test_every_method_of_the_clients_is_checked() -> None:
    assert {name for name, value in vars(api.Api).items() if isinstance(value, api.Call | api.Events)} == set(CALLS)


def route(call: Request[Any] | Stream[Any]) -> Mapping[str, Any]:
    path = unquote(call.sent.path).replace("changes/1", "changes/{id}")
    found: Mapping[str, Any] = CONTRACT["paths"][path][call.sent.method.lower()]
    return found


def properties(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    if "$ref" in schema:
        schema = CONTRACT["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    found: Mapping[str, Any] = schema.get("properties", {})
    return found


@pytest.mark.parametrize("name", CALLS)
def test_a_request_has_the_fields_of_its_route(name: str) -> None:
    sent, about = CALLS[name].sent, route(CALLS[name])
    if sent.given:
        assert sent.given.keys() <= properties(about["requestBody"]["content"]["application/json"]["schema"]).keys()
    assert sent.query.keys() <= {each["name"] for each in about.get("parameters", ())}


def differences(kind: Any, schema: Mapping[str, Any], at: str) -> list[str]:
    """Returns where a value's fields are not those of a schema. A schema may tell what the value works out."""
    if get_origin(kind) is tuple:
        return differences(get_args(kind)[0], schema.get("items", {}), f"{at}[]")
    if get_origin(kind) is types.UnionType:
        return differences(get_args(kind)[0], schema, at)
    if not is_dataclass(kind):
        return []
    told, hints, found = properties(schema), get_type_hints(kind), []
    known = {each.metadata.get("json", each.name): each.name for each in fields(kind)}
    found += [f"{at}.{name} is not read" for name in told if name not in known and not hasattr(kind, name)]
    for name, field in known.items():
        if name in told:
            found += differences(hints[field], told[name], f"{at}.{name}")
        else:
            found.append(f"{at}.{name} is not told")
    return found


# A rollback has neither run nor gate, and /readyz declares no schema.
UNTOLD = {"rollback": {"the answer.run", "the answer.checkpoint", "the answer.gate"}}
ANSWERS = [name for name, call in CALLS.items() if isinstance(call, Request) and name != "readiness"]


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_has_the_fields_of_its_value(name: str) -> None:
    call = CALLS[name]
    assert isinstance(call, Request)
    responses = route(call)["responses"]
    schema = (responses.get("200") or responses["201"])["content"]["application/json"]["schema"]
    untold = {f"{field} is not told" for field in UNTOLD.get(name, ())}
    assert set(differences(call.kind, schema, "the answer")) == untold


@pytest.mark.parametrize(("name", "event"), EVENTS)
def test_an_event_has_the_fields_of_its_value(name: str, event: str) -> None:
    call = CALLS[name]
    assert isinstance(call, Stream)
    assert differences(call.kinds[event], {"$ref": EVENTS[name, event]}, event) == []
