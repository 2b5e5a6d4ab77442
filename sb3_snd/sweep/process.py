"""The process of one run, on whatever machine Ray chose.

Knows processes and their environment. Must not import anything but the standard library: Ray sends this file to its workers
as it is, so that they stay small.
"""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path


class TrainProcess:
    """A Ray actor with one process. Its methods are called from several threads: ``stop`` during ``wait``."""

    def __init__(self) -> None:
        self.process: subprocess.Popen | None = None
        self.stopped = False

    def start(self, command: list[str], log: Path, folder: Path, n_threads: int, has_gpu: bool) -> None:
        """
        Wait until no other process trains the run, and start. The lock is the log file's, which the process holds open as its
        output: it lasts as long as the process, even where Ray's worker ends before.

        :param command: What follows after ``python``
        :param log: What the process prints is appended to it
        :param folder: Working folder
        :param n_threads: Threads, where libraries ask the environment
        :param has_gpu: Whether Ray gave it a GPU, or a part of one
        :raises RuntimeError: if it was stopped before
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        env.pop("PYTHONBREAKPOINT", None)  # Ray's debugger
        env["OMP_NUM_THREADS"] = str(n_threads)
        if not has_gpu:
            env["CUDA_VISIBLE_DEVICES"] = ""
        with open(log, "ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if self.stopped:
                raise RuntimeError("stopped before it began")
            self.process = subprocess.Popen(
                [sys.executable, *command],
                cwd=folder,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the sweep, which stops the process itself
            )

    def wait(self) -> int:
        """
        :return: the exit code, negative where a signal ended the process
        """
        assert self.process is not None
        code = self.process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # environments in processes of their own, if they are left
        return code

    def stop(self, seconds: float) -> None:
        """
        Ask the process to save and end, and end it otherwise.

        :param seconds: Time it has
        """
        self.stopped = True
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
