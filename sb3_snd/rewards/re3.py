"""``RE3``: the distance of a state to its k-th nearest neighbour among recent ones, in the features of a random net.

Seo et al.: State entropy maximization with random encoders for efficient exploration, arXiv 2102.09430, section 4. Where
the authors' program for MiniGrid differs from the paper, this follows the paper:

- The distance is that to the k-th neighbour. The program takes the mean over the five nearest, of which the state
  itself is one.
- The distance is not divided by a running standard deviation before the logarithm; ``norm_reward`` divides after it.
- The bonus is a reward. The program adds it to advantages and returns.

From the program are k = 5, 64 features, the memory of 10,000 states of all environments, and ``eta``. Features of
vectors in the memory keep the normalisation that they had. Knows transitions, but no environment.
"""

from collections.abc import Sequence
from typing import Any

import torch as th
from gymnasium import spaces
from torch import nn

from sb3_snd.common.torch_layers import DQN_CONVS, encoder, orthogonal_
from sb3_snd.common.validation import MAX_WIDTH, integer, validate
from sb3_snd.rewards.base import IntrinsicReward
from sb3_snd.rewards.rollout import Step

RULES = {
    "features_dim": integer(1, MAX_WIDTH),
    "n_neighbors": integer(1, 1000),
    "capacity": integer(1000, 10**7),
}


class RE3(IntrinsicReward):
    """
    Entropy of the visited states, estimated by nearest neighbours. The bonus is that of the state s_t,
    log(‖y − y_k‖ + 1), where y are its features and y_k the k-th nearest in the memory; 0 if the memory is empty,
    and that of the farthest if there are less than k. Nothing is trained.

    The memory is one of all environments and episodes. It belongs to the run, so a saved model does not hold it.

    :param observation_space: Observation space of the environment
    :param action_space: Action space of the environment, which is not read
    :param obs_key: Entries of ``Dict`` observations that are read
    :param device: PyTorch device of the net and the memory
    :param features_dim: Number of features
    :param n_neighbors: k in the formula
    :param capacity: Number of states in the memory, of which the newest replace the oldest
    :param settings: Settings of :class:`~sb3_snd.rewards.base.IntrinsicReward`; ``eta`` is 0.005 by default
    :raises ValueError: for a value out of its range, or an observation space that cannot be read
    """

    shares_memory = True
    memory: th.Tensor
    n_remembered: th.Tensor

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space | None = None,
        obs_key: str | Sequence[str] | None = None,
        device: th.device | str = "auto",
        features_dim: int = 64,
        n_neighbors: int = 5,
        capacity: int = 10_000,
        **settings: Any,
    ) -> None:
        own = validate({"features_dim": features_dim, "n_neighbors": n_neighbors, "capacity": capacity}, RULES)
        super().__init__(observation_space, obs_key, action_space=action_space, defaults={"eta": 0.005}, **settings)
        self.init_kwargs |= own
        self.n_neighbors = own["n_neighbors"]
        self.encoder = encoder(self.frame_shape, DQN_CONVS, own["features_dim"], nn.ReLU)
        orthogonal_(self.encoder, 2**0.5)
        self.encoder.requires_grad_(False)
        self.register_buffer("memory", th.zeros(own["capacity"], own["features_dim"]), persistent=False)
        #: number of states that were remembered, of which the memory holds the newest
        self.register_buffer("n_remembered", th.zeros((), dtype=th.int64), persistent=False)
        # The last states and their features, which `bonus` and `remember` both need
        self._embedded: tuple[th.Tensor, th.Tensor] | None = None
        self.set_up(device)

    @th.no_grad()
    def features(self, obs: Any) -> th.Tensor:
        """Compute the features y; see :meth:`.IntrinsicReward.features`."""
        return self.encoder(self.prepare(obs))

    def observe(self, obs: Any) -> None:
        """Update running statistics; see :meth:`.IntrinsicReward.observe`."""
        super().observe(obs)
        self._embedded = None

    def _embed(self, states: th.Tensor) -> th.Tensor:
        if self._embedded is None or self._embedded[0] is not states:
            self._embedded = states, self.features(states)
        return self._embedded[1]

    @th.no_grad()
    def bonus(self, step: Step) -> th.Tensor:
        """Compute log(‖y − y_k‖ + 1) of the states s_t, ``(n,)``; see :meth:`.IntrinsicReward.bonus`."""
        features = self._embed(step.states)  # (n, D)
        filled = th.arange(len(self.memory), device=self.device) < self.n_remembered
        centre = features.mean(dim=0)
        memory = self.memory - centre  # otherwise products would lose what little distinguishes features far from 0
        # Squared distances but for a constant of each row, (n, capacity)
        squares = th.addmm(memory.square().sum(dim=1), features - centre, memory.T, alpha=-2)
        nearest = squares.where(filled, th.inf).topk(self.n_neighbors, largest=False).indices  # (n, k)
        distances = (self.memory[nearest] - features[:, None]).norm(dim=2) * filled[nearest]
        return distances.amax(dim=1).log1p()

    @th.no_grad()
    def remember(self, step: Step) -> None:
        """Take the features of the states s_t into the memory, in place of the oldest."""
        capacity = len(self.memory)
        features = self._embed(step.states)[-capacity:]
        rows = (self.n_remembered + th.arange(len(features), device=self.device)) % capacity
        self.memory[rows] = features
        self.n_remembered += len(features)
        self._embedded = None
