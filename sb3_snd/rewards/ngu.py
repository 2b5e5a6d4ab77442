"""NGU: the nearest neighbours of a state among those of its episode, and RND's error over the whole training.

Badia et al.: Never give up, arXiv 2002.06038, section 2, algorithm 1 and table 6. Departs from the paper: the features
are not frozen during an episode but follow each update, and neighbours in memory keep the features that they had. Knows
features, but no environment.
"""

from collections.abc import Sequence
from typing import Any

import torch as th
from gymnasium import spaces

from sb3_snd.common.running_stats import RunningMeanStd
from sb3_snd.common.torch_layers import DQN_CONVS
from sb3_snd.common.type_aliases import Transitions
from sb3_snd.common.validation import MAX_WIDTH, integer, validate
from sb3_snd.rewards.episodic import EpisodicMemory, EpisodicReward
from sb3_snd.rewards.inverse_model import InverseModel
from sb3_snd.rewards.rollout import Step
from sb3_snd.targets.rnd import RNDTarget

KERNEL_EPSILON = 1e-4  # ε, table 6
CLUSTER_DISTANCE = 0.008  # ξ
PSEUDO_COUNT = 1e-3  # c
LARGEST_SIMILARITY = 8.0  # s_m: beyond it the bonus is 0
LARGEST_FACTOR = 5.0  # L: limit of the lifelong factor
FIRST_CAPACITY = 64  # states of an episode for which memory is allocated at first
RULES = {
    "features_dim": integer(1, MAX_WIDTH),
    "n_neighbors": integer(1, 1000),
    "capacity": integer(FIRST_CAPACITY, 10**7),
}


class Neighbours(EpisodicMemory):
    """
    Features of each environment's episode; the oldest are replaced when there are too many.

    :param features_dim: Number of features, D
    :param n_neighbors: k in the paper
    :param capacity: Largest number of states that are kept
    """

    features: th.Tensor
    length: th.Tensor
    distances: th.Tensor
    new_distances: th.Tensor

    def __init__(self, features_dim: int, n_neighbors: int = 10, capacity: int = 30_000) -> None:
        super().__init__()
        self.n_neighbors, self.capacity = n_neighbors, capacity
        self.register_buffer("features", th.zeros(0, FIRST_CAPACITY, features_dim), persistent=False)
        self.register_buffer("length", th.zeros(0, dtype=th.int64), persistent=False)  # states since the episode began
        # Sum and number of the squared distances to neighbours in all steps, and in the last one for each environment
        self.register_buffer("distances", th.zeros(2, dtype=th.float64))
        self.register_buffer("new_distances", th.zeros(0, 2, dtype=th.float64), persistent=False)

    def start(self, n_envs: int) -> None:
        """Allocate empty memory for a number of environments; see :meth:`.EpisodicMemory.start`."""
        self.features = self.features.new_zeros(n_envs, FIRST_CAPACITY, self.features.shape[2])
        self.length = self.length.new_zeros(n_envs)
        self.new_distances = self.new_distances.new_zeros(n_envs, 2)

    def settle(self) -> None:
        """Add the last step's distances to the running mean; see :meth:`.EpisodicMemory.settle`."""
        self.distances += self.new_distances.sum(dim=0)
        self.new_distances = th.zeros_like(self.new_distances)

    def clear(self, which: th.Tensor) -> None:
        """Forget the states of environments; see :meth:`.EpisodicMemory.clear`."""
        self.length.masked_fill_(which, 0)

    def compare(self, states: th.Tensor) -> tuple[th.Tensor, ...]:
        """
        Find the nearest neighbours.

        :param states: Features, ``(n_envs, D)``
        :return: their squared distances, infinite where there are less than k, ``(n_envs, k)``; sum and number of
            the finite ones, ``(n_envs, 2)``
        """
        longest = max(int(self.length.max()), self.n_neighbors)  # one long episode must not slow all later ones
        memory = self.features[:, :longest]
        # The formula by products would lose small distances to rounding
        distances = th.cdist(memory, states[:, None], compute_mode="donot_use_mm_for_euclid_dist").squeeze(2)
        empty = th.arange(distances.shape[1], device=states.device) >= self.length[:, None]
        nearest = min(self.n_neighbors, distances.shape[1])
        squares = distances.masked_fill_(empty, th.inf).topk(nearest, largest=False).values.square()
        exist = squares < th.inf
        return squares, th.stack([squares.where(exist, 0).sum(dim=1), exist.sum(dim=1)], dim=1).double()

    def bonus(self, *compared: th.Tensor) -> th.Tensor:
        """Return 1/s with s = √ΣK + c over the nearest neighbours, or 0 if s is above 8, ``(n_envs,)``."""
        squares, new_distances = compared
        total, number = (self.distances + new_distances).unbind(dim=1)
        mean = (total / number.clamp(min=1)).clamp(min=1e-12).float()
        # An infinite distance adds nothing
        kernel = KERNEL_EPSILON / ((squares / mean[:, None] - CLUSTER_DISTANCE).clamp(min=0) + KERNEL_EPSILON)
        similarity = kernel.sum(dim=1).sqrt() + PSEUDO_COUNT
        return (1 / similarity).where(similarity <= LARGEST_SIMILARITY, 0)

    def add(self, states: th.Tensor, compared: tuple[th.Tensor, ...], which: th.Tensor) -> None:
        """Take states into the memory, in place of the oldest if it is full; see :meth:`.EpisodicMemory.add`."""
        self.new_distances = self.new_distances + compared[1] * which[:, None]
        size = self.features.shape[1]
        if size < self.capacity and int(self.length.max()) == size:
            self.features = th.cat([self.features, self.features[:, : self.capacity - size]], dim=1)
            size = self.features.shape[1]
        rows, columns = th.arange(len(states), device=states.device), self.length % size  # the oldest are replaced
        self.features[rows, columns] = states.where(which[:, None], self.features[rows, columns])
        self.length += which


