"""``NovelD``: how much more novel the successor is than the state, at its first visit within the episode.

Zhang et al.: NovelD, a simple yet effective exploration criterion, arXiv 2012.08621. Where this departs from the
authors' program:

- A first visit is told by what the agent sees, its newest frame. The program looks at the whole grid, which the
  agent cannot see.
- The nets are those of RND's authors with 128 features. The program puts smaller ones on a fixed random encoder.
- States are trained as well as successors, so that first and last states of episodes become familiar, too.
- The intrinsic reward is at most 1. The program limits the sum of both rewards instead.

Knows transitions, but no environment.
"""

from collections.abc import Sequence
from typing import Any

import torch as th
from gymnasium import spaces

from sb3_snd.common.type_aliases import Transitions
from sb3_snd.common.validation import FRACTION, validate
from sb3_snd.rewards.counts import VisitMemory
from sb3_snd.rewards.distillation import FEATURES_DIM, RandomDistillation
from sb3_snd.rewards.episodic import EpisodicReward
from sb3_snd.rewards.rollout import Step
from sb3_snd.rewards.visits import FrameHash

RULES = {"features_dim": FEATURES_DIM, "alpha": FRACTION}


class NovelD(EpisodicReward):
    """
    The bonus is max(n(s_{t+1}) − α n(s_t), 0) if the episode has not shown s_{t+1} before, else 0. Novelty n is
    the length of RND's error, ‖f̂(s) − f(s)‖₂, which is not normalised.

    It suits observations that come again bit for bit, such as grids. Where each is new, all visits are first ones.

    :param observation_space: Observation space of the environment
    :param action_space: Action space of the environment, which is not read
    :param obs_key: Entries of ``Dict`` observations that are read
    :param device: PyTorch device
    :param features_dim: Number of features of the random net
    :param alpha: α in the formula; with 1 only the boundary of what is known is rewarded, with 0 all that is novel
    :param settings: Settings of :class:`~sb3_snd.rewards.base.IntrinsicReward`
    :raises ValueError: for a value out of its range, or an observation space that cannot be read
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space | None = None,
        obs_key: str | Sequence[str] | None = None,
        device: th.device | str = "auto",
        features_dim: int = 128,
        alpha: float = 0.5,
        **settings: Any,
    ) -> None:
        own = validate({"features_dim": features_dim, "alpha": alpha}, RULES)
        super().__init__(observation_space, obs_key, action_space=action_space, **settings)
        self.init_kwargs |= own
        self.alpha = own["alpha"]
        self.hash = FrameHash(self.reader.shape)
        self.memory = VisitMemory("first_visit")
        self.nets = RandomDistillation(self.frame_shape, own["features_dim"])
        self.set_up(device)

    def embed(self, frames: th.Tensor) -> th.Tensor:
        """Return the hashes of the frames, ``(n, 1)`` int64."""
        return self.hash(frames)

    @th.no_grad()
    def features(self, obs: Any) -> th.Tensor:
        """Compute the features of the random net; see :meth:`.IntrinsicReward.features`."""
        return self.nets.target(self.prepare(obs))

    @th.no_grad()
    def bonus(self, step: Step) -> th.Tensor:
        """Compute the rise of novelty, or 0 if the successor was seen before in its episode, ``(n,)``."""
        assert step.successors is not None
        novelty = self.nets(self.prepare(th.cat([step.states, step.successors]))).norm(dim=1)
        before, after = novelty.chunk(2)
        return (after - self.alpha * before).clamp(min=0) * super().bonus(step)

    def loss(self, batch: Transitions, **draws: Any) -> dict[str, th.Tensor]:
        """Compute the mean squared error of the prediction, over states and successors."""
        states, successors = batch.split(self.nets(batch.frames).square().mean(dim=1))
        return {"loss": (states.mean() + successors.mean()) / 2}
