"""``RND``: novelty of the successor as the error with which a net predicts the output of a fixed random net.

Burda, Edwards, Storkey, Klimov: Exploration by random network distillation, arXiv 1810.12894, as its authors did it.
``snd="rnd"`` is the variant with which the authors of SND compared theirs.

Where this departs from the paper's program:

- Statistics of observations and of the bonus are updated at each step and not after each rollout. So in the first
  hundred steps, while the discounted sums of the bonus rise from 0, rewards are larger than the program's.
- The random steps before the training are 128 per environment. The paper has "a small number", the program 6,400.
- The intrinsic reward is at most 1, as that of all rewards here.
- If an episode ends, the successor is its last observation and not the first of the next episode.
- Grids of symbols and vectors have smaller nets.

Knows transitions, but no environment.
"""

from collections.abc import Sequence
from typing import Any

import torch as th
from gymnasium import spaces

from sb3_snd.common.running_stats import RunningMeanStd
from sb3_snd.common.type_aliases import Transitions
from sb3_snd.common.validation import integer, validate
from sb3_snd.rewards.base import IntrinsicReward
from sb3_snd.rewards.distillation import FEATURES_DIM, RandomDistillation
from sb3_snd.rewards.rollout import Step
from sb3_snd.rewards.scale import RewardScale

#: With more environments than these, the predictor is trained on a share of the samples, so that as many are used
#: as if there were 32: the authors' 128 environments use 25 % (section 3.4 and appendix)
TRAINING_ENVS = 32
RULES = {"features_dim": FEATURES_DIM, "warm_up_steps": integer(0, 1_000_000)}


class RND(IntrinsicReward):
    """
    Random network distillation (arXiv 1810.12894). The bonus is the mean squared error of the prediction,
    ‖f̂(s_{t+1}) − f(s_{t+1})‖² / D.

    The nets read the newest frame, normalised for each pixel by a running mean and standard deviation and clamped
    to ±5 (section 2.4). The bonus is divided by the standard deviation of its discounted sums since the training
    began, unless ``norm_reward=False``.

    In the paper the intrinsic stream does not end with the episode: ``PPOSND(intrinsic_episodic=False)``.

    :param observation_space: Observation space of the environment
    :param action_space: Action space of the environment, which is not read
    :param obs_key: Entries of ``Dict`` observations that are read
    :param device: PyTorch device
    :param features_dim: Number D of features; by default 512 for images and 128 for vectors
    :param warm_up_steps: Steps of each environment with random actions before the first training, whose
        observations start the statistics. They do not count as steps of the training. Use 0 if the environment
        does not allow all actions at all times
    :param settings: See :class:`~sb3_snd.rewards.base.IntrinsicReward`; here ``norm_reward`` is True by default
    :raises ValueError: for a value out of its range, or an observation space that cannot be read
    """

    share: th.Tensor

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space | None = None,
        obs_key: str | Sequence[str] | None = None,
        device: th.device | str = "auto",
        features_dim: int | None = None,
        warm_up_steps: int = 128,
        **settings: Any,
    ) -> None:
        defaults = {"norm_reward": True}
        super().__init__(observation_space, obs_key, action_space=action_space, defaults=defaults, **settings)
        own = validate({"features_dim": features_dim, "warm_up_steps": warm_up_steps}, RULES)
        self.init_kwargs |= own
        if self.obs_stats is None:
            self.obs_stats = RunningMeanStd(self.frame_shape)  # of each pixel
        self.scale = RewardScale(window=None, least_spread=0.0)
        self.nets = RandomDistillation(self.frame_shape, own["features_dim"])
        #: share of the samples on which the predictor is trained
        self.register_buffer("share", th.ones(()), persistent=False)
        self.set_up(device)

    @property
    def warm_up_steps(self) -> int:  # type: ignore[override]
        """Steps with random actions before the training: none if something was observed, also before it was saved."""
        assert self.obs_stats is not None
        return self.init_kwargs["warm_up_steps"] if self.obs_stats.count < 1 else 0

    def start(self, n_envs: int) -> None:
        """Choose the share of the samples on which the predictor is trained; see :meth:`.IntrinsicReward.start`."""
        self.share.fill_(min(1.0, TRAINING_ENVS / n_envs))  # in place, since a recorded update reads it

    @th.no_grad()
    def features(self, obs: Any) -> th.Tensor:
        """Compute the features of the random net; see :meth:`.IntrinsicReward.features`."""
        return self.nets.target(self.prepare(obs))

    def bonus(self, step: Step) -> th.Tensor:
        """Compute the mean squared error of the prediction of the successors, ``(n,)``."""
        return self.nets(self.prepare(step.successors)).square().mean(dim=1)

    def loss(  # type: ignore[override]
        self, batch: Transitions, uniform: th.Tensor | None = None
    ) -> dict[str, th.Tensor]:
        """
        Compute the mean squared error of the prediction, over a random share of the samples.

        :param batch: Prepared transitions
        :param uniform: Numbers in [0, 1) that select the samples, ``(B,)``; drawn if not given
        :return: ``"loss"``, a scalar
        """
        _, successors = batch.split(batch.frames)
        errors = self.nets(successors).square().mean(dim=1)  # (B,)
        uniform = th.rand_like(errors) if uniform is None else uniform
        kept = uniform < self.share
        return {"loss": (errors * kept).sum() / kept.sum().clamp(min=1)}
