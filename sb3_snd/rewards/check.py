"""Conformance test for custom intrinsic rewards. It checks what wrapper and trainer rely on, with one message
for each point.

Knows the interface of ``IntrinsicReward``, but not the rewards behind it.
"""

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces

from sb3_snd.common.type_aliases import Transitions
from sb3_snd.rewards.base import IntrinsicReward
from sb3_snd.rewards.rollout import Step
from sb3_snd.rewards.settings import RULES

N_ENVS = 3
N_STEPS = 4
UPDATES = 2
SPACES: tuple[spaces.Space, ...] = (spaces.Box(0, 255, (1, 36, 40), np.uint8), spaces.Box(-1, 1, (5,)))


def check_reward(
    reward_class: type[IntrinsicReward],
    observation_space: spaces.Space | None = None,
    action_space: spaces.Space | None = None,
    **kwargs: Any,
) -> None:
    """
    Test an intrinsic reward as wrapper and trainer would use it.

    - The bonus has the right shape, is finite and not negative, and asking for it changes nothing.
    - No environment's bonus depends on another environment, unless the class says ``shares_memory = True``.
    - An episode that begins empties the memory of its environment, and only that. A shared memory stays as it is.
    - A saved model holds no memory, and a checkpoint holds all of it.
    - Training stays finite, even on constant input.

    :param reward_class: The class to check; it is called with an observation space, ``action_space``,
        ``device`` and ``kwargs``
    :param observation_space: Space to test; by default an image and a vector
    :param action_space: Space of the actions; three discrete actions by default
    :param kwargs: Further arguments of the class
    :raises TypeError: if it is not a subclass of ``IntrinsicReward``
    :raises ValueError: at the first point that fails, with a sentence that names it
    """
    if not (isinstance(reward_class, type) and issubclass(reward_class, IntrinsicReward)):
        raise TypeError(f"{reward_class!r} is not a subclass of sb3_snd.rewards.IntrinsicReward.")
    with th.random.fork_rng(devices=[]):
        for space in SPACES if observation_space is None else (observation_space,):
            _Check(reward_class, space, action_space or spaces.Discrete(3), kwargs).run()


