"""Addresses as people write them."""

import socket

import pytest
from pydantic import TypeAdapter, ValidationError

from common import addresses
from common.settings import ModelTarget, load
from services.generator.settings import GeneratorSettings
from services.trainer.settings import TrainerSettings


def test_a_free_port_is_one_that_no_connection_gets() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", addresses.free_port()))
        assert 20_000 <= server.getsockname()[1] < 32_768


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [("retriever:50051", "retriever", 50051), ("[::1]:1", "::1", 1), ("10.0.0.7:65535", "10.0.0.7", 65535)],
)
def test_an_address_is_split_and_joined_again(address: str, host: str, port: int) -> None:
    assert addresses.split(address) == (host, port)
    assert addresses.join(host, port) == address


@pytest.mark.parametrize(
    "address",
    ["", "retriever", ":50051", "::1:50051", "[retriever]:1", "[::1]", "host:port", "host:99999", "http://host:1"],
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match=r"HOST:PORT|does not appear"):
        addresses.split(address)


@pytest.mark.parametrize(
    ("target", "address", "name"),
    [
        ("generator:50053/reader", "generator:50053", "reader"),
        ("[::1]:1/base", "[::1]:1", "base"),
        ("generator:50053", "generator:50053", ""),
        ("dns:///generator:50053/reader", "dns:///generator:50053", "reader"),
        ("dns:///generator:50053", "dns:///generator:50053", ""),
        ("dns://8.8.8.8:53/generator:50053", "dns://8.8.8.8:53/generator:50053", ""),
        ("dns://8.8.8.8:53/generator:50053/reader", "dns://8.8.8.8:53/generator:50053", "reader"),
        ("unix:/run/generator.sock", "unix:/run/generator.sock", ""),
        ("gpu0:50052,gpu1:50052/searcher", "gpu0:50052,gpu1:50052", "searcher"),
        ("gpu0:50052,[::1]:50052", "gpu0:50052,[::1]:50052", ""),
        ("ipv4:10.0.0.1:5,10.0.0.2:5/searcher", "ipv4:10.0.0.1:5,10.0.0.2:5", "searcher"),
    ],
)
def test_an_address_may_name_a_model(target: str, address: str, name: str) -> None:
    assert addresses.model_at(target) == (address, name)
    assert TypeAdapter(ModelTarget).validate_python(target) == target


def test_several_addresses_are_told_apart() -> None:
    assert addresses.several("gpu0:1, [::1]:2") == ["gpu0:1", "[::1]:2"]
    assert addresses.several("gpu0:1") == ["gpu0:1"]
    assert addresses.several("ipv4:10.0.0.1:5,10.0.0.2:5") == ["ipv4:10.0.0.1:5,10.0.0.2:5"]  # gRPC's own list
    assert TypeAdapter(ModelTarget).validate_python("gpu0:1, gpu1:1/reader") == "gpu0:1,gpu1:1/reader"


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("gpu0:1,gpu1/reader", "'gpu1/reader' in HOST:PORT,HOST:PORT/NAME: must be HOST:PORT"),
        ("gpu0:1/reader,gpu1:1/reader", "'gpu0:1/reader' in HOST:PORT,HOST:PORT/NAME"),
        ("gpu0:1,dns:///gpu1:1", "'dns:///gpu1:1' in"),
        ("gpu0:1,", "'' in"),
        ("gpu0:1,,gpu1:1", "'' in"),
        ("gpu0:1,gpu1:1,gpu0:1/reader", "gpu0:1 is there twice"),
        ("gpu0:1,gpu1:1/", "must be HOST:PORT"),
    ],
)
def test_what_is_wrong_among_several_addresses_is_named(target: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(ModelTarget).validate_python(target)


@pytest.mark.parametrize("target", ["generator:50053/", "generator:50053/a b", "generator/reader", "generator:1/a/b"])
def test_what_names_no_model_is_refused(target: str) -> None:
    with pytest.raises(ValidationError, match="must be HOST:PORT"):
        TypeAdapter(ModelTarget).validate_python(target)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.9.1", "::1", "[::1]", "retriever", "10.1.2.3",
                                  "fd00::1", "fe80::1%eth0", "redis.prod.svc", "GATEWAY.", "169.254.1.1"])  # fmt: skip
def test_these_hosts_need_no_proxy(host: str) -> None:
    assert addresses.is_near(host)


@pytest.mark.parametrize("host", ["api.example.org", "8.8.8.8", "2606:4700::1111", "localhost.example.org"])
def test_these_hosts_may_need_one(host: str) -> None:
    assert not addresses.is_near(host)


def test_settings_take_every_form_and_name_the_variable(capsys: pytest.CaptureFixture[str]) -> None:
    assert load(GeneratorSettings, ["--host", "[::1]"]).host == "::1"
    runs = ["--runs", "runs"]
    assert load(TrainerSettings, [*runs, "--searcher", "[::1]:5"]).searcher == "[::1]:5"
    assert load(TrainerSettings, [*runs, "--searcher", "dns:///searcher:5"]).searcher == "dns:///searcher:5"
    with pytest.raises(SystemExit):
        load(TrainerSettings, [*runs, "--searcher", "http://searcher:5"])
    assert "TRAINER_SEARCHER: " in capsys.readouterr().err
