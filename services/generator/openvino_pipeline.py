"""Works with one set of weights in OpenVINO's continuous batching, in a thread of its own."""

from __future__ import annotations

import itertools
import secrets
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import structlog

from search_agent.types import Sampling
from services.generator.library_engine import Dead
from services.generator.settings import GeneratorSettings

_BLOCK_TOKENS = 32  # of OpenVINO's cache on CPUs

# OpenVINO reports every import to a host on the internet if it finds this module.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

log = structlog.get_logger()

# New ids, "" or the finish, and the failure if there is one.
Receive = Callable[[list[int], str, Exception | None], None]


@dataclass(eq=False)
class Job:
    """A text to write. `receive` gets its ids in the pipeline's thread."""

    prompt: list[int]
    sampling: Sampling
    receive: Receive
    asked: float = field(default_factory=time.perf_counter)
    begun: float = 0.0  # when OpenVINO got it
    handle: Any = None  # OpenVINO's, from then on
    left: bool = False  # nobody waits for it any more


class Pipeline:
    """One set of weights, and the thread that works with them."""

    def __init__(self, library: Any, end: int, parallel: int) -> None:
        """`library` is OpenVINO's pipeline; `end` is the token that ends a text."""
        self._library, self._end, self._parallel = library, end, parallel
        self.dead = False
        self._closed = False
        self._jobs: dict[int, Job] = {}  # by number, in the order in which they came
        self._numbers = itertools.count()
        self._changed = threading.Condition()  # guards all of the above
        self._thread = threading.Thread(target=self._work, name="openvino", daemon=True)
        self._thread.start()

    def begin(self, job: Job) -> None:
        """Takes a job. Raises Dead."""
        with self._changed:
            if self.dead or self._closed:
                raise Dead
            self._jobs[next(self._numbers)] = job
            self._changed.notify()

    def close(self) -> None:
        """Ends the requests and the thread. May be called twice."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        try:
            while not self._closed:
                self._turn()
        except Exception:  # of whatever kind: nothing is known of the requests' state any more
            log.exception("OpenVINO failed")
        with self._changed:
            self.dead = True
        for job in self._jobs.values():
            job.receive([], "", Dead())
        self._jobs.clear()
        del self._library

    def _turn(self) -> None:
        """Takes in and drops requests, and lets the others write a token. Waits if there are none."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._jobs)
            jobs = dict(self._jobs)
        ended = [number for number, job in jobs.items() if job.left]
        for number in ended:
            if handle := jobs.pop(number).handle:
                handle.cancel()
        for number, job in list(jobs.items())[: self._parallel]:
            if not job.handle and not self._start(number, job):
                ended.append(number)
        if self._library.has_non_finished_requests():
            self._library.step()
        ended += [number for number, job in jobs.items() if job.handle and self._read(job)]
        with self._changed:
            for number in ended:
                del self._jobs[number]

    def _start(self, number: int, job: Job) -> bool:
        """Hands a request to OpenVINO, and returns whether that takes it."""
        import openvino
        import openvino_genai

        sampling = job.sampling
        config = openvino_genai.GenerationConfig()
        config.eos_token_id = self._end
        config.stop_token_ids = {self._end}
        config.max_new_tokens = sampling.max_tokens
        config.do_sample = sampling.temperature > 0
        if config.do_sample:
            config.temperature, config.top_p = sampling.temperature, sampling.top_p
            config.rng_seed = secrets.randbits(32) if sampling.seed is None else sampling.seed
        if sampling.grammar:
            config.structured_output_config = openvino_genai.StructuredOutputConfig(grammar=sampling.grammar)
        job.begun = time.perf_counter()
        try:
            job.handle = self._library.add_request(number, openvino.Tensor(np.array([job.prompt])), config)
        except RuntimeError as error:
            job.receive([], "", error)
            return False
        return True

    def _read(self, job: Job) -> bool:
        """Passes on what a request has written since, and returns whether it has ended."""
        import openvino_genai

        finishes = openvino_genai.GenerationFinishReason
        while job.handle.can_read():
            for output in job.handle.read().values():
                finish = {finishes.STOP: "stop", finishes.LENGTH: "length"}.get(output.finish_reason, "")
                job.receive(list(output.generated_ids), finish, None)
                if finish:
                    return True
        status = job.handle.get_status()
        if status != openvino_genai.GenerationStatus.RUNNING:
            job.receive([], "", RuntimeError(f"a request ended as {status}"))
            return True
        return False


def opened(file: Path, tokenizer: Any, settings: GeneratorSettings) -> Pipeline:
    """Starts the model of a GGUF file. Raises whatever OpenVINO raises."""
    import openvino_genai

    scheduler = openvino_genai.SchedulerConfig()
    scheduler.num_kv_blocks = -(-settings.context_tokens // _BLOCK_TOKENS) * settings.parallel
    # A turn's prompt begins with the previous turn's. Blocks that no request uses keep what was read last.
    scheduler.enable_prefix_caching = True
    library = openvino_genai.ContinuousBatchingPipeline(
        str(file), tokenizer, scheduler, "CPU", INFERENCE_NUM_THREADS=settings.threads
    )
    return Pipeline(library, tokenizer.get_eos_token_id(), settings.parallel)
