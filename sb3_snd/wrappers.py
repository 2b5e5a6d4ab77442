"""``VecIntrinsicReward``: novelty of s_t, computed while the environments step.

Knows environments and asks an ``SND`` for novelty; it never trains one.
"""

import inspect
from typing import Any, Literal

import numpy as np
import torch as th
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, is_vecenv_wrapped
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from sb3_snd.arguments import WEIGHT, checked, one_of
from sb3_snd.faults import check_rewards
from sb3_snd.preprocessing import map_obs
from sb3_snd.snd import SND, check_snd_kwargs
from sb3_snd.targets import Target
from sb3_snd.type_aliases import EXTRINSIC_REWARD_KEY, INTRINSIC_REWARD_KEY, Rollout

ARGUMENTS = {"ext_coef": WEIGHT, "int_coef": WEIGHT, "rewards": one_of("combined", "streams")}
RETURN_DISCOUNT = 0.99  # of the sums whose standard deviation novelty is divided by, where that is asked for


class VecIntrinsicReward(VecEnvWrapper):
    """
    Adds an intrinsic reward, the novelty of the state that the action was taken in (arXiv 2302.11563, eq. 3).

    It does so only while ``training`` is True, which ``SNDCallback`` and ``PPOSND`` see to; otherwise, and so in every
    evaluation environment, rewards and infos pass through untouched. Every info of a training step holds both rewards
    under ``"extrinsic_reward"`` and ``"intrinsic_reward"``.

    :param venv: The environment to wrap
    :param snd: Name of a target in ``sb3_snd.targets.TARGETS``, a subclass of ``Target``, or an ``SND``
    :param snd_kwargs: Arguments of ``SND``, if ``snd`` is not one yet; ``precision`` is ``"auto"`` here by default
    :param ext_coef: Weight of the extrinsic reward in the combined one
    :param int_coef: Weight of the intrinsic reward in the combined one
    :param rewards: ``"combined"``: ``ext_coef * extrinsic + int_coef * intrinsic``, ``(n_envs,)``, for any algorithm;
        ``"streams"``: both, unweighted, ``(n_envs, 2)``, for ``PPOSND``
    :param device: PyTorch device of the nets, if ``snd`` is not one yet
    :raises ValueError: for an unknown mode, bad arguments of ``SND``, an ``SND`` made for other observations, or an
        environment that has an intrinsic reward already
    """

    #: what a checkpoint between two rollouts does not need
    transient = ("training", "_recording", "_terminal_frames", "_novelty", "_intrinsic")

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
        if not isinstance(venv, VecEnv):
            raise ValueError(f"venv={venv!r} must be a VecEnv of Stable-Baselines3: see its make_vec_env.")
        checked({"ext_coef": ext_coef, "int_coef": int_coef, "rewards": rewards}, ARGUMENTS)
        snd_kwargs = check_snd_kwargs(snd_kwargs)
        if is_vecenv_wrapped(venv, VecIntrinsicReward):
            raise ValueError("The environment already has an intrinsic reward: wrap it in VecIntrinsicReward once.")
        if isinstance(snd, SND) and snd_kwargs:
            raise ValueError(f"snd_kwargs={snd_kwargs!r} only goes with the name of a target: give them to the SND itself.")
        super().__init__(venv)
        snd_kwargs = {"precision": "auto", **snd_kwargs}
        self.snd = snd if isinstance(snd, SND) else SND(venv.observation_space, snd, device=device, **snd_kwargs)
        self.snd.check_space(venv.observation_space)
        self.coefs = np.array([ext_coef, int_coef], dtype=np.float32)
        self.rewards = rewards
        self.training = False
        #: s_t, ``(n_envs, *obs_shape)``; an algorithm that has the same batch on its device may put it here
        self.last_obs: Any = None
        self._novelty: th.Tensor | None = None
        self._intrinsic: th.Tensor | None = None
        self._returns = th.zeros(venv.num_envs, device=self.snd.device)
        self._sums: dict[str, th.Tensor] = {}
        self._n_steps = 0
        self._recording: th.Tensor | None = None  # (n_steps, n_envs, *frame_shape)
        self._recorded = 0
        self._terminal_frames: dict[int, th.Tensor] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Without what SB3 keeps of the class itself, which can be neither pickled nor copied."""
        return {name: value for name, value in vars(self).items() if name != "class_attributes"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, class_attributes=dict(inspect.getmembers(type(self))))

    def reset(self) -> VecEnvObs:
        self.last_obs = self.venv.reset()
        return self.last_obs

    def step_async(self, actions: np.ndarray) -> None:
        self.venv.step_async(actions)  # first, so that environments and nets work at the same time
        if self.training:
            frames = self.snd.select(self.last_obs)
            self.snd.update_statistics(frames)
            self._novelty = self.snd.novelty(frames)
            if self.snd.return_stats is not None:
                self._returns = RETURN_DISCOUNT * self._returns + self._novelty
                self.snd.return_stats.update(self._returns)
            self._intrinsic = self.snd.scale(self._novelty)
            self._add_to_statistics(self._novelty, self._intrinsic)
            if self._recording is not None:
                if self._recorded == len(self._recording):
                    raise RuntimeError(
                        "The environment was stepped outside of learn() while it rewards for training: set its"
                        " attribute training to False, or evaluate on another environment."
                    )
                self._recording[self._recorded].copy_(frames)

    def step_wait(self) -> VecEnvStepReturn:
        self.last_obs, extrinsic, dones, infos = self.venv.step_wait()
        if not self.training:
            return self.last_obs, extrinsic, dones, infos
        assert self._intrinsic is not None
        if self._recording is not None:
            self._record_ends(dones, infos)
        intrinsic = self._intrinsic.cpu().numpy()
        assert intrinsic.shape == (self.num_envs,), intrinsic.shape
        for info, ext, int_ in zip(infos, extrinsic.tolist(), intrinsic.tolist(), strict=True):
            info[EXTRINSIC_REWARD_KEY] = ext
            info[INTRINSIC_REWARD_KEY] = int_
        streams = np.stack([extrinsic, intrinsic], axis=1, dtype=np.float32)  # (n_envs, 2)
        check_rewards(streams, ("extrinsic", "intrinsic"))
        return self.last_obs, streams if self.rewards == "streams" else streams @ self.coefs, dones, infos

    def start_recording(self, n_steps: int) -> None:
        """
        Keep the newest frames of the next steps, on the nets' device, as novelty saw them: whatever wrappers above this
        one do to the observations, the nets are trained on what they rated.

        :param n_steps: How many steps, until :meth:`pop_rollout`
        """
        if self._recording is None or len(self._recording) != n_steps:
            frames = self.snd.select(self.last_obs)
            self._recording = th.zeros(n_steps, *frames.shape, dtype=frames.dtype, device=frames.device)
        self._recorded, self._terminal_frames = 0, {}

    def _record_ends(self, dones: np.ndarray, infos: list[dict[str, Any]]) -> None:
        assert self._recording is not None
        for idx in np.flatnonzero(dones).tolist():
            terminal_obs = infos[idx].get("terminal_observation")
            if terminal_obs is None:  # no successor is known: s_t stands for it
                frame = self._recording[self._recorded, idx].clone()
            else:
                frame = self.snd.select(map_obs(lambda entry: np.array(entry)[None], terminal_obs))[0]
            self._terminal_frames[self._recorded * self.num_envs + idx] = frame
        self._recorded += 1

    def pop_rollout(self) -> Rollout:
        """
        :return: what was recorded; its memory is used again for the next recording
        """
        assert self._recording is not None and self._recorded == len(self._recording), "The recording is not complete."
        self._recorded = 0
        return Rollout(self._recording, self.last_obs, self._terminal_frames)

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
