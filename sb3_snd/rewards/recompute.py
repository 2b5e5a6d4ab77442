"""Replay buffers that keep extrinsic rewards, and add the present bonus to what is drawn from them.

Knows SB3's replay buffers and how a reward rates a step, but no environment or callback.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

from sb3_snd.common.preprocessing import map_obs
from sb3_snd.common.type_aliases import EXTRINSIC_REWARD_KEY
from sb3_snd.rewards.base import IntrinsicReward
from sb3_snd.rewards.rollout import Step


class RecomputedReplayBuffer(ReplayBuffer):
    """
    ``ReplayBuffer`` whose ``rewards`` are the extrinsic ones. The rewards of a sample are
    ext_coef · extrinsic + int_coef · intrinsic, with the present nets, statistics and weights.

    A saved buffer holds neither reward nor weights: :func:`recompute_rewards` binds it again.
    """

    #: the reward that rates samples, and the function that returns ext_coef and int_coef
    bound: tuple[IntrinsicReward, Callable[[], np.ndarray]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "bound"}

    def add(
        self,
        obs: Any,
        next_obs: Any,
        action: np.ndarray,
        reward: np.ndarray,
        done: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        """Add transitions with their extrinsic rewards; see ``ReplayBuffer.add``."""
        # Without VecIntrinsicReward, the reward is the extrinsic one
        extrinsic = [info.get(EXTRINSIC_REWARD_KEY, given) for info, given in zip(infos, reward, strict=True)]
        super().add(obs, next_obs, action, np.array(extrinsic, dtype=np.float32), done, infos)

    def draw(self, batch_size: int) -> ReplayBufferSamples:
        """
        Draw transitions with their extrinsic rewards.

        :param batch_size: Number of transitions, B
        :return: transitions that are not normalised
        """
        return super().sample(batch_size)

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> ReplayBufferSamples:
        """
        Draw transitions, and compute their rewards.

        :param batch_size: Number of transitions, B
        :param env: Wrapper that normalises observations and rewards, if there is one
        :return: the transitions
        :raises ValueError: if the buffer was loaded and no ``SNDCallback(recompute=True)`` has used it since
        """
        samples = self.draw(batch_size)
        rewards = self._rewards(samples)
        if env is None:
            return samples._replace(rewards=rewards)

        def normalized(obs: Any) -> Any:
            return map_obs(self.to_torch, self._normalize_obs(map_obs(lambda entry: entry.cpu().numpy(), obs), env))

        return samples._replace(
            observations=normalized(samples.observations),
            next_observations=normalized(samples.next_observations),
            rewards=self.to_torch(self._normalize_reward(rewards.cpu().numpy(), env)),
        )

    @th.no_grad()
    def _rewards(self, samples: ReplayBufferSamples) -> th.Tensor:
        """Return the rewards of samples at present, ``(B, 1)``."""
        if self.bound is None:
            raise ValueError("This replay buffer holds rewards without their bonus: use SNDCallback(recompute=True).")
        reward, coefs = self.bound
        step = Step(reward.select(samples.observations))
        if reward.reads == "transition":
            actions = environment_actions(self.action_space, samples.actions).to(reward.device)
            ends = samples.dones.flatten().to(reward.device) > 0
            step = Step(step.states, actions, reward.select(samples.next_observations), ends)
        intrinsic = reward.scale(reward.bonus(step)).to(samples.rewards)[:, None]  # (B, 1)
        ext_coef, int_coef = coefs().tolist()
        return ext_coef * samples.rewards + int_coef * intrinsic


class RecomputedDictReplayBuffer(RecomputedReplayBuffer, DictReplayBuffer):  # type: ignore[misc]  # other samples
    """The same for ``Dict`` observations."""


#: class of the buffer that takes the place of another
CLASSES: dict[type[ReplayBuffer], type[RecomputedReplayBuffer]] = {
    ReplayBuffer: RecomputedReplayBuffer,
    DictReplayBuffer: RecomputedDictReplayBuffer,
}


def recompute_rewards(
    buffer: ReplayBuffer, reward: IntrinsicReward, coefs: Callable[[], np.ndarray]
) -> RecomputedReplayBuffer:
    """
    Make a replay buffer whose rewards are computed when transitions are drawn.

    :param buffer: The replay buffer of an algorithm, which is empty, or a result of this function
    :param reward: The reward that rates transitions
    :param coefs: Returns the present weights of the extrinsic and the intrinsic reward, ``(2,)``
    :return: a buffer with the same memory, or the same buffer
    :raises ValueError: if a transition alone does not determine the bonus, or if the buffer is of another class or
        already holds rewards with their bonus
    """
    name = type(reward).__name__
    if type(reward).begin is not IntrinsicReward.begin and not reward.shares_memory:
        raise ValueError(f"recompute=True rates single transitions, and {name} compares them with their episode: omit it.")
    if reward.reads_places:
        raise ValueError(f"recompute=True needs the places that {name} reads, which no replay buffer holds: omit it.")
    if reward.reads == "transition" and buffer.optimize_memory_usage:
        raise ValueError(
            f"recompute=True needs the last observation of each episode for {name}, which optimize_memory_usage=True"
            " discards: omit one of them."
        )
    if not isinstance(buffer, RecomputedReplayBuffer):
        if type(buffer) not in CLASSES:
            supported = " or ".join(each.__name__ for each in CLASSES)
            raise ValueError(f"recompute=True needs a {supported}, not {type(buffer).__name__}: omit it.")
        if buffer.size() > 0:
            raise ValueError(
                "recompute=True needs an empty replay buffer, and the rewards in this one have their bonus already:"
                " create a new model, or omit recompute."
            )
        attributes, buffer_class = vars(buffer), CLASSES[type(buffer)]
        buffer = buffer_class.__new__(buffer_class)
        vars(buffer).update(attributes)
    buffer.bound = reward, coefs
    return buffer


def environment_actions(space: spaces.Space, actions: th.Tensor) -> th.Tensor:
    """
    Convert the actions in a replay buffer.

    :param space: Action space
    :param actions: ``(B, action_dim)``, scaled to [-1, 1] if they are continuous
    :return: actions as the environment got them, ``(B, *action_shape)``
    """
    actions = actions.reshape(len(actions), *(space.shape or ()))
    if not isinstance(space, spaces.Box):
        return actions
    low, high = (th.as_tensor(bound, device=actions.device) for bound in (space.low, space.high))
    return low + 0.5 * (actions + 1.0) * (high - low)
