"""ICM: the error of a prediction of the next state, in features that tell the action.

Pathak et al.: Curiosity-driven exploration by self-supervised prediction, arXiv 1705.05363, eq. 2 to 7. The weights of both
losses and ``eta`` are those of its authors' program, without its factor of 10 before the loss, which Adam does not notice.
As in that program, the error of the prediction trains the features of s_{t+1}, too.

Departs from both: the nets read only the newest frame of a stack, at its full size. Its last convolution has more than the
paper's 288 outputs, so a linear layer makes 288 features of them. The variant in the program of SND's authors (arXiv
2302.11563) is another: it reads the whole stack, has 512 features and three layers of 512 in both models, and pays the
hyperbolic tangent of the mean squared error. Knows frames and actions, but no environment.
"""

from collections.abc import Sequence
from typing import Any

import torch as th
from gymnasium import spaces

from sb3_snd.common.type_aliases import Transitions
from sb3_snd.common.validation import MAX_WIDTH, integer, validate
from sb3_snd.rewards.base import IntrinsicReward
from sb3_snd.rewards.forward_model import ForwardModel
from sb3_snd.rewards.inverse_model import InverseModel
from sb3_snd.rewards.rollout import Step

FORWARD_WEIGHT = 0.2  # β; the inverse model's loss has the weight 1 - β
RULES = {"features_dim": integer(1, MAX_WIDTH)}


class ICM(IntrinsicReward):
    """
    Intrinsic curiosity module. It pays for transitions that are hard to predict. What the agent cannot influence, the
    features need not hold.

    :param observation_space: Observation space of the environment
    :param action_space: Action space of the environment
    :param obs_key: Entries of ``Dict`` observations that are read
    :param device: PyTorch device of the nets
    :param features_dim: Number of features; 288 in the paper. The bonus is a sum over them
    :param settings: Settings of :class:`~sb3_snd.rewards.base.IntrinsicReward`; ``eta`` is 0.01 by default
    :raises ValueError: for a value out of its range, or without an action space
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space | None = None,
        obs_key: str | Sequence[str] | None = None,
        device: th.device | str = "auto",
        features_dim: int = 288,
        **settings: Any,
    ) -> None:
        sizes = validate({"features_dim": features_dim}, RULES)
        super().__init__(observation_space, obs_key, action_space=action_space, defaults={"eta": 0.01}, **settings)
        self.init_kwargs |= sizes
        self.inverse_model = InverseModel(self.frame_shape, action_space, type(self).__name__, sizes["features_dim"])
        self.forward_model = ForwardModel(sizes["features_dim"], self.inverse_model.coder)
        self.set_up(device)

    def _compute(self, batch: Transitions) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """Return the features of s_t and s_{t+1}, and half the summed squared error of the prediction, ``(B,)``."""
        features, next_features = batch.split(self.inverse_model(batch.frames))
        error = self.forward_model(features, batch.actions) - next_features
        return features, next_features, error.square().sum(dim=1) / 2

    @th.no_grad()
    def bonus(self, step: Step) -> th.Tensor:
        """Compute half the summed squared error of the prediction, ``(n,)``; see :meth:`.IntrinsicReward.bonus`."""
        return self._compute(self.transitions(step.states, step.successors, step.actions))[2]

    @th.no_grad()
    def features(self, obs: Any) -> th.Tensor:
        """Compute the inverse model's features; see :meth:`.IntrinsicReward.features`."""
        return self.inverse_model(self.prepare(obs))

    def loss(self, batch: Transitions, **draws: Any) -> dict[str, th.Tensor]:
        """Compute the losses of both models with weights 0.8 and 0.2; see :meth:`.IntrinsicReward.loss`."""
        features, next_features, errors = self._compute(batch)
        inverse, forward = self.inverse_model.loss(features, next_features, batch), errors.mean()
        loss = (1 - FORWARD_WEIGHT) * inverse + FORWARD_WEIGHT * forward
        return {"loss": loss, "inverse": inverse, "forward": forward}
