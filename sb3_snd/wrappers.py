"""``VecIntrinsicReward``: novelty of s_t, computed while the environments step.

Knows environments and asks an ``SND`` for novelty; it never trains one.
"""

from typing import Any, Literal

import numpy as np
import torch as th
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from sb3_snd.snd import SND
from sb3_snd.targets import Target
from sb3_snd.type_aliases import EXTRINSIC_REWARD_KEY, INTRINSIC_REWARD_KEY


class VecIntrinsicReward(VecEnvWrapper):
    """
    Adds an intrinsic reward, the novelty of the state that the action was taken in (arXiv 2302.11563, eq. 3).

    Every info of a training step holds both rewards under ``"extrinsic_reward"`` and ``"intrinsic_reward"``.
    Set ``training = False`` for evaluation: rewards and infos then pass through untouched.

    :param venv: The environment to wrap
    :param snd: Name of a target in ``sb3_snd.targets.TARGETS``, a subclass of ``Target``, or an ``SND``
    :param snd_kwargs: Arguments of ``SND``, if ``snd`` is not one yet
    :param ext_coef: Weight of the extrinsic reward in the combined one
    :param int_coef: Weight of the intrinsic reward in the combined one
    :param rewards: ``"combined"``: ``ext_coef * extrinsic + int_coef * intrinsic``, ``(n_envs,)``, for any algorithm;
        ``"streams"``: both, unweighted, ``(n_envs, 2)``, for ``PPOSND``
    :param device: PyTorch device of the nets, if ``snd`` is not one yet
    :raises ValueError: for an unknown mode, bad arguments of ``SND``, or an ``SND`` made for other observations
    """

    def __init__(
        self,
        venv: VecEnv,
        snd: str | type[Target] | SND = "vic",
        snd_kwargs: dict[str, Any] | None = None,
        ext_coef: float = 2.0,
        int_coef: float = 1.0,
        rewards: Literal["combined", "streams"] = "combined",
        device: th.device | str = "auto",
    ) -> None:
        if rewards not in ("combined", "streams"):
            raise ValueError(f"rewards={rewards!r} must be 'combined' or 'streams'.")
        super().__init__(venv)
        self.snd = snd if isinstance(snd, SND) else SND(venv.observation_space, snd, device=device, **(snd_kwargs or {}))
        self.snd.check_space(venv.observation_space)
        self.coefs = np.array([ext_coef, int_coef], dtype=np.float32)
        self.rewards = rewards
        self.training = True
        #: s_t, ``(n_envs, *obs_shape)``; an algorithm that has the same batch on its device may put it here
        self.last_obs: Any = None
        self._novelty: th.Tensor | None = None
        self._intrinsic: th.Tensor | None = None
        self._sums: dict[str, th.Tensor] = {}
        self._n_steps = 0

    def reset(self) -> VecEnvObs:
        self.last_obs = self.venv.reset()
        return self.last_obs

    def step_async(self, actions: np.ndarray) -> None:
        self.venv.step_async(actions)  # first, so that environments and nets work at the same time
        if self.training:
            self.snd.update_statistics(self.last_obs)
            self._novelty = self.snd.novelty(self.last_obs)
            self._intrinsic = self.snd.scale(self._novelty)

    def step_wait(self) -> VecEnvStepReturn:
        self.last_obs, extrinsic, dones, infos = self.venv.step_wait()
        if not self.training:
            return self.last_obs, extrinsic, dones, infos
        assert self._novelty is not None and self._intrinsic is not None
        self._add_to_statistics(self._novelty, self._intrinsic)
        intrinsic = self._intrinsic.cpu().numpy()
        assert intrinsic.shape == (self.num_envs,), intrinsic.shape
        for info, ext, int_ in zip(infos, extrinsic.tolist(), intrinsic.tolist(), strict=True):
            info[EXTRINSIC_REWARD_KEY] = ext
            info[INTRINSIC_REWARD_KEY] = int_
        streams = np.stack([extrinsic, intrinsic], axis=1, dtype=np.float32)  # (n_envs, 2)
        return self.last_obs, streams if self.rewards == "streams" else streams @ self.coefs, dones, infos

    def _add_to_statistics(self, novelty: th.Tensor, intrinsic: th.Tensor) -> None:
        sums = {"novelty_mean": novelty.mean(), "intrinsic_reward_mean": intrinsic.mean()}
        for name, value in sums.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        largest = intrinsic.max()
        self._sums["intrinsic_reward_max"] = th.maximum(self._sums.get("intrinsic_reward_max", largest), largest)
        self._n_steps += 1

    def pop_statistics(self) -> dict[str, float]:
        """
        :return: since the last call, over all training steps: ``novelty_mean`` (before eta and clipping),
            ``intrinsic_reward_mean`` and ``intrinsic_reward_max``; empty if there was no step
        """
        statistics = {
            name: value.item() / (self._n_steps if name.endswith("_mean") else 1) for name, value in self._sums.items()
        }
        self._sums, self._n_steps = {}, 0
        return statistics
