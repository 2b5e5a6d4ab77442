"""Faults that end a run, each in one sentence: non-finite values, full memory or disk, dead workers.

Knows error types and an algorithm's sizes, but no command line.
"""

import errno
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch as th

from sb3_snd.common.check_nan import NonFiniteError


class NeededMemory(NamedTuple):
    """Bytes that a run needs."""

    rollout: int  # observations of a rollout
    minibatch: int  # observations of a minibatch and the activations that its gradient needs
    has_images: bool  # whether a smaller frame size would help


def describe(error: BaseException, memory: Callable[[], NeededMemory]) -> str | None:
    """
    Describe an error that ended a run.

    :param error: The error
    :param memory: Returns the memory that the run needs; called if the memory is full
    :return: one sentence without its full stop, with the fault and the remedy; None if the error is a bug in
        the program
    """
    if isinstance(error, NonFiniteError):
        return str(error)
    if isinstance(error, (th.OutOfMemoryError, MemoryError)) or "not enough memory" in str(error):
        needed = memory()
        names = "n_envs, n_steps and the frame size" if needed.has_images else "n_envs and n_steps"
        rollout, minibatch = f"{needed.rollout / 1e9:.3g} GB", f"{needed.minibatch / 1e9:.3g} GB"
        return f"the memory is full: lower one of these settings ({names}: about {rollout}, batch_size: about {minibatch})"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full: free some space"
    if isinstance(error, (EOFError, ConnectionError)):  # raised by a pipe
        return "an environment's worker process has died: look for its own message above"
    return None


def needed_memory(model: Any) -> NeededMemory:
    """
    Estimate the memory that a run needs. Activations are counted by a forward pass of one observation through
    the policy.

    :param model: An on-policy algorithm
    :return: the estimate
    """
    space, n_transitions = model.observation_space, model.rollout_buffer.buffer_size * model.n_envs
    parts = list(space.values()) if hasattr(space, "values") else [space]
    obs_bytes = sum(int(np.prod(part.shape or (1,))) * np.dtype(part.dtype or np.int64).itemsize for part in parts)
    activations: list[int] = []  # bytes of each layer's output for one observation

    def count(*call: Any) -> None:  # call is (module, arguments, output)
        if isinstance(call[2], th.Tensor):
            activations.append(4 * call[2].numel())

    hooks = [module.register_forward_hook(count) for module in model.policy.modules() if not list(module.children())]
    with th.no_grad():
        model.policy.predict_values(model.policy.obs_to_tensor(space.sample())[0])
    for hook in hooks:
        hook.remove()
    return NeededMemory(
        rollout=n_transitions * obs_bytes,
        # Frames are uint8 in the buffer but float32 in a minibatch; and each activation has a gradient
        minibatch=getattr(model, "batch_size", n_transitions) * (4 * obs_bytes + 2 * sum(activations)),
        has_images=max(len(part.shape or ()) for part in parts) == 3,
    )
