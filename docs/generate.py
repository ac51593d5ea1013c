"""Writes the tables of the documents that come from code: `python -m docs.generate`, with `--check` to compare only.

A document holds `<!-- generated: NAME -->` … `<!-- end -->`; what stands between the two is replaced.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from prometheus_client.metrics import MetricWrapperBase

from bench import cost_table, growth, scoreboard
from common import metrics
from common.run_config import RunConfig
from common.settings import TracingSettings
from deploy import generated
from search_agent.agents import AGENTS
from search_agent_client.api import Api, Call, Events
from services.gateway.app import create_app
from services.gateway.problems import STATUSES
from services.gateway.routes.openai.chat import ChatRequest
from services.gateway.routes.openai.responses import ResponsesRequest
from services.gateway.settings import GatewaySettings
from services.generator.settings import GeneratorSettings
from services.retriever.bm25 import BACKENDS
from services.retriever.kinds import KINDS
from services.retriever.published import PUBLISHED
from services.retriever.settings import RetrieverSettings
from services.trainer.settings import TrainerSettings

ROOT = Path(__file__).parents[1]
DOCUMENTS = ("README.md", "docs/*.md", "bench/README.md")
_BLOCK = re.compile(r"(<!-- generated: (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)
_SETTINGS = {
    "retriever": RetrieverSettings,
    "generator": GeneratorSettings,
    "gateway": GatewaySettings,
    "trainer": TrainerSettings,
    "tracing": TracingSettings,
}

_OPENAI = (ChatRequest, ResponsesRequest)

Schema = Mapping[str, Any]


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A Markdown table."""
    lines = [tuple(head), *(tuple(map(_cell, row)) for row in rows)]
    lines.insert(1, ("---",) * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: object) -> str:
    return str(value).replace("|", r"\|").replace("\n", " ")


def fields(schema: Schema, definitions: Mapping[str, Schema], prefix: str = "") -> list[tuple[str, str, str, str]]:
    """A row (name, type, default, meaning) for each property of a JSON Schema; nested objects give dotted names."""
    rows = []
    for name, entry in schema.get("properties", {}).items():
        nested = _object_in(entry, definitions)
        if nested:
            rows += fields(nested, definitions, f"{prefix}{name}.")
            continue
        required = name in schema.get("required", ())
        default = "required" if required else _default(entry)
        rows.append((f"`{prefix}{name}`", _type(entry, definitions), default, entry.get("description", "")))
        if listed := _object_in(entry.get("items", {}), definitions):
            rows += fields(listed, definitions, f"{prefix}{name}[].")
        if "by" in entry and (staged := _object_in(entry["additionalProperties"], definitions)):
            rows += fields(staged, definitions, f"{prefix}{name}.STEP.")
    return rows


def _object_in(entry: Schema, definitions: Mapping[str, Schema]) -> Schema | None:
    """The schema of the object that `entry` holds or may hold, where that has named properties."""
    for each in (entry, *entry.get("anyOf", ())):
        found = definitions.get(each.get("$ref", "").rpartition("/")[2], each)
        if "properties" in found:
            return found
    return None


def _type(entry: Schema, definitions: Mapping[str, Schema]) -> str:
    if choices := [each for each in entry.get("anyOf", ()) if each.get("type") != "null"]:
        return " or ".join(dict.fromkeys(_type(each, definitions) for each in choices))
    if reference := entry.get("$ref"):
        return _type(definitions[reference.rpartition("/")[2]], definitions)
    if "enum" in entry:
        return ", ".join(f"`{value}`" for value in entry["enum"])
    if "const" in entry:
        return f"`{entry['const']}`"
    if entry.get("type") == "array":
        items = entry.get("items") or next(iter(entry.get("prefixItems", ())), {})
        return f"list of {_type(items, definitions)}{_bounds(entry, 'minItems', 'maxItems')}"
    if by := entry.get("by"):
        return f"{_type(entry['additionalProperties'], definitions)}, by {by}"
    low = "minimum" if "minimum" in entry else "exclusiveMinimum"
    high = "maximum" if "maximum" in entry else "exclusiveMaximum"
    longest = f", up to {entry['maxLength']:,} characters" if "maxLength" in entry else ""
    return entry.get("type", "any") + _bounds(entry, low, high) + longest


