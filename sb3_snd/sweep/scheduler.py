"""Execute runs with Ray: each waits for its cores, is started, and is retried if it fails.

Knows Ray and the runs of a sweep. Must not know what is trained or how the sweep is displayed.
"""

import contextlib
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sb3_snd.common.extras import require
from sb3_snd.common.processors import available_cpus
from sb3_snd.sweep import process
from sb3_snd.sweep.runs import Progress, Run, finished, last_line, read_progress

TRIES = 3
GRACE = 120.0  # seconds to write a checkpoint; an update of a large network on a CPU takes most of it
INTERVAL = 1.0  # seconds between two reads of the logs
OBJECT_STORE = 80 * 2**20  # bytes; about Ray's minimum, as only exit codes are stored


@dataclass
class Status:
    """The state of a run."""

    run: Run
    state: str = "waiting"  # or running, done, failed; stopping and stopped if the sweep was interrupted
    tries: int = 0  # number of tries that were started
    reason: str = ""  # reason of the last failure
    progress: Progress | None = None


@dataclass(frozen=True)
class Share:
    """The resources of a machine that each run needs."""

    n_cpus: int = 1
    n_gpus: float = 0.0


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[None]:
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


def check_share(share: Share) -> None:
    """
    Check that at least one machine has the resources for a run.

    :param share: Resources that each run needs
    :raises ValueError: if no machine of the cluster has them
    """
    nodes = [node["Resources"] for node in require("ray", "sweep").nodes() if node["Alive"]]
    if any(node.get("CPU", 0) >= share.n_cpus and node.get("GPU", 0) >= share.n_gpus for node in nodes):
        return
    counts = [f"{node.get('CPU', 0):g} cores and {node.get('GPU', 0):g} GPUs" for node in nodes]
    raise ValueError(
        f"--cpus-per-run {share.n_cpus} --gpus-per-run {share.n_gpus:g} is more than any machine has: {', '.join(counts)}."
    )


class Scheduler:
    """
    Execute runs on Ray in the given order.

    :param statuses: Runs in the order in which they are started
    :param command: Returns the arguments of ``python`` for a run
    :param share: Resources that each run needs
    """

    def __init__(self, statuses: Sequence[Status], command: Callable[[Run], list[str]], share: Share) -> None:
        self.statuses = statuses
        self.command = command
        self.share = share
        self.interrupted = False
        self._ray: Any = require("ray", "sweep")
        self._ray.cloudpickle.register_pickle_by_value(process)
        # Two threads: one waits for the process, the other one can stop it
        options = dict(num_cpus=share.n_cpus, num_gpus=share.n_gpus, max_concurrency=2)
        self._actor = self._ray.remote(process.TrainProcess).options(**options)
        self._calls: dict[Any, tuple[Status, Any, Callable]] = {}  # pending call -> run, its actor, function for the result

    def execute(self, show: Callable[[], None]) -> None:
        """
        Execute all runs that are not finished.

        :param show: Called whenever a state may have changed
        """
        with self._signals():
            for status in self.statuses:
                status.progress = read_progress(status.run.folder)
                if finished(status.run.folder, status.run.n_steps):
                    status.state = "done"
                else:
                    self._submit(status)
            show()
            while self._calls and not self.interrupted:
                ready, _ = self._ray.wait(list(self._calls), timeout=INTERVAL)
                for call in ready:
                    self._take(call)
                for status in self.statuses:
                    if status.state == "running":
                        status.progress = read_progress(status.run.folder)
                show()
            if self._calls:
                self._stop(show)

    def _submit(self, status: Status) -> None:
        actor = self._actor.remote()
        arguments = (self.command(status.run), status.run.log, Path.cwd(), self.share.n_cpus, self.share.n_gpus > 0)
        self._calls[actor.start.remote(*arguments)] = status, actor, self._started

    def _take(self, call: Any) -> None:
        status, actor, follow = self._calls.pop(call)
        try:
            result = self._ray.get(call)
        except self._ray.exceptions.RayError as error:  # the machine was lost, or does not have the folder
            reason = str(getattr(error, "cause", None) or type(error).__name__)
            status.tries += status.state == "waiting"
            self._failed(status, actor, f"Ray's worker: {reason}")
        else:
            follow(status, actor, result)

    def _started(self, status: Status, actor: Any, _: None) -> None:
        status.state = "running"
        status.tries += 1
        self._calls[actor.wait.remote()] = status, actor, self._ended

    def _ended(self, status: Status, actor: Any, code: int) -> None:
        status.progress = read_progress(status.run.folder)
        if code == 0:
            status.state = "done"
            self._ray.kill(actor)
        else:
            log = status.run.log
            reason = signal.Signals(-code).name if code < 0 else f"exit code {code}, {last_line(log)!r}"
            self._failed(status, actor, f"{reason}, see {log}")

    def _failed(self, status: Status, actor: Any, reason: str) -> None:
        self._ray.kill(actor)
        status.reason = reason
        status.state = "failed" if status.tries >= TRIES else "waiting"
        if status.state == "waiting":
            self._submit(status)

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
        for status, actor, _ in self._calls.values():
            if status.state == "running":
                status.state = "stopping"
                stopping.append(actor.stop.remote(GRACE))
            else:
                self._ray.kill(actor)
        show()
        if stopping:
            self._ray.wait(stopping, num_returns=len(stopping), timeout=GRACE + 10)
        for status, actor, _ in self._calls.values():
            if status.state == "stopping":
                self._ray.kill(actor)
                status.state, status.progress = "stopped", read_progress(status.run.folder)
        show()
