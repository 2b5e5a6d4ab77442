"""``RewardScale``: from an unscaled bonus to the intrinsic reward.

Knows numbers and the number of environments, but not where the bonus comes from.
"""

from typing import Any

import torch as th
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import FloatSchedule
from torch import nn

from sb3_snd.common.running_stats import RunningMeanStd

#: discount factor of the sums by whose standard deviation norm_reward=True divides the bonus
RETURN_DISCOUNT = 0.99
RETURN_WINDOW = 200  # number of steps that the return statistics remember
#: Lower bound on the standard deviation of the discounted sums, as a share of their mean. Without it the
#: reward would rise to its limit if all states were equally novel: the sums would settle, and the estimate
#: would forget that they ever differed. In this package's tasks the standard deviation is 0.2 to 1 times the
#: mean. With the bound, a bonus that never changes gives a reward of eta / 20.
LEAST_SPREAD = 0.2


class RewardScale(nn.Module):
    """
    Scale a bonus to the intrinsic reward, clip(eta · bonus / std, 0, 1).

    Without ``norm_reward`` there is no division. With it, std is the running standard deviation of the
    bonus's discounted sum over time in each environment (RND, arXiv 1810.12894, section 2.4), or a share of
    the mean of the sums if that is more.

    The statistics are saved with the model. The sums belong to the environments, so they are not.

    :param window: Number of steps that the statistics remember. None means all: then they also remember that
        the sums started at 0, as RND's do
    :param least_spread: Lower bound on the standard deviation, as a share of the sums' mean
    :param settled: Whether the sums start as if the first bonus had always been there, since from that bonus they
        would need 100 steps to settle. It must not be so where the first bonus of an episode is its largest
    """

    returns: th.Tensor | None

    def __init__(self, window: int | None = RETURN_WINDOW, least_spread: float = LEAST_SPREAD, settled: bool = True) -> None:
        super().__init__()
        self.settled = settled
        self.window = window
        self.least_spread = least_spread
        self.return_stats: RunningMeanStd | None = None
        #: discounted sum of each environment, ``(n_envs,)``; None before the first step
        self.register_buffer("returns", None, persistent=False)
        self.register_load_state_dict_pre_hook(_match_return_stats)

    def configure(self, eta: float | Schedule, norm_reward: bool, device: th.device) -> None:
        """
        Apply settings.

        :param eta: Scale of the intrinsic reward, or a function of the remaining training progress
        :param norm_reward: Whether to divide the bonus by the standard deviation of its discounted sums
        :param device: Device of the statistics
        """
        self._schedule = eta
        #: scale of the intrinsic reward at the beginning of training, and at present
        self.first_eta = self.eta = FloatSchedule(eta)(1.0)
        if not norm_reward:
            self.return_stats = None
        elif self.return_stats is None:
            self.return_stats = RunningMeanStd((), 0.0, True, self.window).to(device)

    def set_progress(self, progress_remaining: float) -> None:
        """
        Update ``eta`` from its schedule. A constant stays as it is.

        :param progress_remaining: Remaining training progress, from 1 to 0
        """
        if callable(self._schedule):
            self.eta = FloatSchedule(self._schedule)(progress_remaining)

    def forget(self) -> None:
        """Forget the sums, which are those of other environments."""
        self.returns = None

    @th.no_grad()
    def update(self, bonus: th.Tensor) -> None:
        """
        Update the discounted sums and their statistics with one step of all environments.

        :param bonus: ``(n_envs,)``
        """
        if self.return_stats is None:
            return
        returns = self.returns
        if self.window is None and (returns is None or len(returns) != len(bonus)):
            returns = th.zeros_like(bonus)
            self.return_stats.update(returns)  # otherwise a single environment's first bonus would be divided by 0
        if returns is None or len(returns) != len(bonus):
            self.returns = bonus / (1 - RETURN_DISCOUNT) if self.settled else bonus
        else:
            self.returns = RETURN_DISCOUNT * returns + bonus
        self.return_stats.update(self.returns)

    def normalize(self, bonus: th.Tensor) -> th.Tensor:
        """
        Divide the bonus by the standard deviation of its discounted sums, or by ``least_spread`` times their
        mean if that is more. Without ``norm_reward``, return it unchanged.

        :param bonus: ``(n,)``
        :return: normalised bonus, ``(n,)``
        """
        if self.return_stats is None:
            return bonus
        spread = th.maximum(self.return_stats.var.sqrt(), self.least_spread * self.return_stats.mean)
        return bonus / spread.clamp(min=1e-12).to(bonus.dtype)

    def clip(self, normalized: th.Tensor) -> th.Tensor:
        """
        Compute the intrinsic reward from a normalised bonus.

        :param normalized: Bonus as :meth:`normalize` returns it, ``(n,)``
        :return: clip(eta · bonus, 0, 1), ``(n,)``
        """
        return (self.eta * normalized).clamp_(0.0, 1.0)

    def forward(self, bonus: th.Tensor) -> th.Tensor:
        """
        Compute the intrinsic reward.

        :param bonus: Unscaled bonus, ``(n,)``
        :return: clip(eta · bonus / std, 0, 1), ``(n,)``
        """
        return self.clip(self.normalize(bonus))


def _match_return_stats(scale: RewardScale, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Drop saved statistics of the sums if they are not used; keep the present ones if none were saved."""
    used = {} if scale.return_stats is None else scale.return_stats.state_dict(prefix=f"{prefix}return_stats.")
    for name in [name for name in state_dict if name.startswith(f"{prefix}return_stats.") and name not in used]:
        del state_dict[name]
    state_dict.update({name: value for name, value in used.items() if name not in state_dict})
