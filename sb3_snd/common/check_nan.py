"""Faults that end a run: non-finite values, full memory or disk, dead workers. Each is reported in one
sentence.

Knows numbers, error types and whether a call is being recorded, but no algorithm or command line.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch as th
from torch import nn

from sb3_snd.common.cuda_graphs import is_recording


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


def check_gradients(
    net: nn.Module,
    owner: str,
    terms: dict[str, Any] | None = None,
    norm: th.Tensor | None = None,
) -> None:
    """
    Check that all gradients are finite. This must be called before an optimiser's step. It reads one value
    from the device. While a call is being recorded it does nothing: a recorded call has to return the norm,
    which is checked later.

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
        # By an earlier recorded step
        poisoned = not all(weight.isfinite().all() for weight in net.parameters())
        check_terms(terms or {}, owner, poisoned)
        gradients = {name: weight.grad for name, weight in net.named_parameters() if weight.grad is not None}
        broken = [name for name, gradient in gradients.items() if not gradient.isfinite().all()]
        place = broken[0] if broken else "all of it"
        raise NonFiniteError(f"the gradient of {owner}'s loss in {place}", total, poisoned)
