"""``VecIntrinsicReward``: asks a reward for the bonus of each step, and adds it to the environment's reward.

Knows environments, and the time and truth of a step: which successor is the true one, and when an episode begins. It
never trains a reward.
"""

import inspect
import sys
from types import FrameType
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import FloatSchedule
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, is_vecenv_wrapped
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from sb3_snd.common.check_nan import check_rewards
from sb3_snd.common.preprocessing import map_obs
from sb3_snd.common.type_aliases import EXTRINSIC_REWARD_KEY, INTRINSIC_REWARD_KEY
from sb3_snd.common.validation import WEIGHT, scheduled, validate
from sb3_snd.envs.places import read_places
from sb3_snd.rewards.base import IntrinsicReward
from sb3_snd.rewards.make import check_snd_kwargs, make_reward
from sb3_snd.rewards.recorder import RolloutRecorder
from sb3_snd.rewards.rollout import Rollout
from sb3_snd.rewards.scorer import Scorer
from sb3_snd.rewards.warm_up import warm_up
from sb3_snd.targets import Target

RULES = {"ext_coef": scheduled(WEIGHT), "int_coef": scheduled(WEIGHT)}


class VecIntrinsicReward(VecEnvWrapper):
    """
    Add an intrinsic reward. With an ``SND`` this is the novelty of the state in which the action was taken (arXiv
    2302.11563, eq. 3).

    It is added only while ``training`` is True. ``SNDCallback`` and ``PPOSND`` set ``training`` for as long as
    they learn. Otherwise, and so in every evaluation environment, rewards are unchanged. Every info holds both
    rewards under ``"extrinsic_reward"`` and ``"intrinsic_reward"``; the latter is 0 while ``training`` is
    False.

    One warning is issued if a rollout's intrinsic rewards are nearly all clipped, or too small to have an
    effect.

    :param venv: The environment to wrap
    :param snd: Name in ``sb3_snd.targets.TARGETS`` or ``sb3_snd.rewards.REWARDS``, a subclass of ``Target`` or of
        ``IntrinsicReward``, or an intrinsic reward such as an ``SND``
    :param snd_kwargs: Arguments of the reward, if ``snd`` is not one yet; here ``precision`` is ``"auto"`` by
        default
    :param ext_coef: Weight of the extrinsic reward in the combined one, or a function of the remaining training
        progress, which falls from 1 to 0
    :param int_coef: Weight of the intrinsic reward in the combined one, or such a function
    :param device: PyTorch device of the nets, if ``snd`` is not a reward yet
    :param episodic: Name of an episodic bonus, ``"counts"``, ``"e3b"`` or ``"ngu"``, with which the bonus is
        multiplied, see :class:`~sb3_snd.rewards.product.Product`
    :raises ValueError: for invalid arguments of the reward, a reward made for other observations, or an environment
        that already has an intrinsic reward
    """

    def __init__(
        self,
        venv: VecEnv,
        snd: str | type[Target] | type[IntrinsicReward] | IntrinsicReward = "vic",
        snd_kwargs: dict[str, Any] | None = None,
        ext_coef: float | Schedule = 2.0,
        int_coef: float | Schedule = 1.0,
        device: th.device | str = "auto",
        episodic: str | None = None,
    ) -> None:
        if not isinstance(venv, VecEnv):
            raise ValueError(f"venv={venv!r} must be a VecEnv of Stable-Baselines3: create one with its make_vec_env.")
        plain = validate({"ext_coef": ext_coef, "int_coef": int_coef}, RULES)
        snd_kwargs = check_snd_kwargs(snd_kwargs, snd, episodic)
        if is_vecenv_wrapped(venv, VecIntrinsicReward):
            raise ValueError("The environment already has an intrinsic reward: wrap it in VecIntrinsicReward only once.")
        super().__init__(venv)
        self.snd = make_reward(snd, venv.observation_space, venv.action_space, device, {"precision": "auto", **snd_kwargs})
        self.coef_schedules = FloatSchedule(plain["ext_coef"]), FloatSchedule(plain["int_coef"])
        self.set_progress(1.0)
        self._training = False
        self._learn_call: FrameType | None = None
        self.scorer = Scorer(self.snd, venv.num_envs)
        #: s_t, ``(n_envs, *obs_shape)``, or a dict of these
        self.last_obs: Any = None
        #: true successor of each state in which an episode ended with the last training step, by environment
        self.terminal_observations: dict[int, Any] = {}
        self._recorder: RolloutRecorder | None = None
        self._places: np.ndarray | None = None  # places of s_t, (n_envs, K) int64, if the reward reads them

    def __getstate__(self) -> dict[str, Any]:
        """
        Return the state without SB3's list of class attributes and without the call of ``learn``, which can be
        neither pickled nor copied.
        """
        return {name: value for name, value in vars(self).items() if name not in ("class_attributes", "_learn_call")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, class_attributes=dict(inspect.getmembers(type(self))), _learn_call=None)

    def get_run_state(self) -> dict[str, Any]:
        """
        Return what a checkpoint between two rollouts must hold, in addition to the environments.

        :return: attribute name -> value
        """
        # Left out: the nets, which are saved with the model; the weights of the rewards and what is recorded, which
        # the next rollout sets anew; and the training mode, which is up to the next call of learn
        return {"last_obs": self.last_obs, "_places": self._places, "scorer": self.scorer.get_run_state()}

    def set_run_state(self, state: dict[str, Any]) -> None:
        """
        Restore the state that :meth:`get_run_state` returned.

        :param state: Attribute name -> value; its tensors may be on any device
        """
        self.last_obs, self._places = state["last_obs"], state.get("_places")
        self.scorer.set_run_state(state["scorer"])

    @property
    def training(self) -> bool:
        """Whether steps are rewarded; see also :meth:`train_during`."""
        if self._learn_call is not None and not _is_running(self._learn_call):
            self.training = False
        return self._training

    @training.setter
    def training(self, training: bool) -> None:
        self._training, self._learn_call = training, None

    def train_during(self, call: FrameType) -> None:
        """
        Reward steps until a call has ended, whether it returns or raises: callbacks are not notified of an
        exception or an interrupt.

        :param call: Frame of a running call, such as that of ``learn``
        :raises ValueError: if the environment has not been reset since it was wrapped
        """
        if self.last_obs is None:
            raise ValueError(
                "VecIntrinsicReward has not seen the environment's current observation: call its reset() after wrapping,"
                " or set_env() with force_reset=True."
            )
        self._training, self._learn_call = True, call
        self._recorder = None  # another algorithm may have used it

    def set_progress(self, progress_remaining: float) -> None:
        """
        Update the weights of both rewards, and the schedules of the nets.

        :param progress_remaining: Remaining training progress, from 1 at the beginning to 0, as in SB3's
            schedules
        """
        remaining = max(0.0, progress_remaining)
        self.coefs = np.array([schedule(remaining) for schedule in self.coef_schedules], dtype=np.float32)
        self.snd.set_progress(progress_remaining)

    def reset(self) -> VecEnvObs:
        """Reset all environments; see ``VecEnv.reset``."""
        self.last_obs = self.venv.reset()
        if self.snd.reads_places:
            self._places = read_places(self.unwrapped.reset_infos)
        self.scorer.lose_track()
        return self.last_obs

    def set_device_obs(self, obs: Any) -> None:
        """
        Hand over a copy of the current observation that the algorithm has on its device, so that it is not
        copied there again.

        :param obs: s_t, ``(n_envs, *obs_shape)``, or a dict of these
        """
        self.last_obs = obs

    def step_async(self, actions: np.ndarray) -> None:
        """Begin a step, and with it the bonus; see ``VecEnv.step_async``."""
        training = self.training
        if training and self._recorder is not None and self._recorder.is_complete:
            raise RuntimeError(
                "The environment was stepped by code other than the algorithm during training:"
                " evaluate on another environment."
            )
        self.venv.step_async(actions)  # first, so that environments and nets work at the same time
        if not training:
            self.scorer.lose_track()
            return
        frames = self.scorer.begin_step(self.last_obs, actions, self._places)
        if self._recorder is not None:
            self._recorder.add(frames, actions)

    def step_wait(self) -> VecEnvStepReturn:
        """Finish a step and add the intrinsic reward; see ``VecEnv.step_wait``."""
        last_obs = self.last_obs
        self.last_obs, extrinsic, dones, infos = self.venv.step_wait()
        intrinsic = np.zeros(self.num_envs, dtype=np.float32)
        training = self.scorer.is_scoring
        places = None
        if self.snd.reads_places:
            successors = read_places(infos)
            self._places = np.where(dones[:, None], read_places(self.unwrapped.reset_infos), successors)
            places = successors, self._places
        if training:
            self.terminal_observations = self._true_successors(last_obs, dones, infos)
            intrinsic = self._finish_step(dones, places)
        both = zip(infos, extrinsic.tolist(), intrinsic.tolist(), strict=True)  # infos may repeat the same dict
        infos = [{**info, EXTRINSIC_REWARD_KEY: ext, INTRINSIC_REWARD_KEY: int_} for info, ext, int_ in both]
        if not training:
            return self.last_obs, extrinsic, dones, infos
        self.scorer.statistics.add_extrinsic(extrinsic)
        streams = np.stack([extrinsic, intrinsic], axis=1, dtype=np.float32)  # (n_envs, 2)
        check_rewards(streams, ("extrinsic", "intrinsic"))
        return self.last_obs, self._combine(streams), dones, infos

    def _finish_step(self, dones: np.ndarray, places: tuple[np.ndarray, np.ndarray] | None) -> np.ndarray:
        terminal_frames = {}
        if self._recorder is not None or self.snd.reads == "transition":
            for idx, obs in self.terminal_observations.items():
                terminal_frames[idx] = self.snd.select(map_obs(lambda entry: np.array(entry)[None], obs))[0]
        intrinsic = self.scorer.finish_step(self.last_obs, dones, terminal_frames, places)
        if self._recorder is not None:
            self._recorder.add_ends(terminal_frames)
        return intrinsic.cpu().numpy()

    def _combine(self, streams: np.ndarray) -> np.ndarray:
        """
        Compute the reward that the algorithm sees.

        :param streams: Extrinsic and intrinsic rewards, ``(n_envs, 2)``
        :return: weighted sum, ``(n_envs,)``
        """
        return streams @ self.coefs

    @staticmethod
    def _true_successors(last_obs: Any, dones: np.ndarray, infos: list[dict[str, Any]]) -> dict[int, Any]:
        """
        Find the true successors of the states in which an episode ended: the terminal observation, or s_t itself
        if the environment does not tell it.

        :param last_obs: s_t, ``(n_envs, *obs_shape)``, or a dict of these
        :param dones: Whether the episode ended, ``(n_envs,)``
        :param infos: Infos of the step
        :return: observations ``(*obs_shape)`` by environment
        """
        successors = {}
        for idx in np.flatnonzero(dones).tolist():
            terminal_obs = infos[idx].get("terminal_observation")
            if terminal_obs is None:
                terminal_obs = map_obs(lambda entry, idx=idx: th.as_tensor(entry[idx]).numpy(force=True).copy(), last_obs)
            successors[idx] = terminal_obs
        return successors

    def start_recording(self, n_steps: int) -> None:
        """
        Record the next steps, so that the nets are trained on exactly the frames they scored, whatever outer
        wrappers change.

        :param n_steps: Number of steps until :meth:`pop_rollout`
        """
        if self._recorder is None or self._recorder.n_steps != n_steps:
            self._recorder = RolloutRecorder(n_steps, self.snd.select(self.last_obs))
        self._recorder.restart()

    def pop_rollout(self) -> Rollout:
        """
        Return the recorded rollout.

        :return: the rollout; the next recording overwrites its memory
        """
        assert self._recorder is not None, "Nothing was recorded."
        return self._recorder.pop(self.last_obs)

    def pop_statistics(self) -> dict[str, float]:
        """
        Return the statistics of all training steps since the last call.

        :return: see :meth:`BonusStatistics.pop <sb3_snd.rewards.statistics.BonusStatistics.pop>`
        """
        return self.scorer.statistics.pop()


class VecRewardStreams(VecIntrinsicReward):
    """``VecIntrinsicReward`` that keeps both rewards apart, without weights. ``PPOSND`` wraps its environment in it."""

    def reset(self) -> VecEnvObs:
        """Reset all environments, after the reward's warm-up if it asks for one."""
        warm_up(self.snd, self.venv)  # this is the environment of a training
        return super().reset()

    def _combine(self, streams: np.ndarray) -> np.ndarray:
        return streams


def _is_running(call: FrameType) -> bool:
    """Return whether the code that asks was called by a given call, directly or not."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame is not call:
        frame = frame.f_back
    return frame is not None
