"""Disagreement: the variance of five models' predictions of the next state.

Pathak, Gandhi, Gupta: Self-supervised exploration via disagreement, arXiv 1906.04161. Nets, features, the dropped
losses and the division by a running standard deviation are those of its authors' program. Departs from it: images are
scaled to [0, 1] and not standardised. The nets read only the newest frame of a stack, and their weights are orthogonal at
first. Vectors and grids have 128 features. The loss is a mean over the models, not a sum, which Adam does not notice.
Knows frames and actions, but no environment.
"""

from collections.abc import Sequence
from typing import Any

import torch as th
from gymnasium import spaces
from torch import nn
from torch.nn import functional as F

from sb3_snd.common.actions import ActionCoder
from sb3_snd.common.preprocessing import is_grid
from sb3_snd.common.torch_layers import DQN_CONVS, encoder, orthogonal_
from sb3_snd.common.type_aliases import Transitions
from sb3_snd.common.validation import MAX_WIDTH, integer, or_none, validate
from sb3_snd.rewards.base import IntrinsicReward
from sb3_snd.rewards.rollout import Step

N_BLOCKS = 4  # residual blocks of a model
DROPPED = 0.2  # probability that a model is not trained on a transition
RULES = {"features_dim": or_none(integer(1, MAX_WIDTH)), "n_models": integer(2, 100)}


class ResidualModel(nn.Module):
    """
    Forward model with residual blocks of two layers. Each layer reads the action.

    :param features_dim: Number of features, and width of the layers
    :param action_dim: Size of an encoded action
    """

    def __init__(self, features_dim: int, action_dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(features_dim + action_dim, features_dim) for _ in range(2 * N_BLOCKS + 2))
        orthogonal_(self, 1.0)

    def forward(self, features: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """
        Predict features.

        :param features: Features of s_t, ``(B, features_dim)``
        :param actions: Encoded actions, ``(B, action_dim)``
        :return: predicted features of s_{t+1}, ``(B, features_dim)``
        """
        first, *hidden, last = (lambda x, layer=layer: layer(th.cat([x, actions], dim=1)) for layer in self.layers)
        x = F.leaky_relu(first(features))
        for inner, outer in zip(hidden[::2], hidden[1::2], strict=True):
            x = x + outer(F.leaky_relu(inner(x)))
        return last(x)


def mean_of_kept(errors: th.Tensor, uniform: th.Tensor) -> th.Tensor:
    """
    Compute the mean error, of which each entry is dropped with probability 0.2 and the others count 1/0.8 times.

    :param errors: ``(n_models, B)``
    :param uniform: Random numbers in [0, 1), ``(n_models, B)``
    :return: scalar
    """
    return (errors * (uniform >= DROPPED)).mean() / (1 - DROPPED)


class Disagreement(IntrinsicReward):
    """
    Variance of an ensemble. Where the outcome is random, all models learn its mean and agree, so noise is not paid
    for in the long run.

    :param observation_space: Observation space of the environment
    :param action_space: Action space of the environment
    :param obs_key: Entries of ``Dict`` observations that are read
    :param device: PyTorch device of the nets
    :param features_dim: Number of features, which come from a random net that is not trained, and width of the
        models; by default 512 for images, as in the paper's program, and 128 for vectors and grids
    :param n_models: Number of models
    :param settings: Settings of :class:`~sb3_snd.rewards.base.IntrinsicReward`; ``norm_reward`` is True by default
    :raises ValueError: for a value out of its range, or without an action space
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space | None = None,
        obs_key: str | Sequence[str] | None = None,
        device: th.device | str = "auto",
        features_dim: int | None = None,
        n_models: int = 5,
        **settings: Any,
    ) -> None:
        sizes = validate({"features_dim": features_dim, "n_models": n_models}, RULES)
        super().__init__(observation_space, obs_key, action_space=action_space, defaults={"norm_reward": True}, **settings)
        self.init_kwargs |= sizes
        self.coder = ActionCoder(action_space, type(self).__name__)
        small = len(self.frame_shape) == 1 or is_grid(self.frame_shape)
        width = sizes["features_dim"] or (128 if small else 512)
        self.encoder = encoder(self.frame_shape, DQN_CONVS, width, nn.LeakyReLU)
        orthogonal_(self.encoder, 2**0.5)
        self.encoder.requires_grad_(False)
        self.models = nn.ModuleList(ResidualModel(width, self.coder.dim) for _ in range(sizes["n_models"]))
        self.set_up(device)

    def _predict(self, features: th.Tensor, actions: th.Tensor | None) -> th.Tensor:
        """Return the predictions of all models, ``(n_models, B, features_dim)``."""
        assert actions is not None, "The transitions have no actions."
        encoded = self.coder.encode(actions)
        return th.stack([model(features, encoded) for model in self.models])

    @th.no_grad()
    def bonus(self, step: Step) -> th.Tensor:
        """Compute the variance of the predictions over the models, mean over the features, ``(n,)``."""
        predictions = self._predict(self.features(step.states), step.actions)
        return predictions.var(dim=0, correction=0).mean(dim=1)

    @th.no_grad()
    def features(self, obs: Any) -> th.Tensor:
        """Compute the random features; see :meth:`.IntrinsicReward.features`."""
        return self.encoder(self.prepare(obs))

    def loss(self, batch: Transitions, **draws: Any) -> dict[str, th.Tensor]:
        """Compute the mean squared error of all models, each on other transitions; see :meth:`.IntrinsicReward.loss`."""
        features, next_features = batch.split(self.encoder(batch.frames))
        errors = (self._predict(features, batch.actions) - next_features).square().mean(dim=2)  # (n_models, B)
        return {"loss": mean_of_kept(errors, th.rand_like(errors))}
