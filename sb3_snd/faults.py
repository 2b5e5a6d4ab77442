"""Faults that end a run: non-finite values, full memory or disk, dead workers. Each is reported in one
sentence.

Knows numbers, error types and whether a call is being recorded, but no algorithm or command line.
"""

import errno
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch as th
from torch import nn

from sb3_snd.graphs import is_recording


class NonFiniteError(ValueError):
    """
    Raised if a reward, loss or gradient is infinite or NaN.

    :param term: Name of the value
    :param value: The value
    :param poisoned: Whether nets have been updated with it; otherwise they are unchanged
    """

    def __init__(self, term: str, value: float, poisoned: bool = False) -> None:
        super().__init__(f"{term} is {value}: lower learning_rate or max_grad_norm, or check the environment's output")
        self.poisoned = poisoned


def check_rewards(rewards: np.ndarray, names: Iterable[str]) -> None:
    """
    Check that all rewards are finite.

    :param rewards: ``(n_envs, S)``
    :param names: Names of the ``S`` streams
    :raises NonFiniteError: if a reward is infinite or NaN
    """
    if not np.isfinite(rewards).all():
        env, stream = np.argwhere(~np.isfinite(rewards))[0]
        raise NonFiniteError(f"the {list(names)[stream]} reward of environment {env}", float(rewards[env, stream]))


def check_terms(terms: dict[str, Any], owner: str, poisoned: bool) -> None:
    """
    Check that all terms of a loss are finite.

    :param terms: Numbers or scalar tensors by name
    :param owner: Name of the algorithm to which the terms belong
    :param poisoned: Whether nets have been updated with them
    :raises NonFiniteError: if a term is infinite or NaN
    """
    for name, term in terms.items():
        if not np.isfinite(float(term)):
            raise NonFiniteError(f"{owner}'s {name!r}", float(term), poisoned)


def gradient_norm(net: nn.Module) -> th.Tensor:
    """
    Compute the norm of all gradients of a net together.

    :param net: The net
    :return: norm, a scalar on the gradients' device
    """
    return th.nn.utils.get_total_norm([weight.grad for weight in net.parameters() if weight.grad is not None])


def check_gradients(net: nn.Module, owner: str, terms: dict[str, Any] | None = None, norm: th.Tensor | None = None) -> None:
    """
    Check that all gradients are finite. This must be called before an optimiser's step. It reads one value from
    the device. While a call is being recorded it does nothing: a recorded call has to return the norm, which is
    checked later.

    :param net: The net with the gradients
    :param owner: Name of the algorithm to which the loss belongs
    :param terms: Terms of the loss, which are named first if one of them is not finite
    :param norm: Result of :func:`gradient_norm`, if it is already known
    :raises NonFiniteError: if a gradient is infinite or NaN
    """
    if is_recording():
        return
    total = float(gradient_norm(net) if norm is None else norm)
    if not np.isfinite(total):
        poisoned = not all(weight.isfinite().all() for weight in net.parameters())  # by an earlier recorded step
        check_terms(terms or {}, owner, poisoned)
        gradients = {name: weight.grad for name, weight in net.named_parameters() if weight.grad is not None}
        name = next((name for name, gradient in gradients.items() if not gradient.isfinite().all()), "all of it")
        raise NonFiniteError(f"the gradient of {owner}'s loss in {name}", total, poisoned)


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
