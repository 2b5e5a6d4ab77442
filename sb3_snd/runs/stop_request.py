"""``StopRequest``: turns the first SIGTERM or SIGINT into a request.

Knows signals only. Must not know who fulfils the request.
"""

import signal
from types import FrameType
from typing import Any


class StopRequest:
    """
    Context manager in which the first SIGTERM or SIGINT only asks
    :class:`~sb3_snd.runs.checkpoints.RunCheckpoint` to end the run after the current step. A second signal is
    handled as usual.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._old: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        self.received = None
        self._old = {number: signal.signal(number, self._handle) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self.__exit__()
