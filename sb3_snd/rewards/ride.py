"""RIDE: how far an action moves the state in learned features, less where the agent has been in the episode.

Raileanu, Rocktäschel: RIDE, rewarding impact-driven exploration for procedurally-generated environments, arXiv
2002.12292. As in the paper, a forward and an inverse model train the features; the forward model's loss trains those of
s_{t+1}, too. The weights of both losses, the number of features and ``eta`` are those of its authors' program, and the bonus
is not normalised, as there.

Departs from that program: it counts visits of the simulator's full grid, while this counts what the agent sees, unless
``place`` is True. The convolutions are those of ICM for images, and for grids those of all encoders of this package. Knows
frames and actions, but no environment.
"""

from collections.abc import Sequence
from typing import Any

import torch as th
from gymnasium import spaces

from sb3_snd.common.type_aliases import Transitions
from sb3_snd.common.validation import BOOL, MAX_WIDTH, integer, validate
from sb3_snd.rewards.counts import VisitMemory
from sb3_snd.rewards.episodic import EpisodicReward
from sb3_snd.rewards.forward_model import ForwardModel
from sb3_snd.rewards.inverse_model import InverseModel
from sb3_snd.rewards.rollout import Step
from sb3_snd.rewards.visits import FrameHash

FORWARD_WEIGHT = 10.0
INVERSE_WEIGHT = 0.1
RULES = {"features_dim": integer(1, MAX_WIDTH), "place": BOOL}


class RIDE(EpisodicReward):
    """
    Impact of actions: the distance between the features of s_t and s_{t+1}, over √n with the number n of visits of
    s_{t+1} in its episode, the present one included. It does not fade in the course of training. It suits
    observations that come again bit for bit, such as grids; where each is new, n is always 1.

    :param observation_space: Observation space of the environment
    :param action_space: Action space of the environment
    :param obs_key: Entries of ``Dict`` observations that are read
    :param device: PyTorch device of the nets
    :param features_dim: Number of features
    :param place: Whether to count visits of the places of the agents, which they may not see, instead of observations.
        Each environment must be wrapped in ``sb3_snd.envs.PlaceInfo``
    :param settings: Settings of :class:`~sb3_snd.rewards.base.IntrinsicReward`; ``eta`` is 0.1 by default, the
        coefficient of the authors' runs in most of MiniGrid; in the largest levels it is 0.5
    :raises ValueError: for a value out of its range, or without an action space
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space | None = None,
        obs_key: str | Sequence[str] | None = None,
        device: th.device | str = "auto",
        features_dim: int = 128,
        place: bool = False,
        **settings: Any,
    ) -> None:
        own = validate({"features_dim": features_dim, "place": place}, RULES)
        super().__init__(observation_space, obs_key, action_space=action_space, defaults={"eta": 0.1}, **settings)
        self.init_kwargs |= own
        self.reads_places = place
        self.inverse_model = InverseModel(self.frame_shape, action_space, type(self).__name__, own["features_dim"])
        self.forward_model = ForwardModel(own["features_dim"], self.inverse_model.coder)
        self.hash = FrameHash(self.reader.shape)
        self.memory = VisitMemory("episodic")
        self.set_up(device)

    def embed(self, frames: th.Tensor) -> th.Tensor:
        """Return the hashes of the frames, ``(n, 1)`` int64."""
        return self.hash(frames)

    @th.no_grad()
    def bonus(self, step: Step) -> th.Tensor:
        """Compute the change of the features over √n, ``(n,)``; see :meth:`.IntrinsicReward.bonus`."""
        batch = self.transitions(step.states, step.successors)
        features, next_features = batch.split(self.inverse_model(batch.frames))
        return (next_features - features).norm(dim=1) * super().bonus(step)

    @th.no_grad()
    def features(self, obs: Any) -> th.Tensor:
        """Compute the inverse model's features; see :meth:`.IntrinsicReward.features`."""
        return self.inverse_model(self.prepare(obs))

    def loss(self, batch: Transitions, **draws: Any) -> dict[str, th.Tensor]:
        """
        Compute the mean distance of the predicted features with weight 10, and the inverse model's loss with
        weight 0.1; see :meth:`.IntrinsicReward.loss`.
        """
        features, next_features = batch.split(self.inverse_model(batch.frames))
        forward = (self.forward_model(features, batch.actions) - next_features).norm(dim=1).mean()
        inverse = self.inverse_model.loss(features, next_features, batch)
        return {"loss": FORWARD_WEIGHT * forward + INVERSE_WEIGHT * inverse, "inverse": inverse, "forward": forward}
