"""SP: the error of a prediction of the next state, in features of spatio-temporal deep infomax (ST-DIM).

The forward model that the authors of SND (Pecháč, Chovanec, Farkaš, arXiv 2302.11563) have in their released program, with
the nets, losses and bonus of that program. The features are those of SND-STD without its term that spreads them; the
error of the prediction trains them, too, also those of s_{t+1}. Departs from the program: the nets read only the newest
frame of a stack. Knows frames and actions, but no environment.
"""

from collections.abc import Sequence
from typing import Any

import torch as th
from gymnasium import spaces

from sb3_snd.common.actions import ActionCoder
from sb3_snd.common.type_aliases import Transitions
from sb3_snd.common.validation import validate
from sb3_snd.rewards.base import IntrinsicReward
from sb3_snd.rewards.forward_model import ForwardModel
from sb3_snd.rewards.rollout import Step
from sb3_snd.targets.std import REGULARISATION, STDTarget


class SP(IntrinsicReward):
    """
    State prediction: the hyperbolic tangent of the prediction's mean squared error.

    :param observation_space: Observation space of the environment
    :param action_space: Action space of the environment
    :param obs_key: Entries of ``Dict`` observations that are read
    :param device: PyTorch device of the nets
    :param features_dim: Number of features, and width of the forward model; by default 512 for images and grids and
        128 for vectors
    :param target_width: Channels of the encoder's last convolution: 128 for Atari, 64 for Procgen
    :param settings: Settings of :class:`~sb3_snd.rewards.base.IntrinsicReward`
    :raises ValueError: for a value out of its range, or without an action space
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space | None = None,
        obs_key: str | Sequence[str] | None = None,
        device: th.device | str = "auto",
        features_dim: int | None = None,
        target_width: int = 128,
        **settings: Any,
    ) -> None:
        super().__init__(observation_space, obs_key, action_space=action_space, **settings)
        sizes = validate({"features_dim": features_dim, "target_width": target_width}, {})  # STDTarget has the rules
        self.init_kwargs |= sizes
        self.target = STDTarget(self.frame_shape, **sizes)
        width = self.target.features_dim
        self.forward_model = ForwardModel(width, ActionCoder(action_space, type(self).__name__), (width, width))
        self.set_up(device)

    @th.no_grad()
    def bonus(self, step: Step) -> th.Tensor:
        """Compute the hyperbolic tangent of the prediction's mean squared error, ``(n,)``."""
        batch = self.transitions(step.states, step.successors, step.actions)
        features, next_features = batch.split(self.target(batch.frames))
        return (self.forward_model(features, batch.actions) - next_features).square().mean(dim=1).tanh()

    @th.no_grad()
    def features(self, obs: Any) -> th.Tensor:
        """Compute the features; see :meth:`.IntrinsicReward.features`."""
        return self.target(self.prepare(obs))

    def loss(self, batch: Transitions, **draws: Any) -> dict[str, th.Tensor]:
        """Compute ST-DIM's loss and the mean squared error of the prediction; see :meth:`.IntrinsicReward.loss`."""
        features, next_features, nce, norm = self.target.infomax(batch)
        forward = (self.forward_model(features, batch.actions) - next_features).square().mean()
        loss = nce + REGULARISATION * norm + forward
        return {"loss": loss, "infonce": nce, "logit_norm": norm, "forward": forward}
