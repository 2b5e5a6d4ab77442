"""Execute jobs with Ray: each waits for its cores, is started, and is retried if it fails.

Knows Ray and the jobs of a sweep. Must not know what is trained or how the sweep is displayed.
"""

import contextlib
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from sb3_snd.common.extras import require
from sb3_snd.common.processors import available_cpus
from sb3_snd.sweep import process
from sb3_snd.sweep.job import Job, is_finished, last_line, read_progress

TRIES = 3
GRACE = 120.0  # seconds to write a checkpoint; an update of a large network on a CPU takes most of it
INTERVAL = 1.0  # seconds between two reads of the logs
OBJECT_STORE = 80 * 2**20  # bytes; about Ray's minimum, as only exit codes are stored


@dataclass(frozen=True)
class Resources:
    """
    The resources of a machine that each run needs.

    :param n_cpus: Number of processor cores
    :param n_gpus: Number of GPUs, or a share of one
    """

    n_cpus: int = 1
    n_gpus: float = 0.0


@contextlib.contextmanager
def ray_session(address: str | None) -> Iterator[None]:
    """
    Start Ray on this machine, or connect to a cluster, for the duration of this context.

    :param address: Address of the cluster, or ``"auto"`` for that of this machine; None for this machine only
    :raises ImportError: if Ray is missing; the message names the extra
    :raises ValueError: if there is no cluster
    """
    ray = require("ray", "sweep")
    check_address(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # If memory is low, Ray would end its own small worker, but not the training process
    os.environ.setdefault("RAY_memory_monitor_refresh_ms", "0")
    # Ray would count all cores of the machine or of its container
    alone = dict(include_dashboard=False, object_store_memory=OBJECT_STORE, num_cpus=available_cpus())
    local = alone if address is None else {}
    try:
        ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **local)
    except (ConnectionError, ray.exceptions.RayError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ValueError(f"There is no Ray cluster at {address}: start one with `ray start --head` ({reason}).") from error
    try:
        yield
    finally:
        ray.shutdown()


def check_address(address: str | None) -> None:
    """
    Check that something listens at the address of a cluster. Ray itself would try for many minutes.

    :param address: Address of a cluster, or None
    :raises ValueError: if nothing listens there
    """
    if address in (None, "auto"):
        return
    host, _, port = str(address).removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError) as error:
        raise ValueError(f"There is no Ray cluster at {address}: start one with `ray start --head`.") from error


def check_resources(resources: Resources) -> None:
    """
    Check that at least one machine has the resources for a run.

    :param resources: Resources that each run needs
    :raises ValueError: if no machine of the cluster has them
    """
    nodes = [node["Resources"] for node in require("ray", "sweep").nodes() if node["Alive"]]
    if any(node.get("CPU", 0) >= resources.n_cpus and node.get("GPU", 0) >= resources.n_gpus for node in nodes):
        return
    counts = [f"{node.get('CPU', 0):g} cores and {node.get('GPU', 0):g} GPUs" for node in nodes]
    asked = f"--cpus-per-run {resources.n_cpus} --gpus-per-run {resources.n_gpus:g}"
    raise ValueError(f"{asked} is more than any machine has: {', '.join(counts)}.")


class PendingCall(NamedTuple):
    """A call of an actor's method whose result is awaited."""

    job: Job
    actor: Any
    on_result: Callable[[Job, Any, Any], None]  # called with job, actor and result


class Scheduler:
    """
    Execute jobs on Ray, which decides when each one starts.

    :param jobs: Jobs in the order in which they are handed to Ray; a later one may start first
    :param command: Returns the arguments of ``python`` for a job
    :param resources: Resources that each run needs
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        command: Callable[[Job], list[str]],
        resources: Resources,
    ) -> None:
        self.jobs = jobs
        self.command = command
        self.resources = resources
        self.interrupted = False
        self._ray: Any = require("ray", "sweep")
        self._ray.cloudpickle.register_pickle_by_value(process)
        # Two threads: one waits for the process, the other one can stop it
        options = dict(num_cpus=resources.n_cpus, num_gpus=resources.n_gpus, max_concurrency=2)
        self._actor = self._ray.remote(process.TrainProcess).options(**options)
        self._calls: dict[Any, PendingCall] = {}  # by Ray's reference to the result

    def execute(self, show: Callable[[], None]) -> None:
        """
        Execute all jobs that are not finished.

        :param show: Called whenever a state may have changed
        """
        with self._signals():
            for job in self.jobs:
                job.progress = read_progress(job.folder)
                if is_finished(job.folder, job.n_steps):
                    job.state = "done"
                else:
                    self._submit(job)
            show()
            while self._calls and not self.interrupted:
                ready, _ = self._ray.wait(list(self._calls), timeout=INTERVAL)
                for call in ready:
                    self._handle_result(call)
                for job in self.jobs:
                    if job.state == "running":
                        job.progress = read_progress(job.folder)
                show()
            if self._calls:
                self._stop(show)

    def _submit(self, job: Job) -> None:
        actor = self._actor.remote()
        arguments = (self.command(job), job.log, Path.cwd(), self.resources.n_cpus, self.resources.n_gpus > 0)
        self._calls[actor.start.remote(*arguments)] = PendingCall(job, actor, self._on_started)

    def _handle_result(self, call: Any) -> None:
        job, actor, on_result = self._calls.pop(call)
        try:
            result = self._ray.get(call)
        except self._ray.exceptions.RayError as error:  # the machine was lost, or does not have the folder
            reason = str(getattr(error, "cause", None) or type(error).__name__)
            job.tries += job.state == "waiting"
            self._on_failure(job, actor, f"Ray's worker: {reason}")
        else:
            on_result(job, actor, result)

    def _on_started(self, job: Job, actor: Any, _: None) -> None:
        job.state = "running"
        job.tries += 1
        self._calls[actor.wait.remote()] = PendingCall(job, actor, self._on_ended)

    def _on_ended(self, job: Job, actor: Any, code: int) -> None:
        job.progress = read_progress(job.folder)
        if code == 0:
            job.state = "done"
            self._ray.kill(actor)
        else:
            reason = signal.Signals(-code).name if code < 0 else f"exit code {code}, {last_line(job.log)!r}"
            self._on_failure(job, actor, f"{reason}, see {job.log}")

    def _on_failure(self, job: Job, actor: Any, reason: str) -> None:
        self._ray.kill(actor)
        job.reason = reason
        job.state = "failed" if job.tries >= TRIES else "waiting"
        if job.state == "waiting":
            self._submit(job)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Record SIGINT and SIGTERM within this context, so that they do not interrupt anything halfway."""

        def remember(*_: Any) -> None:
            self.interrupted = True

        before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, show: Callable[[], None]) -> None:
        """Stop all processes at once, with time to write a checkpoint."""
        stopping = []
        for job, actor, _ in self._calls.values():
            if job.state == "running":
                job.state = "stopping"
                stopping.append(actor.stop.remote(GRACE))
            else:
                self._ray.kill(actor)
        show()
        if stopping:
            self._ray.wait(stopping, num_returns=len(stopping), timeout=GRACE + 10)
        for job, actor, _ in self._calls.values():
            if job.state == "stopping":
                self._ray.kill(actor)
                job.state, job.progress = "stopped", read_progress(job.folder)
        show()