class NGU(EpisodicReward):
    """
    Episodic novelty by nearest neighbours, times a lifelong factor: clip(1 + (RND's error - mean) / std, 1, 5).

    :param observation_space: Observation space of the environment
    :param action_space: Action space of the environment
    :param obs_key: Entries of ``Dict`` observations that are read
    :param device: PyTorch device of the nets
    :param features_dim: Number of features of the inverse model; 32 in the paper
    :param n_neighbors: Number of nearest neighbours; 10 in the paper
    :param capacity: Largest number of states of an episode that are kept; 30,000 in the paper
    :param settings: Settings of :class:`~sb3_snd.rewards.base.IntrinsicReward`; ``learning_rate`` is 5e-4 by
        default, as in the paper, for both nets, ``eta`` is 0.3, the paper's β, and ``norm_reward`` is True, which the
        paper does not have: a single neighbour that is as far as usual gives a bonus of 90, and rewards end at 1
    :raises ValueError: for a value out of its range, or without an action space
    """

    #: RND's errors of the last step, ``(n_envs,)``, of which the statistics do not know yet
    new_errors: th.Tensor | None

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space | None = None,
        obs_key: str | Sequence[str] | None = None,
        device: th.device | str = "auto",
        features_dim: int = 32,
        n_neighbors: int = 10,
        capacity: int = 30_000,
        **settings: Any,
    ) -> None:
        sizes = validate({"features_dim": features_dim, "n_neighbors": n_neighbors, "capacity": capacity}, RULES)
        defaults = {"eta": 0.3, "learning_rate": 5e-4, "norm_reward": True}
        super().__init__(observation_space, obs_key, action_space=action_space, defaults=defaults, **settings)
        self.init_kwargs |= sizes
        self.inverse_model = InverseModel(
            self.frame_shape, action_space, type(self).__name__, sizes["features_dim"], DQN_CONVS, width=128
        )
        self.target = RNDTarget(self.frame_shape)
        self.predictor = self.target.make_learner()
        #: running mean and standard deviation of RND's error
        self.error_stats = RunningMeanStd(())
        self.register_buffer("new_errors", None, persistent=False)
        self.memory = Neighbours(**sizes)
        self._rated: tuple[th.Tensor, th.Tensor] | None = None
        self.set_up(device)

    def embed(self, frames: th.Tensor) -> th.Tensor:
        """Return the inverse model's features, ``(n, features_dim)``."""
        return self.features(frames)

    def start(self, n_envs: int) -> None:
        """Allocate empty memory for a number of environments; see :meth:`.IntrinsicReward.start`."""
        super().start(n_envs)
        self.new_errors = None

    @th.no_grad()
    def observe(self, obs: Any) -> None:
        """Update running statistics, also those of RND's error; see :meth:`.IntrinsicReward.observe`."""
        super().observe(obs)
        self._rated = None
        self.target.update_statistics(self.prepare(obs))
        if self.new_errors is not None:
            self.error_stats.update(self.new_errors)

    @th.no_grad()
    def features(self, obs: Any) -> th.Tensor:
        """Compute the inverse model's features; see :meth:`.IntrinsicReward.features`."""
        return self.inverse_model(self.prepare(obs))

    def _errors(self, step: Step) -> th.Tensor:
        """Return RND's error of the successors, ``(n_envs,)``, which `bonus` and `remember` both need."""
        assert step.successors is not None
        if self._rated is None or self._rated[0] is not step.successors:
            frames = self.target.preprocess(self.prepare(step.successors))
            self._rated = step.successors, self.target.novelty(self.predictor(frames), self.target(frames))
        return self._rated[1]

    @th.no_grad()
    def bonus(self, step: Step) -> th.Tensor:
        """Compute the episodic bonus times the lifelong factor, ``(n,)``; see :meth:`.IntrinsicReward.bonus`."""
        stats = self.error_stats
        relative = (self._errors(step) - stats.mean) / (stats.var + 1e-12).sqrt()
        return super().bonus(step) * (1 + relative.float()).clamp(1.0, LARGEST_FACTOR)

    @th.no_grad()
    def remember(self, step: Step) -> None:
        """Take the successors into the memory. Their errors enter the statistics with the next step."""
        self.new_errors = self._errors(step)
        super().remember(step)
        self._rated = None

    def loss(self, batch: Transitions, **draws: Any) -> dict[str, th.Tensor]:
        """Compute the losses of the inverse model and of RND's predictor, which share no net."""
        inverse = self.inverse_model.loss(*batch.split(self.inverse_model(batch.frames)), batch)
        distill = self.target.loss(batch._replace(frames=self.target.preprocess(batch.frames)), self.predictor, **draws)[
            "loss"
        ]
        return {"loss": inverse + distill, "inverse": inverse, "distill": distill}
