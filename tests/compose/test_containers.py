"""Containers reach only those that they need, and are held to limits."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from tests.compose.conftest import Stack, run

PORTS = {
    "gateway": [8080],
    "retriever": [50051, 9101],
    "generator": [50053, 9103],
    "trainer": [50054, 9104],
    "redis": [6379],
    "prometheus": [9090],
}
# From each service, the others that it can open: those it calls, and those that call it.
REACHED = {
    "gateway": {"retriever", "generator", "trainer", "redis", "prometheus"},
    "retriever": {"gateway", "trainer", "prometheus"},
    "generator": {"gateway", "trainer", "prometheus"},
    "trainer": {"gateway", "retriever", "generator", "prometheus"},
    "redis": {"gateway"},
    "prometheus": {"gateway", "retriever", "generator", "trainer"},
}
# Reads [[service, address, port], …] and writes the services that could be opened.
PROBE = """
import json, socket, sys
from concurrent.futures import ThreadPoolExecutor
def opens(target):
    try:
        socket.create_connection(target[1:], timeout=2).close()
        return True
    except OSError:
        return False
targets = json.load(sys.stdin)
with ThreadPoolExecutor(32) as pool:
    opened = [target[0] for target, is_open in zip(targets, pool.map(opens, targets)) if is_open]
print(json.dumps(opened))
"""


@pytest.fixture(scope="module")
def containers(stack: Stack) -> dict[str, dict[str, Any]]:
    return {service: stack.container(service) for service in PORTS}


@pytest.mark.parametrize("service", PORTS)
def test_a_container_opens_only_what_it_needs(service: str, containers: dict[str, dict[str, Any]]) -> None:
    """By address, because a name that does not resolve protects nothing."""
    targets = [
        (other, network["IPAddress"], port)
        for other, container in containers.items()
        if other != service
        for network in container["NetworkSettings"]["Networks"].values()
        for port in PORTS[other]
    ]
    # The image of one of our services has Python, and any container's network can be looked at from it.
    inside = ("docker", "run", "--rm", "-i", "--network", f"container:{containers[service]['Id']}")
    command = (*inside, "--entrypoint", "python3", "search-agent/gateway", "-c", PROBE)
    probe = subprocess.run(command, input=json.dumps(targets), capture_output=True, text=True, timeout=60)
    assert probe.returncode == 0, probe.stderr
    assert set(json.loads(probe.stdout)) == REACHED[service]


def test_redis_has_no_way_out(containers: dict[str, dict[str, Any]]) -> None:
    (network,) = containers["redis"]["NetworkSettings"]["Networks"]
    (found,) = json.loads(run("docker", "network", "inspect", network))
    assert found["Internal"]


@pytest.mark.parametrize("service", PORTS)
def test_a_container_is_held(service: str, containers: dict[str, dict[str, Any]]) -> None:
    host = containers[service]["HostConfig"]
    assert 0 < host["PidsLimit"] <= 1024
    assert host["Init"]
    assert host["ReadonlyRootfs"]
    assert 0 < host["Memory"] <= 3 << 30
    assert host["CapDrop"] == ["ALL"]
    assert host["SecurityOpt"] == ["no-new-privileges:true"]


def test_only_the_front_doors_are_published(containers: dict[str, dict[str, Any]]) -> None:
    published = {
        service: [address["HostIp"] for addresses in ports.values() for address in addresses or ()]
        for service, container in containers.items()
        if (ports := container["NetworkSettings"]["Ports"]) and any(ports.values())
    }
    assert published == {"gateway": ["127.0.0.1"], "prometheus": ["127.0.0.1"]}
