"""``BonusStatistics``: what is logged about a rollout's intrinsic rewards, and warnings about useless ones.

Knows numbers and the scale of a reward, but no environment or logger.
"""

import warnings
from typing import Any

import numpy as np
import torch as th

from sb3_snd.rewards.scale import RewardScale

#: if a larger share of a rollout's intrinsic rewards is at the limit, they are uninformative
MOST_CLIPPED = 0.9
MOST_SEEN = 1024  # number of steps whose statistics are kept before they are summed up
#: a mean intrinsic reward below this share of the mean absolute extrinsic one has no effect
LEAST_SHARE = 1e-4
#: Mean intrinsic reward for which ``eta`` is proposed. With the paper's settings it is 0.005 to 0.02 in the
#: paper's games; in the small tasks of ``hyperparams/`` it is 0.05 to 0.5.
PROPOSED_MEAN = 0.03


class BonusStatistics:
    """
    Statistics of all steps since the last call of :meth:`pop`. They stay on the device until then.

    :param scale: Scale of the reward
    """

    def __init__(self, scale: RewardScale) -> None:
        self.scale = scale
        #: number of calls of :meth:`pop` that returned statistics
        self.n_rollouts = 0
        #: ``eta`` with which the last rollout's mean intrinsic reward would be 0.03, apart from clipping
        self.proposed_eta: float | None = None
        self._warned = False
        #: bonus, normalised bonus and intrinsic rewards, ``(n_envs,)`` each, of steps not yet summed up
        self._seen: list[tuple[th.Tensor, th.Tensor, th.Tensor]] = []
        self._sums: dict[str, th.Tensor] = {}
        self._largest: th.Tensor | None = None
        self._extrinsic_sum = 0.0
        self._n_steps = 0

    def add(self, bonus: th.Tensor, normalized: th.Tensor, intrinsic: th.Tensor) -> None:
        """
        Add a step.

        :param bonus: ``(n_envs,)``
        :param normalized: Normalised bonus, ``(n_envs,)``
        :param intrinsic: Intrinsic reward, ``(n_envs,)``
        """
        self._seen.append((bonus, normalized, intrinsic))
        if len(self._seen) == MOST_SEEN:
            self._sum_up()

    def add_extrinsic(self, extrinsic: np.ndarray) -> None:
        """
        Add the environments' own rewards of a step.

        :param extrinsic: ``(n_envs,)``
        """
        self._extrinsic_sum += float(np.abs(extrinsic).mean())

    def _sum_up(self) -> None:
        """Sum up all steps since the last call at once."""
        if not self._seen:
            return
        # (steps, n_envs) each
        bonus, normalized, intrinsic = (th.stack(each) for each in zip(*self._seen, strict=True))
        columns = {
            "relative_novelty": normalized,
            "novelty_mean": bonus,
            "intrinsic_reward_mean": intrinsic,
            "intrinsic_reward_clipped": (intrinsic >= 1).float(),
        }
        for name, values in columns.items():
            self._sums[name] = self._sums.get(name, 0.0) + values.mean(dim=1).sum()
        largest = intrinsic.max()
        self._largest = largest if self._largest is None else th.maximum(self._largest, largest)
        self._n_steps += len(self._seen)
        self._seen = []

    def pop(self) -> dict[str, float]:
        """
        Return the statistics, and begin anew.

        :return: ``novelty_mean`` (the bonus before eta and clipping), ``intrinsic_reward_mean``,
            ``intrinsic_reward_max``, and ``intrinsic_reward_clipped``, the share of rewards at their limit of
            1; empty if there was no step
        """
        self._sum_up()
        statistics = {name: value.item() / self._n_steps for name, value in self._sums.items()}
        if self._largest is not None:
            statistics["intrinsic_reward_max"] = self._largest.item()
            self.n_rollouts += 1
            relative = statistics.pop("relative_novelty")
            self.proposed_eta = PROPOSED_MEAN / relative if relative > 0 else None
            self._check(statistics, self._extrinsic_sum / self._n_steps)
        self._sums, self._largest, self._n_steps, self._extrinsic_sum = {}, None, 0, 0.0
        return statistics

    def _check(self, statistics: dict[str, float], extrinsic: float) -> None:
        """
        Warn once if the bonus is uninformative, unless it was switched off or its schedule has lowered it.

        :param statistics: Statistics of a rollout
        :param extrinsic: Mean absolute extrinsic reward of the rollout
        """
        scale = self.scale
        mean, clipped = statistics["intrinsic_reward_mean"], statistics["intrinsic_reward_clipped"]
        if self._warned or scale.eta < scale.first_eta or scale.eta == 0:
            return
        if self.proposed_eta is None:
            self._warned = True
            warnings.warn("Novelty is 0, so no eta gives an intrinsic reward: choose another target.", stacklevel=2)
            return
        if clipped > MOST_CLIPPED:
            reason = f"{clipped:.0%} of the intrinsic rewards are clipped at 1 and do not distinguish states: lower eta"
        elif mean == 0 or mean < LEAST_SHARE * extrinsic:
            reason = (
                f"The mean intrinsic reward, {mean:.2g}, has no effect beside a mean absolute extrinsic reward of"
                f" {extrinsic:.2g}: raise eta"
            )
        else:
            return
        self._warned = True
        proposal = f"{self.proposed_eta:.2g} would give a mean of {PROPOSED_MEAN}"
        warnings.warn(f"{reason}, which is {scale.eta:g}; {proposal}, or set norm_reward=True.", stacklevel=2)

    def get_run_state(self) -> dict[str, Any]:
        """
        Return what a checkpoint must hold: everything but the scale.

        :return: attribute name -> value
        """
        self._sum_up()
        return {name: value for name, value in vars(self).items() if name not in ("scale", "_seen")}

    def set_run_state(self, state: dict[str, Any], device: th.device) -> None:
        """
        Restore the state that :meth:`get_run_state` returned.

        :param state: Attribute name -> value; its tensors may be on any device
        :param device: Device of the reward
        """
        vars(self).update(state)
        self._sums = {name: value.to(device) for name, value in self._sums.items()}
        self._largest = None if self._largest is None else self._largest.to(device)
