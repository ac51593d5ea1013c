"""The page's files: served with a strict policy, whole, small, and without another host."""

import re
from pathlib import Path

import pytest

from tests.unit.gateway.rest import Rest

STATIC = Path(__file__).parents[3] / "services/gateway/static"
OURS = sorted(path.name for path in STATIC.iterdir())


@pytest.mark.parametrize("path", ["/", "/docs"])
async def test_a_page_allows_only_scripts_and_styles_of_its_own(rest: Rest, path: str) -> None:
    response = await rest.http.get(path)
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(part.split(" ", 1) for part in response.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert response.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", ["/", "/docs"])
async def test_what_a_page_names_is_there_whatever_prefix_a_proxy_adds(rest: Rest, path: str) -> None:
    text = (await rest.http.get(path)).text
    named = re.findall(r'(?:src|href)="([^"#]+)', text)
    assert len(named) > 4
    for address in named:
        assert not address.startswith(("/", "http:", "https:"))
        assert (await rest.http.get(f"/{address.removeprefix('./')}")).status_code == 200


@pytest.mark.parametrize("name", [name for name in OURS if name.endswith(".js")])
def test_modules_import_ours_only_and_never_write_markup(name: str) -> None:
    text = (STATIC / name).read_text(encoding="utf-8")
    assert set(re.findall(r'from "\./([\w.]+)"', text)) <= set(OURS)
    assert re.findall(r'\bfrom "(?!\./)', text) == []
    assert (
        re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|https?://(?!www\.w3\.org)", text)
        == []
    )


async def test_a_file_comes_once_and_is_asked_for_again(rest: Rest) -> None:
    first = await rest.http.get("/static/app.js")
    assert first.headers["content-type"].startswith("text/javascript")
    assert first.headers["cache-control"] == "no-cache"
    again = await rest.http.get("/static/app.js", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("name", ["none.js", "..%2fapp.py", "..%2f..%2f..%2fpyproject.toml"])
async def test_no_other_file_is_served(rest: Rest, name: str) -> None:
    response = await rest.http.get(f"/static/{name}")
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"


async def test_the_pages_are_no_part_of_the_contract(rest: Rest) -> None:
    paths = (await rest.http.get("/openapi.json")).json()["paths"]
    assert not {"/", "/docs", "/static/{name}"} & paths.keys()
    assert "/v1/answer" in paths


def test_the_page_is_small() -> None:
    assert sum((STATIC / name).stat().st_size for name in OURS) < 100_000