class _Check:
    """
    All checks of one class on one space.

    :param reward_class: The class
    :param space: Observation space
    :param action_space: Action space
    :param kwargs: Further arguments of the class
    """

    def __init__(
        self,
        reward_class: type[IntrinsicReward],
        space: spaces.Space,
        action_space: spaces.Space,
        kwargs: dict[str, Any],
    ) -> None:
        self.reward_class, self.kwargs = reward_class, kwargs
        self.space, self.action_space = copy.deepcopy(space), copy.deepcopy(action_space)
        self.space.seed(0)
        self.action_space.seed(0)

    def run(self) -> None:
        """
        Run the checks.

        :raises ValueError: at the first point that fails
        """
        self._check_construction()
        with th.no_grad():  # as the wrapper asks
            self._check_bonus()
            self._check_independence()
            self._check_episodes()
            self._check_states()
        self._check_training()

    def _require(self, holds: Any, sentence: str) -> None:
        if not holds:
            raise ValueError(f"{self.reward_class.__name__} with {self.space}: {sentence}.")

    def _check_construction(self) -> None:
        arguments = {"action_space": self.action_space, "device": "cpu", "obs_key": None, **dict.fromkeys(RULES)}
        try:
            reward = self.reward_class(self.space, **{**arguments, **self.kwargs})
        except TypeError as error:
            raise ValueError(
                f"{self.reward_class.__name__} with {self.space}: it must take a space, action_space, device, obs_key and the"
                f" settings ({', '.join(RULES)}): {error}"
            ) from error
        self._require(hasattr(reward.scale, "eta"), "its constructor must call set_up at its end")
        self._require(reward.reads in ("state", "transition"), "reads must be 'state' or 'transition'")

    def _make(self) -> IntrinsicReward:
        th.manual_seed(0)
        return self.reward_class(self.space, action_space=self.action_space, device="cpu", **self.kwargs)

    def _observations(self, n: int = N_ENVS) -> th.Tensor:
        return th.as_tensor(np.stack([self.space.sample() for _ in range(n)]))

    def _steps(self, reward: IntrinsicReward, n_steps: int = N_STEPS) -> list[Step]:
        """Draw successive steps in which no episode ends."""
        frames = [reward.select(self._observations()) for _ in range(n_steps + 1)]
        actions = [th.as_tensor(np.stack([self.action_space.sample() for _ in range(N_ENVS)])) for _ in range(n_steps)]
        ends = th.zeros(N_ENVS, dtype=th.bool)
        if reward.reads == "state":
            return [Step(state) for state in frames[:-1]]
        return [Step(*each, ends) for each in zip(frames[:-1], actions, frames[1:], strict=True)]

    @staticmethod
    def _begin(reward: IntrinsicReward, step: Step) -> None:
        reward.start(len(step.states))
        if reward.reads == "transition":
            reward.begin(step.states, th.ones(len(step.states), dtype=th.bool))

    @staticmethod
    def _go(reward: IntrinsicReward, steps: list[Step]) -> Iterator[th.Tensor]:
        """Rate and remember steps as the wrapper does, but without statistics, which mix environments."""
        for step in steps:
            yield reward.bonus(step)
            if reward.reads == "transition":
                reward.remember(step)

    def _check_bonus(self) -> None:
        reward = self._make()
        steps = self._steps(reward)
        self._begin(reward, steps[0])
        for _ in self._go(reward, steps[:-1]):
            pass
        before = {name: value.clone() for name, value in (*reward.named_parameters(), *reward.named_buffers())}
        bonus = reward.bonus(steps[-1])
        shape = tuple(bonus.shape)
        self._require(shape == (N_ENVS,), f"bonus gave {shape}, not (n,) = ({N_ENVS},)")
        self._require(bonus.dtype == th.float32, f"bonus gave {bonus.dtype}, not float32")
        self._require(th.isfinite(bonus).all() and (bonus >= 0).all(), "bonus must be finite and >= 0 everywhere")
        after = dict((*reward.named_parameters(), *reward.named_buffers()))
        changed = [name for name, value in before.items() if not th.equal(value, after[name])]
        self._require(not changed, f"bonus changed {changed and changed[0]!r}, which only remember may do")
        self._require(th.equal(bonus, reward.bonus(steps[-1])), "bonus gives another value when it is asked twice")

    def _check_independence(self) -> None:
        """Another history of the first environment must not change the bonus of the others."""
        reward, other = self._make(), self._make()
        if reward.shares_memory:
            return
        steps = self._steps(reward)
        strangers = self._steps(reward)
        mixed = [_with_first_of(step, strange) for step, strange in zip(steps, strangers, strict=True)]
        self._begin(reward, steps[0])
        self._begin(other, mixed[0])
        for bonus, other_bonus in zip(self._go(reward, steps), self._go(other, mixed), strict=True):
            same = th.allclose(bonus[1:], other_bonus[1:], rtol=1e-3, atol=1e-5)
            self._require(same, "the bonus of an environment depends on another environment")

    def _check_episodes(self) -> None:
        """A new episode must leave its environment like a fresh one, and the others and a shared memory as they were."""
        reward, fresh, undisturbed = self._make(), self._make(), self._make()
        if reward.reads == "state":
            return
        steps = self._steps(reward, 2 * N_STEPS)
        first, second = steps[:N_STEPS], steps[N_STEPS:]
        rewards = (reward, fresh, undisturbed)
        self._begin(reward, first[0])
        self._begin(undisturbed, first[0])
        self._begin(fresh, second[0])
        for each in (reward, undisturbed):
            for _ in self._go(each, first[:-1]):
                pass
            each.remember(first[-1]._replace(ends=th.arange(N_ENVS) == 0) if each is reward else first[-1])
        shared = reward.shares_memory
        if shared:
            reward.start(N_ENVS)
        reward.begin(second[0].states, th.arange(N_ENVS) == 0)
        for bonus, new, old in zip(*(self._go(each, second) for each in rewards), strict=True):
            if shared:
                same = th.allclose(bonus, old, rtol=1e-3, atol=1e-5)
                self._require(same, "start or begin changes a memory although shares_memory is True")
                continue
            self._require(
                th.allclose(bonus[0], new[0], rtol=1e-3, atol=1e-5), "begin does not empty the memory of an environment"
            )
            self._require(
                th.allclose(bonus[1:], old[1:], rtol=1e-3, atol=1e-5), "begin changes the memory of another environment"
            )

    def _check_states(self) -> None:
        reward = self._make()
        steps = self._steps(reward, 2 * N_STEPS)
        self._begin(reward, steps[0])
        for _ in self._go(reward, steps[:N_STEPS]):
            pass
        other = self._make()
        try:
            other.load_state_dict(reward.state_dict())
        except RuntimeError as error:
            raise ValueError(
                f"{self.reward_class.__name__} with {self.space}: its state_dict holds what depends on the environments:"
                " register it with persistent=False."
            ) from error
        other.set_run_state({name: value.clone() for name, value in reward.get_run_state().items()})
        for bonus, other_bonus in zip(*(self._go(each, steps[N_STEPS:]) for each in (reward, other)), strict=True):
            self._require(
                th.equal(bonus, other_bonus),
                "the bonus differs after a round trip through state_dict and get_run_state: make all of it buffers",
            )

    def _batch(self, reward: IntrinsicReward, observations: th.Tensor) -> Transitions:
        n = len(observations) - 1
        actions = th.as_tensor(np.stack([self.action_space.sample() for _ in range(n)]))
        return reward.transitions(observations[:-1], observations[1:], actions, th.arange(n) == n - 1)

    def _check_training(self) -> None:
        """Run a few updates on random and on constant observations."""
        reward = self._make()
        if reward.trainer is None:
            return
        random = self._observations(9)
        for name, observations in (("random", random), ("constant", random[:1].expand_as(random))):
            terms = reward.loss(self._batch(reward, observations))
            self._require("loss" in terms and terms["loss"].requires_grad, "loss gave no 'loss' with a gradient")
            for term, value in terms.items():
                self._require(value.ndim == 0, f"the loss's term {term!r} is not a scalar")
            for _ in range(UPDATES):
                reward.observe(observations)
                try:
                    reward.trainer.train_on_batch(self._batch(reward, observations))
                except ValueError as error:
                    raise ValueError(
                        f"{self.reward_class.__name__} with {self.space}: training on {name} observations failed: {error}"
                    ) from error


def _with_first_of(step: Step, other: Step) -> Step:
    """Return a step in which another step's first environment takes the place of the first."""
    pairs = ((name, getattr(step, name), getattr(other, name)) for name in Step._fields)
    return Step(**{name: th.cat([theirs[:1], ours[1:]]) for name, ours, theirs in pairs if ours is not None})
