"""Faults that end a run, each in one sentence: non-finite values, full memory or disk, dead workers.

Knows error types and an algorithm's sizes, but no command line.
"""

import errno
from collections.abc import Callable
from typing import Any

import numpy as np
import torch as th

from sb3_snd.common.check_nan import NonFiniteError


def describe(error: BaseException, memory: Callable[[], dict[str, int]]) -> str | None:
    """
    Describe an error that ended a run.

    :param error: The error
    :param memory: Returns the number of bytes that a run needs, by the names of the settings that determine
        them
    :return: one sentence without its full stop, with the fault and the remedy; None if the error is a bug in
        the program
    """
    if isinstance(error, NonFiniteError):
        return str(error)
    text = str(error)
    if isinstance(error, (th.OutOfMemoryError, MemoryError)) or "not enough memory" in text:
        needs = ", ".join(f"{name} about {size / 1e9:.3g} GB" for name, size in memory().items())
        return f"the memory is full: lower one of these settings ({needs})"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full: free some space"
    if isinstance(error, (EOFError, ConnectionError)):  # raised by a pipe
        return "an environment's worker process has died: look for its own message above"
    return None


def needed_memory(model: Any) -> dict[str, int]:
    """
    Estimate the memory that a run needs. Activations are counted by a forward pass of one observation through
    the policy.

    :param model: An on-policy algorithm
    :return: bytes by setting: for the observations of a rollout, and for a minibatch with the activations that
        its gradient needs
    """
    space, buffer = model.observation_space, model.rollout_buffer
    parts = list(space.values()) if hasattr(space, "values") else [space]
    obs_bytes = sum(int(np.prod(part.shape or (1,))) * np.dtype(part.dtype or np.int64).itemsize for part in parts)
    counted = [0]

    def count(*call: Any) -> None:  # call is (module, arguments, result)
        counted.append(4 * call[2].numel() if isinstance(call[2], th.Tensor) else 0)

    hooks = [module.register_forward_hook(count) for module in model.policy.modules() if not list(module.children())]
    with th.no_grad():
        model.policy.predict_values(model.policy.obs_to_tensor(space.sample())[0])
    for hook in hooks:
        hook.remove()
    rollout = buffer.buffer_size * model.n_envs * obs_bytes
    batch = getattr(model, "batch_size", buffer.buffer_size * model.n_envs) * (4 * obs_bytes + 2 * sum(counted))
    names = (
        "n_envs, n_steps and the frame size:" if max(len(part.shape or ()) for part in parts) == 3 else "n_envs and n_steps:"
    )
    return {names: rollout, "batch_size:": batch}
