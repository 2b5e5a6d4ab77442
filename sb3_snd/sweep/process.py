"""The process of one run, on the machine that Ray chose.

Knows processes and their environment. Must only import the standard library: Ray sends this file to its
workers as it is, so that they stay small.
"""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path


class TrainProcess:
    """
    A Ray actor with one process. Its methods are called from several threads: ``stop`` while ``wait`` is
    running.
    """

    def __init__(self) -> None:
        self.process: subprocess.Popen | None = None
        self.stopped = False

    def start(self, command: list[str], log: Path, folder: Path, n_threads: int, has_gpu: bool) -> None:
        """
        Wait until no other process trains the run, then start.

        The log file is locked. As the process keeps the file open for its output, the lock lasts as long as
        the process, even if Ray's worker ends earlier.

        :param command: Arguments of ``python``
        :param log: File to which the output of the process is appended
        :param folder: Working directory
        :param n_threads: Number of threads for libraries that read it from the environment
        :param has_gpu: Whether Ray assigned a GPU, or a share of one
        :raises RuntimeError: if ``stop`` was called before
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        env.pop("PYTHONBREAKPOINT", None)  # set by Ray for its debugger
        env["OMP_NUM_THREADS"] = str(n_threads)
        if not has_gpu:
            env["CUDA_VISIBLE_DEVICES"] = ""
        with open(log, "ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if self.stopped:
                raise RuntimeError("stopped before it started")
            self.process = subprocess.Popen(
                [sys.executable, *command],
                cwd=folder,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C only reaches the sweep, which stops the process itself
            )

    def wait(self) -> int:
        """
        Wait until the process has ended.

        :return: exit code; negative if a signal ended the process
        """
        assert self.process is not None
        code = self.process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # environments in subprocesses, if any are left
        return code

    def stop(self, seconds: float) -> None:
        """
        Ask the process to save a checkpoint and end; kill it if it does not end in time.

        :param seconds: Maximum time in seconds
        """
        self.stopped = True
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
