"""Runs the whole stack as local processes, for `make demo`, `make up` and the end-to-end tests.

Every setting of a service may be set in the environment. SEARCHER_MODEL, …_ENGINE or …_ADAPTERS gives the
searcher a generator service of its own, which reads each SEARCHER_X as GENERATOR_X. RETRIEVER_DEVICES, SEARCHER_DEVICES
and GENERATOR_DEVICES are the GPUs that a service sees. So gpu-*.env lays out processes as it does containers.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from common.addresses import free_port
from deploy.demo import demo, demo_questions
from search_agent.types import Question
from search_agent_client import GatewayError

ROOT = Path(__file__).parent.parent
LOGS = ROOT / ".run"
START_LIMIT_S, VLLM_START_LIMIT_S = 240, 1800  # vLLM downloads, loads and compiles
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback never goes through a proxy
# The environment may set any setting of a service; these are the ones that a service needs.
DEFAULTS = {
    "RETRIEVER_INDEXES": str(ROOT / "data" / "demo" / "indexes"),
    "RETRIEVER_WRITABLE": str(LOGS / "indexes"),
    "GENERATOR_CACHE": str(LOGS / "models"),
}
SERVICES = ("redis", "retriever", "searcher", "generator", "trainer")  # in the order of their start
MODEL_SERVICES = ("searcher", "generator")  # both run services.generator
# The services' own defaults, where run configurations look for retriever and generator.
USUAL_PORTS = {"retriever": 50051, "searcher": 50052, "generator": 50053, "trainer": 50054}
ADAPTERS = ROOT / "data" / "demo" / "adapters"  # for the embedded model
# The demo's searcher was taught s3, and its reader to read passages. All else is asked of the base model, under a name
# of its own where checkpoints of that method may be promoted. The first name is for callers that give none.
MODELS = {"reader": str(ADAPTERS / "reader"), "searcher": str(ADAPTERS / "searcher"), "search_r1": ""}
SEARCHERS = {"search_r1": "search_r1", "ircot": "base", "search_o1": "base", "deep_retrieval": "base"}
GENERATORS = {"direct": "base", "cot": "base", "search_o1": "base", "search_r1": "base"}


class StartError(Exception):
    """The stack did not start; the message says what to do."""


def in_use(port: int) -> bool:
    """Returns whether something listens at a port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Stack:
    """Retriever, generator, trainer and gateway as processes, and Redis if it is installed.

    The generator service holds the searcher too, unless that has a model of its own.
    """

    def __init__(
        self,
        port: int,
        logs: Path = LOGS,
        usual: Mapping[str, int] | None = None,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        """`port` is the gateway's. The others listen at their `usual` ports where those are free."""
        self._environment = environment
        self.services = [name for name in SERVICES if name != "searcher" or self._chosen("SEARCHER")]
        self.url = f"http://127.0.0.1:{port}"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.ports = {"gateway": port}
        for name in self.services:
            wanted = (usual or {}).get(name, 0)
            self.ports[name] = wanted if wanted and not in_use(wanted) else free_port()
        self.logs = logs

    def __enter__(self) -> Stack:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _start(self) -> None:
        if in_use(self.ports["gateway"]):
            raise StartError(f"port {self.ports['gateway']} is in use; choose another, for example PORT=8081")
        self.logs.mkdir(parents=True, exist_ok=True)
        for name in (*self.services, "gateway"):
            self.start(name)
        self._wait()

    def start(self, name: str) -> None:
        """Starts one service, at first or after it died."""
        if name == "redis" and not shutil.which("redis-server"):
            print("redis-server is not installed, so naive RAG runs uncached", flush=True)
            return
        with (self.logs / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                self._command(name),
                cwd=ROOT,
                env=self.environment(name),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C then reaches this process only, which stops the services in order
            )

    def _command(self, name: str) -> list[str]:
        if name == "redis":
            port = str(self.ports["redis"])
            folder = str(self.logs)
            return ["redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", "--dir", folder]
        return [sys.executable, "-m", f"services.{'generator' if name in MODEL_SERVICES else name}"]

    def environment(self, name: str) -> dict[str, str]:
        """Returns the variables of one service."""
        chosen = dict(self._environment)
        if name == "searcher":
            chosen = {each: value for each, value in chosen.items() if not each.startswith("GENERATOR_")}
            own = {each: value for each, value in chosen.items() if each.startswith("SEARCHER_")}
            chosen |= {each.replace("SEARCHER_", "GENERATOR_", 1): value for each, value in own.items()}
        devices = chosen.get(f"{name.upper()}_DEVICES")
        gpus = {} if devices is None else {"CUDA_VISIBLE_DEVICES": devices}
        return DEFAULTS | self._defaults(name) | chosen | gpus | self._addresses(name)

    def _chosen(self, prefix: str) -> bool:
        """Returns whether the caller chose a model, an adapter or an engine."""
        return any(f"{prefix}_{name}" in self._environment for name in ("ENGINE", "MODEL", "ADAPTERS"))

    def model(self, name: str) -> str:
        """Returns the address of a model; a service with a model of the caller's has one for all names."""
        if name in self.services:
            return f"127.0.0.1:{self.ports[name]}"
        return f"127.0.0.1:{self.ports['generator']}" + ("" if self._chosen("GENERATOR") else f"/{name}")

    def _defaults(self, name: str) -> dict[str, str]:
        """Returns variables that the environment may replace."""
        found = {
            "TRAINER_RUNS": str(self.logs / "runs"),
            "TRAINER_SEARCHER": self.model("searcher"),
            "GENERATOR_FOLDERS": f"{self.logs},{ADAPTERS}",
            "GATEWAY_SEARCHER": self.model("searcher"),
            "GATEWAY_GENERATOR": self.model("reader"),
        }
        if name != "searcher" and not self._chosen("GENERATOR"):
            searchers = {method: self.model(each) for method, each in SEARCHERS.items()}
            found["GENERATOR_ENGINE"] = "openvino"  # reads prompts in a third of llama.cpp's time
            found["GENERATOR_ADAPTERS"] = json.dumps(MODELS)
            found["GATEWAY_SEARCHERS"] = json.dumps(searchers)
            found["GATEWAY_GENERATORS"] = json.dumps({method: self.model(each) for method, each in GENERATORS.items()})
            found["TRAINER_SEARCHERS"] = json.dumps({"search_r1": searchers["search_r1"]})
        return found

    def _addresses(self, name: str) -> dict[str, str]:
        """Returns the variables that say where a service listens and where it finds the others."""
        at = {name: f"127.0.0.1:{port}" for name, port in self.ports.items()}
        if name == "gateway":
            return {
                "GATEWAY_PORT": str(self.ports["gateway"]),
                "GATEWAY_RETRIEVER": at["retriever"],
                "GATEWAY_TRAINER": at["trainer"],
                "GATEWAY_REDIS_URL": f"redis://{at['redis']}/0" if shutil.which("redis-server") else "",
            }
        prefix = "GENERATOR" if name in MODEL_SERVICES else name.upper()
        own = {f"{prefix}_PORT": str(self.ports[name]), f"{prefix}_METRICS_PORT": str(free_port())}
        return own | ({"GENERATOR_STATE": str(self.logs / f"{name}.json")} if name in MODEL_SERVICES else {})

    def _wait(self) -> None:
        """Waits until the gateway reports that all backends answer."""
        uses_vllm = "vllm" in {self._environment.get(f"{name.upper()}_ENGINE") for name in MODEL_SERVICES}
        limit_s = VLLM_START_LIMIT_S if uses_vllm else START_LIMIT_S
        began, limit = time.monotonic(), time.monotonic() + limit_s
        said: set[str] = set()
        while True:
            for name, process in self.processes.items():
                if process.poll() is not None:
                    raise StartError(f"{name} stopped at start with status {process.returncode}:\n{self._tail(name)}")
            states = self.readiness()
            for name, state in states.items():
                if state == "ok" and name not in said:
                    said.add(name)
                    print(f"  {name} ready after {time.monotonic() - began:.1f} s", flush=True)
            if {"retriever", "searcher", "generator"} <= said:
                return
            if time.monotonic() > limit:
                raise StartError(f"not ready after {limit_s} s: {states or self._tail('gateway')}")
            time.sleep(0.2)

    def readiness(self) -> dict[str, str]:
        """Returns the state of each backend from /readyz; empty while the gateway does not answer."""
        try:
            with _DIRECT.open(f"{self.url}/readyz", timeout=5) as response:
                return dict(json.load(response)["backends"])
        except urllib.error.HTTPError as error:
            body = json.load(error)
            return dict(body.get("backends", {"gateway": body.get("detail", "failed")}))
        except (OSError, ValueError):
            return {}

    def _tail(self, name: str) -> str:
        lines = (self.logs / f"{name}.log").read_text(errors="replace").splitlines()[-15:]
        return "\n".join(f"    {line}" for line in lines)

    def stop(self) -> None:
        """Stops all services, the gateway first."""
        for name in reversed(list(self.processes)):
            process = self.processes.pop(name)
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(prog="deploy/local.py", description=__doc__)
    parser.add_argument("action", choices=("demo", "up"))
    parser.add_argument("--port", type=int, default=8080, help="the gateway's port")
    parser.add_argument("--question", help="ask this instead of the demo's questions")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds, which stops the stack
    print(f"starting (logs in {LOGS.relative_to(ROOT)}/)", flush=True)
    try:
        with Stack(args.port, usual=USUAL_PORTS) as stack:
            if args.action == "demo":
                demo(stack.url, [Question("", args.question)] if args.question else demo_questions())
            else:
                print(f"REST     {stack.url}   (its page: {stack.url}/, docs: {stack.url}/docs)")
                for name in stack.services[1:]:
                    print(f"{name:9} 127.0.0.1:{stack.ports[name]} (gRPC)")
                if "redis" in stack.processes:
                    print(f"redis    redis://127.0.0.1:{stack.ports['redis']}/0")
                print("Ctrl-C stops it.", flush=True)
                signal.pause()
    except (StartError, GatewayError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopping")
    return 0


if __name__ == "__main__":
    sys.exit(main())
