"""``Product``: a lifelong bonus times an episodic one.

Henaff, Jiang, Raileanu: A study of global and episodic bonuses for exploration in contextual MDPs, arXiv 2306.03236,
section 5. Departs from it: both factors are those of the successor s_{t+1}, also if the lifelong reward reads states, such
as SND; only RE3 rates s_t here, too. The features of the episodic factor may be those of SND's target. Knows rewards and
memories, but not what they compute.
"""

from collections.abc import Callable
from typing import Any

import torch as th
from gymnasium import spaces

from sb3_snd.common.type_aliases import Transitions
from sb3_snd.common.validation import one_of, validate
from sb3_snd.rewards.base import IntrinsicReward
from sb3_snd.rewards.counts import VisitMemory
from sb3_snd.rewards.e3b import Ellipsoid
from sb3_snd.rewards.episodic import EpisodicMemory, EpisodicReward
from sb3_snd.rewards.inverse_model import InverseModel
from sb3_snd.rewards.ngu import Neighbours
from sb3_snd.rewards.rollout import Step
from sb3_snd.rewards.settings import RULES as SETTINGS
from sb3_snd.rewards.visits import FrameHash

#: Size of the features in which states are compared. Those of a lifelong reward are projected to it by a fixed
#: random matrix, since E3B's memory grows with its square
FEATURES_DIM = 64
#: memories by the names of an argument ``episodic``
MEMORIES: dict[str, Callable[[], EpisodicMemory]] = {
    "counts": lambda: VisitMemory("first_visit"),
    "e3b": lambda: Ellipsoid(FEATURES_DIM, ridge=0.1),
    "ngu": lambda: Neighbours(FEATURES_DIM),
}
RULES = {"episodic": one_of(*MEMORIES), "episodic_features": one_of("lifelong", "inverse", None)}


