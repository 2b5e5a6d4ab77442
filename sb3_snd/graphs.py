"""Calls that are recorded once as a CUDA graph and replayed: all their kernels start together, with no Python in between.

Knows memory and streams; no network, no loss.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch as th

MAX_SHAPES = 2  # of a function's arguments that are recorded
WARM_UP = 3  # calls before the recording, in which libraries make their plans and optimisers their state

Tensors = tuple[th.Tensor, ...]


def can_record(device: th.device) -> bool:
    """
    :param device: Of everything that a call works on
    :return: whether calls are recorded there
    """
    return device.type == "cuda"


def is_recording() -> bool:
    """
    Whether the call that is under way is being recorded. Nothing in it may be read on the host: it is not executed.

    :return: whether it is
    """
    return th.cuda.is_available() and th.cuda.is_current_stream_capturing()


def warm_up(function: Callable[..., Tensors], inputs: Sequence[th.Tensor], stream: Any) -> Tensors:
    """
    One call beside the stream at work, as a recording demands of what goes before it.

    :param function: To be recorded later
    :param inputs: Its arguments
    :param stream: On which it will be recorded
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


def record(function: Callable[..., Tensors], inputs: Sequence[th.Tensor], stream: Any) -> Callable[[], Tensors]:
    """
    :param function: What to record; it is not executed
    :param inputs: Its arguments, whose memory is read at each replay
    :param stream: Where to
    :return: replays it; its results are overwritten by the next replay
    :raises RuntimeError: if something in it cannot be recorded
    """
    device = inputs[0].device
    current = th.cuda.current_stream(device)
    graph = th.cuda.CUDAGraph()
    try:
        with th.cuda.device(device), th.cuda.graph(graph, stream=stream):
            results = function(*inputs)
    except RuntimeError as error:
        raise RuntimeError(str(error.__context__ or error)) from error  # what was wrong, not that something was
    finally:
        th.cuda.set_stream(current)  # which a failed recording does not put back

    def replay() -> Tensors:
        graph.replay()
        return results

    return replay


def check_random_numbers(device: th.device) -> None:
    """
    :param device: On which a recording has failed
    :raises RuntimeError: if PyTorch draws no random numbers there any more, which may come of that
    """
    th.rand(1, device=device)


class Recording:
    """
    Of a function for one shape of its arguments.

    :param stream: Where to
    """

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.n_calls = 0
        self.inputs: list[th.Tensor] = []
        self.replay: Callable[[], Tensors] | None = None


class Replay:
    """
    A function that is called again and again with tensors of the same shapes. Its first calls run as they are; then it is
    recorded, and replayed from there on. All calls run as they are with more shapes than two, on devices that record nothing,
    and where the recording fails, which is said once.

    :param function: Of tensors; it must not read one on the host, and gets nothing else that changes from call to call
    :param state: Gives everything that it reads or writes beside its arguments, for :meth:`check`
    """

    def __init__(self, function: Callable[..., Tensors], state: Callable[[], Iterable[Any]]) -> None:
        self.function = function
        self.state = state
        self.recordings: dict[Any, Recording] = {}
        self._failed = False
        self._seen: list[Any] = []

    def __getstate__(self) -> dict[str, Any]:
        return {"function": self.function, "state": self.state}  # a copy records for itself

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def check(self) -> None:
        """
        To be called before a series of calls. Where a tensor of the state has moved, as a loaded optimiser's do, or another
        value has changed, everything is recorded anew.
        """
        if self.is_recorded and self._seen != self._describe_state():
            self.recordings = {}

    def _describe_state(self) -> list[Any]:
        return [_describe(value) for value in self.state()]

    def __call__(self, *inputs: th.Tensor) -> Tensors:
        """
        :param inputs: All on one device
        :return: the function's results, which nothing overwrites later
        :raises RuntimeError: if the recording failed and left the device unfit to go on
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
            raise RuntimeError(f"cuda_graphs=True: the recording failed, leave it away: {reason}") from error
        warnings.warn(f"cuda_graphs=True: the recording failed, going on without: {reason}", stacklevel=3)

    @property
    def is_recorded(self) -> bool:
        """Whether calls are replayed by now."""
        return any(recording.replay is not None for recording in self.recordings.values())


def _describe(value: Any) -> Any:
    """:return: what must not change between recording and replay; values of tensors may"""
    if isinstance(value, th.Tensor):
        return value.data_ptr(), value.shape, value.stride(), value.dtype, value.requires_grad
    return value


def make_stream(device: th.device) -> Any:
    """
    :param device: CUDA
    :return: a stream of its own
    """
    return th.cuda.Stream(device)


@contextlib.contextmanager
def recorded_updates(step: Replay, optimizer: th.optim.Optimizer, rates: list[th.Tensor]) -> Iterator[Callable[..., Tensors]]:
    """
    Within it the optimiser reads its learning rates from the device; afterwards they are numbers again.

    :param step: What steps the optimiser
    :param optimizer: A fused one; where another is to be recorded, a warning says once that it is not
    :param rates: Scalars that stay where they are, one for each of its groups
    :return: the step, recorded where it can be
    """
    groups = optimizer.param_groups
    if not all(group.get("fused") and "capturable" in group for group in groups):
        if groups and can_record(groups[0]["params"][0].device):
            name = type(optimizer).__name__
            warnings.warn(f"cuda_graphs=True: {name} is not recorded, as it is not fused; give it fused=True.", stacklevel=3)
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
    :param optimizer: Any
    :return: all that its step reads and writes, gradients excepted: tensors, and numbers such as betas
    """
    for group in optimizer.param_groups:
        yield from (value for name, value in group.items() if name != "params")
        for parameter in group["params"]:
            yield parameter
            yield from optimizer.state.get(parameter, {}).values()


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
