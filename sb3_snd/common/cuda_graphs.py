"""CUDA graphs: calls that are recorded once and replayed, so that all their kernels start together without
Python in between.

Knows memory and streams, but no network or loss.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch as th

MAX_SHAPES = 2  # largest number of input shapes that are recorded for one function
#: eager calls before the recording, in which libraries plan their kernels and optimisers create their state
WARM_UP = 3

Tensors = tuple[th.Tensor, ...]


def can_record(device: th.device) -> bool:
    """
    Tell whether calls can be recorded on a device.

    :param device: Device of all tensors involved
    :return: whether they are recorded there
    """
    return device.type == "cuda"


def is_recording() -> bool:
    """
    Tell whether the current call is being recorded. Nothing in such a call may be read on the host, since it
    is not executed.

    :return: whether it is being recorded
    """
    return th.cuda.is_available() and th.cuda.is_current_stream_capturing()


def warm_up(function: Callable[..., Tensors], inputs: Sequence[th.Tensor], stream: Any) -> Tensors:
    """
    Call a function once on a side stream, which CUDA requires before a recording.

    :param function: Function that will be recorded later
    :param inputs: Its arguments
    :param stream: Stream on which it will be recorded
    :return: its results
    """
    device = inputs[0].device
    current = th.cuda.current_stream(device)
    stream.wait_stream(current)
    with th.cuda.stream(stream), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This instance was constructed with capturable=True")
        results = function(*inputs)
    current.wait_stream(stream)
    return results


def record(
    function: Callable[..., Tensors],
    inputs: Sequence[th.Tensor],
    stream: Any,
) -> Callable[[], Tensors]:
    """
    Record a function as a CUDA graph.

    :param function: Function to record; it is not executed
    :param inputs: Its arguments, whose memory is read at each replay
    :param stream: Stream on which to record
    :return: a function that replays the graph; the next replay overwrites its results
    :raises RuntimeError: if an operation in the function cannot be recorded
    """
    device = inputs[0].device
    current = th.cuda.current_stream(device)
    graph = th.cuda.CUDAGraph()
    try:
        with th.cuda.device(device), th.cuda.graph(graph, stream=stream):
            results = function(*inputs)
    except RuntimeError as error:
        raise RuntimeError(str(error.__context__ or error)) from error  # the context holds the actual cause
    finally:
        th.cuda.set_stream(current)  # a failed recording does not restore it

    def replay() -> Tensors:
        graph.replay()
        return results

    return replay


def check_random_numbers(device: th.device) -> None:
    """
    Check that PyTorch can still draw random numbers, which a failed recording may prevent.

    :param device: Device on which a recording has failed
    :raises RuntimeError: if it cannot
    """
    th.rand(1, device=device)


class Recording:
    """
    Recording of a function for one shape of its arguments.

    :param stream: Stream on which to record
    """

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.n_calls = 0
        self.inputs: list[th.Tensor] = []
        self.replay: Callable[[], Tensors] | None = None


class Replay:
    """
    Function that is recorded as a CUDA graph and replayed.

    The first calls run eagerly, then the function is captured and replayed. It runs eagerly for a third input
    shape, on devices without CUDA graphs, and after a failed capture, for which one warning is issued.

    :param function: Function of tensors. It must not read a tensor on the host, and nothing but its arguments
        may change from call to call
    :param state: Returns everything that the function reads or writes besides its arguments, for
        :meth:`check`
    """

    def __init__(self, function: Callable[..., Tensors], state: Callable[[], Iterable[Any]]) -> None:
        self.function = function
        self.state = state
        self.recordings: dict[Any, Recording] = {}
        self._failed = False
        self._seen: list[Any] = []

    def __getstate__(self) -> dict[str, Any]:
        return {"function": self.function, "state": self.state}  # a copy makes its own recordings

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def check(self) -> None:
        """
        Discard all recordings if a tensor of the state has moved, as those of a loaded optimiser do, or if
        another value has changed. This must be called before each series of calls.
        """
        if self.is_recorded and self._seen != self._describe_state():
            self.recordings = {}

    def _describe_state(self) -> list[Any]:
        return [_describe(value) for value in self.state()]

    def __call__(self, *inputs: th.Tensor) -> Tensors:
        """
        Call the function.

        :param inputs: Arguments, all on one device
        :return: results of the function, which later calls do not overwrite
        :raises RuntimeError: if the recording failed and left the device unusable
        """
        if self._failed or not can_record(inputs[0].device):
            return self.function(*inputs)
        shapes = tuple((tensor.shape, tensor.dtype) for tensor in inputs)
        if shapes not in self.recordings:
            if len(self.recordings) == MAX_SHAPES:
                return self.function(*inputs)
            self.recordings[shapes] = Recording(make_stream(inputs[0].device))
        recording = self.recordings[shapes]
        if recording.n_calls < WARM_UP:
            recording.n_calls += 1
            return warm_up(self.function, inputs, recording.stream)
        if recording.replay is None:
            recording.inputs, self._seen = [tensor.clone() for tensor in inputs], self._describe_state()
            try:
                recording.replay = record(self.function, recording.inputs, recording.stream)
            except RuntimeError as error:
                self._fail(error, inputs[0].device)
                return self.function(*inputs)
        for own, new in zip(recording.inputs, inputs, strict=True):
            own.copy_(new)
        return tuple(result.clone() for result in recording.replay())

    def _fail(self, error: RuntimeError, device: th.device) -> None:
        self._failed, self.recordings = True, {}
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        try:
            check_random_numbers(device)
        except RuntimeError:
            raise RuntimeError(f"Capturing a CUDA graph failed ({reason}): set cuda_graphs=False.") from error
        warnings.warn(f"Capturing a CUDA graph failed ({reason}): continuing without cuda_graphs.", stacklevel=3)

    @property
    def is_recorded(self) -> bool:
        """Whether at least one recording exists."""
        return any(recording.replay is not None for recording in self.recordings.values())


def _describe(value: Any) -> Any:
    """Return what must not change between recording and replay. The values in a tensor may change."""
    if isinstance(value, th.Tensor):
        return value.data_ptr(), value.shape, value.stride(), value.dtype, value.requires_grad
    return value


def make_stream(device: th.device) -> Any:
    """
    Create a CUDA stream.

    :param device: A CUDA device
    :return: a new stream
    """
    return th.cuda.Stream(device)


@contextlib.contextmanager
def recorded_updates(
    step: Replay,
    optimizer: th.optim.Optimizer,
    rates: list[th.Tensor],
) -> Iterator[Callable[..., Tensors]]:
    """
    Let the optimiser read its learning rates from the device within the context. Afterwards they are numbers
    again.

    :param step: Function that includes the optimiser's step
    :param optimizer: A fused optimiser; any other is not recorded, and one warning is issued
    :param rates: Scalars that keep their addresses, one for each parameter group
    :return: the step, recorded if possible
    """
    groups = optimizer.param_groups
    if not all(group.get("fused") and "capturable" in group for group in groups):
        if groups and can_record(groups[0]["params"][0].device):
            name = type(optimizer).__name__
            warnings.warn(f"cuda_graphs=True: {name} is not recorded, as it is not fused: set fused=True.", stacklevel=3)
        yield step.function
        return
    before = [(group["lr"], group["capturable"]) for group in groups]
    for group, rate in zip(groups, rates, strict=True):
        rate.fill_(float(group["lr"]))
        group.update(lr=rate, capturable=True)
    try:
        step.check()
        yield step
    finally:
        for group, (rate_before, capturable) in zip(groups, before, strict=True):
            group.update(lr=rate_before, capturable=capturable)


def optimizer_state(optimizer: th.optim.Optimizer) -> Iterator[Any]:
    """
    List the state of an optimiser.

    :param optimizer: Any optimiser
    :return: everything that its step reads and writes except gradients: tensors, and numbers such as betas
    """
    for group in optimizer.param_groups:
        yield from (value for name, value in group.items() if name != "params")
        for parameter in group["params"]:
            yield parameter
            yield from optimizer.state.get(parameter, {}).values()


@contextlib.contextmanager
def unchecked_distributions() -> Iterator[None]:
    """Disable the argument checks of PyTorch's distributions, which make the host wait for the device."""
    distribution = th.distributions.Distribution
    before = distribution._validate_args
    distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        distribution.set_default_validate_args(before)
