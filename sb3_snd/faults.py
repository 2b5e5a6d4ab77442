"""What can go wrong in a run: numbers that are none, memory or disk that is full, workers that die; each told in one sentence.

Knows numbers, error types and whether a call is being recorded; no algorithm, no command line.
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
    A reward, loss or gradient is infinite or no number.

    :param term: Which
    :param value: What it is
    :param poisoned: Whether nets have been updated with it; otherwise they are as before
    """

    def __init__(self, term: str, value: float, poisoned: bool = False) -> None:
        super().__init__(f"{term} is {value}: lower learning_rate or max_grad_norm, or look at what the environment gives")
        self.poisoned = poisoned


def check_rewards(rewards: np.ndarray, names: Iterable[str]) -> None:
    """
    :param rewards: ``(n_envs, S)``
    :param names: Of the ``S`` streams
    :raises NonFiniteError: if one is infinite or no number
    """
    if not np.isfinite(rewards).all():
        env, stream = np.argwhere(~np.isfinite(rewards))[0]
        raise NonFiniteError(f"the {list(names)[stream]} reward of environment {env}", float(rewards[env, stream]))


def check_terms(terms: dict[str, Any], owner: str, poisoned: bool) -> None:
    """
    :param terms: Numbers or scalar tensors by name
    :param owner: What they are terms of
    :param poisoned: Whether nets have been updated with them
    :raises NonFiniteError: if one is infinite or no number
    """
    for name, term in terms.items():
        if not np.isfinite(float(term)):
            raise NonFiniteError(f"{owner}'s {name!r}", float(term), poisoned)


def gradient_norm(net: nn.Module) -> th.Tensor:
    """
    :param net: Whose gradients
    :return: norm of all of them together, a scalar on their device
    """
    return th.nn.utils.get_total_norm([weight.grad for weight in net.parameters() if weight.grad is not None])


def check_gradients(net: nn.Module, owner: str, terms: dict[str, Any] | None = None, norm: th.Tensor | None = None) -> None:
    """
    To be called before an optimiser's step. One reading of the device, but none while the call is being recorded: a
    recorded call has to return the norm, which is looked at later.

    :param net: Whose gradients
    :param owner: What the loss belongs to
    :param terms: Of the loss, which are named first if one of them is not finite
    :param norm: :func:`gradient_norm`, where it is there already
    :raises NonFiniteError: if one is infinite or no number
    """
    if is_recording():
        return
    total = float(gradient_norm(net) if norm is None else norm)
    if not np.isfinite(total):
        poisoned = not all(weight.isfinite().all() for weight in net.parameters())  # by a recorded step before
        check_terms(terms or {}, owner, poisoned)
        gradients = {name: weight.grad for name, weight in net.named_parameters() if weight.grad is not None}
        name = next((name for name, gradient in gradients.items() if not gradient.isfinite().all()), "all of it")
        raise NonFiniteError(f"the gradient of {owner}'s loss in {name}", total, poisoned)


def describe(error: BaseException, memory: Callable[[], dict[str, int]]) -> str | None:
    """
    :param error: What ended a run
    :param memory: Tells the bytes that a run needs, by the name of the setting that they grow with
    :return: what is wrong and what to do, in one sentence without its end; None for an error in a program
    """
    if isinstance(error, NonFiniteError):
        return str(error)
    text = str(error)
    if isinstance(error, (th.OutOfMemoryError, MemoryError)) or "not enough memory" in text:
        needs = ", ".join(f"{name} about {size / 1e9:.3g} GB" for name, size in memory().items())
        return f"the memory is full: lower one of what takes it ({needs})"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full: make room"
    if isinstance(error, (EOFError, ConnectionError)):  # of a pipe
        return "an environment's worker process has died: look for its own message above"
    return None


def needed_memory(model: Any) -> dict[str, int]:
    """
    :param model: An on-policy algorithm
    :return: bytes by setting: observations of a rollout, and a minibatch with what its gradient needs to remember, by a
        forward pass of one observation through the policy
    """
    space, buffer = model.observation_space, model.rollout_buffer
    parts = list(space.values()) if hasattr(space, "values") else [space]
    obs_bytes = sum(int(np.prod(part.shape or (1,))) * np.dtype(part.dtype or np.int64).itemsize for part in parts)
    counted = [0]

    def count(*call: Any) -> None:  # module, arguments, result
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
