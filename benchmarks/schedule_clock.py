"""``Clock``: adds up seconds by phase. Knows neither environments nor models."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch as th

ROLLOUT, STEPPING, INFERENCE, NOVELTY, PPO_UPDATE, SND_UPDATE, OTHER = PHASES = (
    "rollout",
    "stepping",
    "inference",
    "novelty",
    "PPO update",
    "SND update",
    "other",
)


class Clock:
    """
    Add up seconds by phase. Phases may be nested. While an inner one runs, the outer one stands still, so that
    all phases add up to the whole.

    :param device: PyTorch device; the clock waits for it whenever a phase starts or ends
    """

    def __init__(self, device: th.device) -> None:
        self.device = device
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self._open: list[str] = []
        self._last = 0.0

    def _book(self) -> None:
        if self.device.type != "cpu":
            th.accelerator.synchronize(self.device)
        now = time.perf_counter()
        if self._open:
            self._seconds[self._open[-1]] += now - self._last
        self._last = now

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """
        Add the time of a block to a phase.

        :param name: One of ``PHASES``
        """
        self._book()
        self._open.append(name)
        try:
            yield
        finally:
            self._book()
            self._open.pop()

    def wrap(self, owner: Any, method: str, name: str) -> None:
        """
        Time every call of a bound method from now on.

        :param owner: Object whose attribute is replaced
        :param method: Name of the method
        :param name: One of ``PHASES``
        """
        original: Callable[..., Any] = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.phase(name):
                return original(*args, **kwargs)

        setattr(owner, method, timed)

    def pop(self) -> dict[str, float]:
        """
        Return the times and start again from zero.

        :return: seconds by phase since the last call
        """
        seconds, self._seconds = self._seconds, dict.fromkeys(PHASES, 0.0)
        return seconds
