"""Calls that are recorded once as a CUDA graph and replayed: all their kernels start together, with no Python in between.

Knows memory and streams; no network, no loss.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch as th

WARM_UP = 3  # calls before the recording, in which libraries make their plans and optimisers their state

Tensors = tuple[th.Tensor, ...]


def can_record(device: th.device) -> bool:
    """
    :param device: Of everything that a call works on
    :return: whether calls are recorded there
    """
    return device.type == "cuda"


def warm_up(function: Callable[..., Tensors], inputs: Sequence[th.Tensor]) -> Tensors:
    """
    One call beside the stream at work, as a recording demands of what goes before it.

    :param function: To be recorded later
    :param inputs: Its arguments
    :return: its results
    """
    current, beside = th.cuda.current_stream(), th.cuda.Stream()
    beside.wait_stream(current)
    with th.cuda.stream(beside):
        results = function(*inputs)
    current.wait_stream(beside)
    return results


def record(function: Callable[..., Tensors], inputs: Sequence[th.Tensor]) -> Callable[[], Tensors]:
    """
    :param function: What to record; it is not executed
    :param inputs: Its arguments, whose memory is read at each replay
    :return: replays it; its results are overwritten by the next replay
    """
    graph = th.cuda.CUDAGraph()
    with th.cuda.graph(graph):
        results = function(*inputs)

    def replay() -> Tensors:
        graph.replay()
        return results

    return replay


class Replay:
    """
    A function that is called again and again with tensors of the same shapes. Its first calls run as they are; then it is
    recorded, and replayed from there on. Other shapes run as they are, and so does everything on devices that record nothing
    or where the recording fails, which is said once.

    :param function: Of tensors; it must not read one on the host, and gets nothing else that changes from call to call
    :param state: Gives all tensors that it reads or writes beside its arguments. When one has moved, as a loaded optimiser's
        do, the function is recorded anew
    """

    def __init__(self, function: Callable[..., Tensors], state: Callable[[], Iterable[th.Tensor]]) -> None:
        self.function = function
        self.state = state
        self._failed = False
        self._addresses: list[int] = []
        self._n_calls = 0
        self._inputs: list[th.Tensor] = []
        self._replay: Callable[[], Tensors] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"function": self.function, "state": self.state}  # a copy records for itself

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def __call__(self, *inputs: th.Tensor) -> Tensors:
        """
        :param inputs: All on one device
        :return: the function's results, which nothing overwrites later
        """
        if self._failed or not can_record(inputs[0].device):
            return self.function(*inputs)
        addresses = [tensor.data_ptr() for tensor in self.state()]
        if addresses != self._addresses:
            self._addresses, self._n_calls, self._replay = addresses, 0, None
        if self._n_calls < WARM_UP:
            self._n_calls += 1
            return warm_up(self.function, inputs)
        if self._replay is None:
            self._inputs = [tensor.clone() for tensor in inputs]
            try:
                self._replay = record(self.function, self._inputs)
            except RuntimeError as error:
                warnings.warn(f"Recording a CUDA graph failed, going on without: {error}", stacklevel=2)
                self._failed = True
                return self.function(*inputs)
        elif any(own.shape != new.shape or own.dtype != new.dtype for own, new in zip(self._inputs, inputs, strict=True)):
            return self.function(*inputs)
        else:
            for own, new in zip(self._inputs, inputs, strict=True):
                own.copy_(new)
        return tuple(result.clone() for result in self._replay())


def is_recordable(optimizer: th.optim.Optimizer) -> bool:
    """
    :param optimizer: What a recorded function steps
    :return: whether its step runs on the device alone: fused ones do
    """
    return all(group.get("fused") and "capturable" in group for group in optimizer.param_groups)


@contextlib.contextmanager
def rates_on_device(optimizer: th.optim.Optimizer, rates: list[th.Tensor]) -> Iterator[None]:
    """
    Within it a recorded step reads learning rates from the device; afterwards they are numbers again.

    :param optimizer: See :func:`is_recordable`
    :param rates: Scalars that stay where they are, one for each of its groups
    """
    groups = optimizer.param_groups
    before = [(group["lr"], group["capturable"]) for group in groups]
    for group, rate in zip(groups, rates, strict=True):
        rate.fill_(float(group["lr"]))
        group.update(lr=rate, capturable=True)
    try:
        yield
    finally:
        for group, (rate_before, capturable) in zip(groups, before, strict=True):
            group.update(lr=rate_before, capturable=capturable)


def optimizer_state(optimizer: th.optim.Optimizer) -> Iterator[th.Tensor]:
    """
    :param optimizer: Any
    :return: all tensors that its step reads and writes, gradients excepted
    """
    for group in optimizer.param_groups:
        if isinstance(group["lr"], th.Tensor):
            yield group["lr"]
        for parameter in group["params"]:
            yield parameter
            yield from (value for value in optimizer.state.get(parameter, {}).values() if isinstance(value, th.Tensor))


@contextlib.contextmanager
def unchecked_distributions() -> Iterator[None]:
    """Within it PyTorch's distributions do not look at their arguments, for which the host would wait for the device."""
    distribution = th.distributions.Distribution
    before = distribution._validate_args
    distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        distribution.set_default_validate_args(before)