class Product(EpisodicReward):
    """
    Lifelong bonus times episodic bonus. The argument ``episodic`` of wrapper and algorithm makes it.

    :param lifelong: Any reward; its nets are trained as they would be alone
    :param observation_space: Observation space of the environment
    :param episodic: ``"counts"`` (1 for the first visit of an observation in its episode, else 0), ``"e3b"`` or
        ``"ngu"`` (without its lifelong factor)
    :param episodic_features: Where the features of ``"e3b"`` and ``"ngu"`` come from: ``"lifelong"`` for those of
        the lifelong reward, such as SND's target, so that no further net is trained; ``"inverse"`` for a model
        that predicts the action, as in both papers. By default the former if there are any. Features are projected
        to 64 dimensions by a fixed random matrix
    :raises ValueError: for an unknown name, or if the lifelong reward has no features
    """

    def __init__(
        self,
        lifelong: IntrinsicReward,
        observation_space: spaces.Space,
        episodic: str = "e3b",
        episodic_features: str | None = None,
    ) -> None:
        validate({"episodic": episodic, "episodic_features": episodic_features}, RULES)
        if lifelong.reads_places:
            raise ValueError(
                f"{type(lifelong).__name__} with place=True cannot be multiplied by episodic={episodic!r}: omit one."
            )
        settings = {name: value for name, value in lifelong.init_kwargs.items() if name in SETTINGS}
        super().__init__(
            observation_space,
            lifelong.init_kwargs["obs_key"],
            action_space=lifelong.action_space,
            defaults={**settings, "eta": 1.0, "norm_reward": True},
            **lifelong.given,
        )
        own = {"episodic": episodic, "episodic_features": episodic_features}
        self.init_kwargs = {**lifelong.init_kwargs, **self.init_kwargs, **own}
        if lifelong.obs_stats is not None:
            self.obs_stats = None  # the lifelong reward's serve both
        self._trains_lifelong = lifelong.trainer is not None
        lifelong.trainer = None  # its nets are trained here
        self.lifelong = lifelong
        self.memory = MEMORIES[episodic]()
        self.hash = FrameHash(self.reader.shape) if episodic == "counts" else None
        #: predicts actions, if its features are compared
        self.inverse_model: InverseModel | None = None
        self.register_buffer("projection", None)
        if self.hash is None:
            self._choose_features(episodic_features)
        self._rated: tuple[th.Tensor, th.Tensor, th.Tensor | None] | None = None
        self.set_up(lifelong.device)

    def _choose_features(self, episodic_features: str | None) -> None:
        features = None
        if episodic_features != "inverse":
            features = self.lifelong.features(th.zeros(1, *self.reader.shape))
        if features is not None:
            self.projection = th.randn(features.shape[1], FEATURES_DIM) / FEATURES_DIM**0.5
        elif episodic_features == "lifelong":
            raise ValueError(f"{type(self.lifelong).__name__} has no features: use episodic_features='inverse'.")
        else:
            self.inverse_model = InverseModel(self.frame_shape, self.action_space, "An inverse model", FEATURES_DIM)

    @property
    def spec(self) -> Any:
        """Value of an argument ``snd`` that makes the lifelong reward. With ``init_kwargs`` it makes the product."""
        return self.lifelong.spec

    @property
    def warm_up_steps(self) -> int:  # type: ignore[override]
        """Those of the lifelong reward."""
        return self.lifelong.warm_up_steps

    def prepare(self, obs: Any) -> th.Tensor:
        """Prepare observations as the lifelong reward does; see :meth:`.IntrinsicReward.prepare`."""
        return self.lifelong.prepare(obs) if self.obs_stats is None else super().prepare(obs)

    def observe(self, obs: Any) -> None:
        """Update the running statistics of both factors; see :meth:`.IntrinsicReward.observe`."""
        super().observe(obs)
        self.lifelong.observe(obs)
        self._rated = None

    def features(self, obs: Any) -> th.Tensor | None:
        """Compute the lifelong reward's features, if it has any; see :meth:`.IntrinsicReward.features`."""
        return self.lifelong.features(obs)

    def embed(self, frames: th.Tensor) -> th.Tensor:
        """Return what the episodic factor compares: hashes, or 64 features of each frame."""
        if self.hash is not None:
            return self.hash(frames)
        if self.inverse_model is not None:
            return self.inverse_model(self.prepare(frames))
        rated = self._rated
        features = rated[2] if rated is not None and rated[0] is frames else self.lifelong.features(frames)
        assert features is not None
        return features @ self.projection

    def start(self, n_envs: int) -> None:
        """Allocate empty memory for both factors; see :meth:`.IntrinsicReward.start`."""
        super().start(n_envs)
        self.lifelong.start(n_envs)

    def begin(self, frames: th.Tensor, which: th.Tensor, places: th.Tensor | None = None) -> None:
        """Begin an episode in the memory of both factors; see :meth:`.IntrinsicReward.begin`."""
        super().begin(frames, which)
        self.lifelong.begin(frames, which)

    @th.no_grad()
    def bonus(self, step: Step) -> th.Tensor:
        """Compute the product of both bonuses, ``(n,)``; see :meth:`.IntrinsicReward.bonus`."""
        assert step.successors is not None
        if self.lifelong.reads == "transition":
            return self.lifelong.bonus(step) * super().bonus(step)
        if self._rated is None or self._rated[0] is not step.successors:  # `embed` needs the features, too
            self._rated = step.successors, *self.lifelong.rate(step.successors)
        return self._rated[1] * super().bonus(step)

    def remember(self, step: Step) -> None:
        """Take a step into the memory of both factors; see :meth:`.IntrinsicReward.remember`."""
        super().remember(step)
        self._rated = None
        if self.lifelong.reads == "transition":
            self.lifelong.remember(step)

    def loss(self, batch: Transitions, **draws: Any) -> dict[str, th.Tensor]:
        """Compute the lifelong reward's loss, and that of the inverse model if there is one."""
        terms = self.lifelong.loss(batch, **draws) if self._trains_lifelong else {}
        if self.inverse_model is not None:
            inverse = self.inverse_model.loss(*batch.split(self.inverse_model(batch.frames)), batch)
            terms |= {"loss": terms.get("loss", 0) + inverse, "inverse": inverse}
        return terms
