"""E3B: how far a state is from all others of its episode, in the ellipsoid that these span.

Henaff, Raileanu, Jiang, Rocktäschel: Exploration via elliptical episodic bonuses, arXiv 2210.05805, eq. 2 and algorithm 1.
Departs from the authors' program, in which the first bonus of an episode is 0: here the first state is in the memory
from the beginning, as the paper's sum over earlier states says. Knows features, but no environment.
"""

from collections.abc import Sequence
from typing import Any

import torch as th
from gymnasium import spaces

from sb3_snd.common.type_aliases import Transitions
from sb3_snd.common.validation import MAX_WIDTH, integer, positive, validate
from sb3_snd.rewards.episodic import EpisodicMemory, EpisodicReward
from sb3_snd.rewards.inverse_model import InverseModel

RULES = {"features_dim": integer(1, MAX_WIDTH), "ridge": positive(1e6)}


class Ellipsoid(EpisodicMemory):
    """
    Inverse covariance C^-1 of the features of each environment's episode, C = ridge · I + Σ φφᵀ.

    :param features_dim: Number of features, D; the memory takes ``n_envs * D * D`` float32
    :param ridge: λ in the paper
    """

    inverse: th.Tensor

    def __init__(self, features_dim: int, ridge: float) -> None:
        super().__init__()
        self.features_dim, self.ridge = features_dim, ridge
        self.register_buffer("inverse", th.zeros(0, features_dim, features_dim), persistent=False)

    def start(self, n_envs: int) -> None:
        """Allocate an empty ellipsoid for each environment; see :meth:`.EpisodicMemory.start`."""
        device = self.inverse.device
        self.inverse = (th.eye(self.features_dim, device=device) / self.ridge).repeat(n_envs, 1, 1)

    def clear(self, which: th.Tensor) -> None:
        """Empty the ellipsoids of environments; see :meth:`.EpisodicMemory.clear`."""
        empty = th.eye(self.features_dim, device=which.device) / self.ridge
        self.inverse = empty.where(which[:, None, None], self.inverse)

    def compare(self, states: th.Tensor) -> tuple[th.Tensor, ...]:
        """Return C^-1 φ, ``(n_envs, D)``, and φᵀ C^-1 φ, ``(n_envs,)``."""
        projected = th.bmm(self.inverse, states.unsqueeze(2)).squeeze(2)
        return projected, (states * projected).sum(dim=1).clamp_(min=0)  # rounding may make it negative

    def bonus(self, *compared: th.Tensor) -> th.Tensor:
        """Return φᵀ C^-1 φ, ``(n_envs,)``."""
        return compared[1]

    def add(self, states: th.Tensor, compared: tuple[th.Tensor, ...], which: th.Tensor) -> None:
        """Take states into C by the formula of Sherman and Morrison."""
        projected, bonus = compared
        weight = which * (bonus > 0) / (1 + bonus)  # where rounding made it negative, adding would only amplify that
        self.inverse.baddbmm_((projected * -weight[:, None]).unsqueeze(2), projected.unsqueeze(1))


class E3B(EpisodicReward):
    """
    Elliptical episodic bonus, with features of an inverse model that is trained apart from the policy. It pays
    for new directions in the space of features, so it works where no observation ever comes twice.

    :param observation_space: Observation space of the environment
    :param action_space: Action space of the environment
    :param obs_key: Entries of ``Dict`` observations that are read
    :param device: PyTorch device of the nets
    :param features_dim: Number of features. The paper has 1024 (MiniHack) and 512 (Habitat); time and memory of a
        step grow with its square, so it is less by default
    :param ridge: λ in the paper: the smaller it is, the more the first directions of an episode are worth
    :param settings: Settings of :class:`~sb3_snd.rewards.base.IntrinsicReward`; ``norm_reward`` is True by
        default. In the paper's MiniHack runs the bonus is divided by its own running standard deviation, not by that
        of its discounted sums
    :raises ValueError: for a value out of its range, or without an action space
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space | None = None,
        obs_key: str | Sequence[str] | None = None,
        device: th.device | str = "auto",
        features_dim: int = 128,
        ridge: float = 0.1,
        **settings: Any,
    ) -> None:
        sizes = validate({"features_dim": features_dim, "ridge": ridge}, RULES)
        super().__init__(observation_space, obs_key, action_space=action_space, defaults={"norm_reward": True}, **settings)
        self.init_kwargs |= sizes
        self.inverse_model = InverseModel(self.frame_shape, action_space, type(self).__name__, sizes["features_dim"])
        self.memory = Ellipsoid(**sizes)
        self.set_up(device)

    def embed(self, frames: th.Tensor) -> th.Tensor:
        """Return the inverse model's features, ``(n, features_dim)``."""
        return self.features(frames)

    @th.no_grad()
    def features(self, obs: Any) -> th.Tensor:
        """Compute the inverse model's features; see :meth:`.IntrinsicReward.features`."""
        return self.inverse_model(self.prepare(obs))

    def loss(self, batch: Transitions, **draws: Any) -> dict[str, th.Tensor]:
        """Compute the inverse model's loss, the only one that trains the features."""
        features = batch.split(self.inverse_model(batch.frames))
        return {"loss": self.inverse_model.loss(*features, batch)}