def _bounds(entry: Schema, lowest: str, highest: str) -> str:
    low, high = (entry.get(name) for name in (lowest, highest))
    if low is None and high is None:
        return ""
    if high is None:
        return f", {'above' if lowest.startswith('exclusive') else 'from'} {low:g}"
    if low is None:
        return f", {'below' if highest.startswith('exclusive') else 'up to'} {high:g}"
    return f", {low:g} to {high:g}"


def _default(entry: Schema) -> str:
    value = entry.get("default")
    if value is None or value in ("", {}, []):
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _openapi() -> dict[str, Any]:
    nothing: Any = None  # the schema needs no backend
    return create_app(nothing, nothing).openapi()


def routes() -> str:
    """Every route with its request body, response and purpose, by tag."""
    found: dict[str, list[tuple[str, ...]]] = {}
    for path, operations in _openapi()["paths"].items():
        for verb, operation in operations.items():
            body = operation.get("requestBody", {})
            success = next(answer for code, answer in operation["responses"].items() if code.startswith("2"))
            purpose = " ".join(operation.get("description", operation["summary"]).split())
            row = (f"`{verb.upper()} {path}`", _named(body), _named(success), purpose)
            found.setdefault(operation["tags"][0], []).append(row)
    tags = sorted(found, key=lambda tag: tag in ("training", "operation"))  # the questions come first
    return table(("route", "body", "response", "purpose"), (row for tag in tags for row in found[tag]))


def _named(message: Schema) -> str:
    schema = message.get("content", {}).get("application/json", {}).get("schema", {})
    name = schema.get("$ref", "").rpartition("/")[2]
    if not name and schema.get("type") == "array":
        items = schema["items"]
        name = f"list of {items.get('$ref', '').rpartition('/')[2] or items.get('title')}"
    return name


def body(name: str) -> str:
    """The fields of a request or response."""
    schemas = _openapi()["components"]["schemas"]
    return table(("field", "type", "default", "meaning"), fields(schemas[name], schemas))


def openai(name: str) -> str:
    """The fields that a request may have besides, and those that it may not."""
    request = next(each for each in _OPENAI if each.__name__ == name)

    def listed(names: Iterable[str]) -> str:
        return ", ".join(f"`{field}`" for field in sorted(names))

    return (
        f"These fields are taken and have no effect: {listed(request.without_effect)}.\n\n"
        f"These are refused unless they ask for nothing: {listed(request.refused)}. Any other field is refused."
    )


def errors() -> str:
    """Every status of an error."""
    return table(("status", "when"), ((int(status), when) for status, when in STATUSES.items()))


def client() -> str:
    """Every method of the Python client."""
    rows = []
    for name, method in vars(Api).items():
        if isinstance(method, Call | Events):
            found = inspect.signature(method.operation)
            takes = ", ".join(str(each).partition(":")[0] for each in found.parameters.values())
            gives = (
                str(found.return_annotation)
                .partition("[")[2][:-1]
                .removesuffix(", ...]")
                .replace("tuple[", "tuple of ")
            )
            purpose = " ".join(str(method.__doc__).split())
            rows.append((f"`{name}({takes})`", f"{'yields ' * isinstance(method, Events)}{gives}", purpose))
    return table(("method", "result", "purpose"), rows)


def methods() -> str:
    """Every method."""
    return table(("method", "purpose"), ((f"`{agent.name}`", agent.summary) for agent in AGENTS.values()))


def parameters() -> str:
    """Every parameter of every method: those that several share first, with the methods that have it."""
    found: dict[tuple[str, str, str], dict[str, list[str]]] = {}
    for agent in AGENTS.values():
        for name, kind, default, meaning in fields(agent.schema(), {}):
            found.setdefault((name, kind, meaning), {}).setdefault(default or "empty", []).append(agent.name)
    shared = sorted(found.items(), key=lambda item: -sum(map(len, item[1].values())))
    rows = []
    for (name, kind, meaning), by_default in shared:
        common = max(by_default, key=lambda default: len(by_default[default]))
        others = [f"{default} ({', '.join(names)})" for default, names in by_default.items() if default != common]
        has = [name for names in by_default.values() for name in names]
        rows.append((name, kind, "; ".join([common, *others]), meaning, ", ".join(has)))
    return table(("parameter", "type", "default", "meaning", "methods"), rows)


