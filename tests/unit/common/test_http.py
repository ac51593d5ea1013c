"""Which servers are asked through the environment's proxy."""

from __future__ import annotations

import gzip

import httpx
import pytest

from common import http


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("HTTP_PROXY", "http://name:secret@proxy.example.org:9")


def proxied(url: str) -> bool:
    with http.client(httpx.Client, url) as client:
        return client._transport_for_url(httpx.URL(url)) is not client._transport


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8080", "http://[::1]:8080", "http://gateway:8080", "http://10.0.0.1"]
)
def test_a_near_server_is_asked_directly(url: str) -> None:
    assert not proxied(url)
    assert http.through(url) == ""


def test_a_far_server_is_asked_as_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "http://gateway.example.org:8080"
    assert proxied(url)
    assert http.through(url) == " through the proxy proxy.example.org:9"
    monkeypatch.setenv("NO_PROXY", "example.org")
    assert not proxied(url)
    assert http.through(url) == ""


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:9", "gopher://127.0.0.1:9"])
def test_a_proxy_that_cannot_be_used_is_named_where_it_would_be(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.delenv("HTTP_PROXY")
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(httpx.ProxyError, match=f"through the proxy {proxy}"):
        http.client(httpx.Client, "http://gateway.example.org")
    assert not proxied("http://127.0.0.1:8080")


def test_a_caller_who_says_what_to_verify_is_heard() -> None:
    for url in ("https://127.0.0.1:8443", "https://gateway.example.org"):
        assert http.client(dict, url, verify=False)["verify"] is False


async def test_a_packed_answer_is_bounded_by_what_it_unpacks_to() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        text = b"x" * (1 << 20) if request.url.path == "/large" else b'{"a": 1}'
        return httpx.Response(200, headers={"content-encoding": "gzip"}, content=gzip.compress(text))

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://server") as client:
        assert (await http.fetch(client, "GET", "/", most_bytes=8)).json() == {"a": 1}
        with pytest.raises(http.TooLarge):
            await http.fetch(client, "GET", "/large", most_bytes=1 << 19)
