"""Count-based bonuses: the number of times that an observation was made.

Bellemare et al.: Unifying count-based exploration and intrinsic motivation, arXiv 1606.01868, eq. 1 (1/√n); Henaff et
al., arXiv 2306.03236 (within episodes). Counts what the agent sees, not the state of a simulator that it cannot see. Knows
frames, but no net or environment.
"""

from collections.abc import Sequence
from typing import Any

import torch as th
from gymnasium import spaces

from sb3_snd.common.validation import BOOL, one_of, validate
from sb3_snd.rewards.episodic import EpisodicMemory, EpisodicReward
from sb3_snd.rewards.visits import EpisodicVisits, FrameHash, LifelongVisits

KINDS = ("lifelong", "episodic", "first_visit")
RULES = {"kind": one_of(*KINDS), "place": BOOL}


class VisitMemory(EpisodicMemory):
    """
    Bonus of a number of visits n, which includes the present one. Several keys at once, such as the places of all
    that is in sight, add up; a key of 0 stands for nothing.

    :param kind: ``"lifelong"`` and ``"episodic"`` pay 1/√n, ``"first_visit"`` pays 1 if n is 1 within the episode
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.visits = LifelongVisits() if kind == "lifelong" else EpisodicVisits()

    def start(self, n_envs: int) -> None:
        """Allocate empty counts for a number of environments; see :meth:`.EpisodicMemory.start`."""
        self.visits.start(n_envs)

    def clear(self, which: th.Tensor) -> None:
        """Forget the visits of environments. Lifelong counts stay as they are."""
        self.visits.clear(which)

    def compare(self, states: th.Tensor) -> tuple[th.Tensor, ...]:
        """Return the keys ``(n_envs, K)`` int64 and their numbers of earlier visits."""
        return states, self.visits.count(states)

    def bonus(self, *compared: th.Tensor) -> th.Tensor:
        """Return the bonus of the visits, ``(n_envs,)``; see :meth:`.EpisodicMemory.bonus`."""
        keys, earlier = compared
        each = (earlier == 0).float() if self.kind == "first_visit" else (1.0 + earlier).rsqrt()
        return each.where(keys != 0, 0.0).sum(dim=1)

    def add(self, states: th.Tensor, compared: tuple[th.Tensor, ...], which: th.Tensor) -> None:
        """Count the present visits; see :meth:`.EpisodicMemory.add`."""
        self.visits.add(states, which)


class Counts(EpisodicReward):
    """
    Bonus for what was seldom observed. Nothing is trained. It suits observations that come again bit for bit, such as
    grids; where each is new, all bonuses are 1, and a reward with a distance is better, such as ``"e3b"``.

    :param observation_space: Observation space of the environment
    :param action_space: Action space of the environment, which is not read
    :param obs_key: Entries of ``Dict`` observations that are read
    :param device: PyTorch device of the counts
    :param kind: ``"first_visit"`` pays 1 for the first visit of an observation in its episode, ``"episodic"`` pays
        1/√n with its number of visits in the episode, ``"lifelong"`` 1/√n with that in all episodes of all
        environments, at 16 bytes for each distinct observation
    :param place: Whether to count the places of the agents, which they may not see, instead of observations. Each
        environment must be wrapped in ``sb3_snd.envs.PlaceInfo``
    :param settings: Settings of :class:`~sb3_snd.rewards.base.IntrinsicReward`
    :raises ValueError: for a value out of its range
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space | None = None,
        obs_key: str | Sequence[str] | None = None,
        device: th.device | str = "auto",
        kind: str = "first_visit",
        place: bool = False,
        **settings: Any,
    ) -> None:
        validate({"kind": kind, "place": place}, RULES)
        super().__init__(observation_space, obs_key, action_space=action_space, **settings)
        self.init_kwargs |= {"kind": kind, "place": place}
        self.reads_places = place
        self.obs_stats = None  # observations are compared as they are
        self.shares_memory = kind == "lifelong"
        self.hash = FrameHash(self.reader.shape)
        self.memory = VisitMemory(kind)
        self.set_up(device)

    def embed(self, frames: th.Tensor) -> th.Tensor:
        """Return the hashes of the frames, ``(n, 1)`` int64."""
        return self.hash(frames)