def settings(service: str) -> str:
    """A service's settings by their environment variables."""
    model = _SETTINGS[service]
    schema = model.model_json_schema()
    prefix = str(model.model_config.get("env_prefix", ""))
    rows = []
    for name, kind, default, meaning in fields(schema, schema.get("$defs", {})):
        variable = prefix + name.strip("`").upper()
        is_secret = "password" in str(schema["properties"].get(name.strip("`")))
        rows.append((f"`{variable}`" + (f" or `{variable}_FILE`" if is_secret else ""), kind, default, meaning))
    return table(("variable", "type", "default", "meaning"), rows)


def run() -> str:
    """The fields of a training run's configuration."""
    schema = RunConfig.model_json_schema()
    return table(("field", "type", "default", "meaning"), fields(schema, schema["$defs"]))


def metric_names() -> str:
    """Every metric that the services expose."""
    every = [value for value in vars(metrics).values() if isinstance(value, MetricWrapperBase)]
    rows = []
    for metric in every:
        total = "_total" if metric._type == "counter" else ""
        labels = ", ".join(f"`{label}`" for label in metric._labelnames)
        rows.append((f"`{metric._name}{total}`", metric._type, labels, metric._documentation))
    return table(("metric", "type", "labels", "meaning"), rows)


def goals() -> str:
    """The benchmarks' goals beside the recorded figures."""
    return table(scoreboard.HEAD, scoreboard.rows())


def headline() -> str:
    """The README's table of results."""
    head = ("questions that no model was trained on", "method", "passages read", "right answers, %")
    return table((*head, "gain over naive RAG of equal size, points"), scoreboard.headline())


def cost(name: str) -> str:
    """A table of what questions cost."""
    return table(*cost_table.TABLES[name]())


def grown(name: str) -> str:
    """A table of how time or memory grows."""
    return table(*growth.TABLES[name]())


def kinds() -> str:
    """Every index kind."""
    rows = (
        (f"`{kind.name}`", kind.about, *("yes" if able else "no" for able in (kind.exact, kind.gpus)))
        for kind in KINDS.values()
    )
    return table(("kind", "search and memory", "can be converted", "can be held by GPUs"), rows)


def bm25() -> str:
    """Every BM25 backend."""
    return table(("`--bm25`", "text"), ((f"`{each.name or 'none'}`", each.about) for each in BACKENDS.values()))


def published() -> str:
    """Every published index and corpus."""
    rows = (
        (f"`{name}`", each.source, each.licence, f"index of `{each.encoder}`" if each.index else "corpus")
        for name, each in PUBLISHED.items()
    )
    return table(("name", "source", "licence", "contents"), rows)


BLOCKS: dict[str, Callable[..., str]] = {
    "routes": routes,
    "body": body,
    "openai": openai,
    "errors": errors,
    "client": client,
    "methods": methods,
    "parameters": parameters,
    "settings": settings,
    "run": run,
    "metrics": metric_names,
    "kinds": kinds,
    "bm25": bm25,
    "published": published,
    "goals": goals,
    "headline": headline,
    "cost": cost,
    "growth": grown,
}


def filled(text: str) -> str:
    """The document with every generated block written anew."""

    def block(match: re.Match[str]) -> str:
        name, *arguments = match[2].split()
        return f"{match[1]}{BLOCKS[name](*arguments)}\n{match[3]}"

    return _BLOCK.sub(block, text)


if __name__ == "__main__":
    documents = (path for pattern in DOCUMENTS for path in sorted(ROOT.glob(pattern)))
    sys.exit(generated.main(((path, filled(path.read_text(encoding="utf-8"))) for path in documents), "make docs"))
