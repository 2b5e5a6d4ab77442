"""``VecIntrinsicReward``: novelty of s_t, computed while the environments step.

Knows environments and asks an ``SND`` for novelty; it never trains one.
"""

import inspect
import sys
import warnings
from types import FrameType
from typing import Any, Literal

import numpy as np
import torch as th
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import FloatSchedule
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, is_vecenv_wrapped
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from sb3_snd.arguments import WEIGHT, checked, one_of, scheduled
from sb3_snd.faults import check_rewards
from sb3_snd.preprocessing import map_obs
from sb3_snd.snd import SND, check_snd_kwargs
from sb3_snd.targets import Target
from sb3_snd.type_aliases import EXTRINSIC_REWARD_KEY, INTRINSIC_REWARD_KEY, Rollout

ARGUMENTS = {"ext_coef": scheduled(WEIGHT), "int_coef": scheduled(WEIGHT), "rewards": one_of("combined", "streams")}
RETURN_DISCOUNT = 0.99  # of the sums whose standard deviation novelty is divided by, where that is asked for
MOST_CLIPPED = 0.9  # share of a rollout's intrinsic rewards at their limit above which they tell nothing
MOST_SEEN = 1024  # steps that statistics keep before they are added up
LEAST_SHARE = 1e-4  # mean intrinsic reward, relative to the mean absolute extrinsic one, below which it changes nothing
#: Mean intrinsic reward that ``eta`` is proposed for. The paper's games have 0.005 to 0.02 with the paper's settings, the
#: small tasks of ``hyperparams/`` 0.05 to 0.5.
PROPOSED_MEAN = 0.03


class VecIntrinsicReward(VecEnvWrapper):
    """
    Adds an intrinsic reward, the novelty of the state that the action was taken in (arXiv 2302.11563, eq. 3).

    It does so only while ``training`` is True, which ``SNDCallback`` and ``PPOSND`` see to for as long as they learn.
    Otherwise, and so in every evaluation environment, rewards pass through untouched. Every info holds both rewards under
    ``"extrinsic_reward"`` and ``"intrinsic_reward"``; the latter is 0 while ``training`` is False.

    A warning is given once if a rollout's intrinsic rewards are nearly all clipped, or too small to change anything.

    :param venv: The environment to wrap
    :param snd: Name of a target in ``sb3_snd.targets.TARGETS``, a subclass of ``Target``, or an ``SND``
    :param snd_kwargs: Arguments of ``SND``, if ``snd`` is not one yet; ``precision`` is ``"auto"`` here by default
    :param ext_coef: Weight of the extrinsic reward in the combined one, or a function of the remaining progress of training,
        from 1 to 0
    :param int_coef: Weight of the intrinsic reward in the combined one, or such a function
    :param rewards: ``"combined"``: ``ext_coef * extrinsic + int_coef * intrinsic``, ``(n_envs,)``, for any algorithm;
        ``"streams"``: both, unweighted, ``(n_envs, 2)``, for ``PPOSND``
    :param device: PyTorch device of the nets, if ``snd`` is not one yet
    :raises ValueError: for an unknown mode, bad arguments of ``SND``, an ``SND`` made for other observations, or an
        environment that has an intrinsic reward already
    """

    #: what a checkpoint between two rollouts does not need
    transient = ("_training", "_learn_call", "_recording", "_terminal_frames", "_intrinsic")

    def __init__(
        self,
        venv: VecEnv,
        snd: str | type[Target] | SND = "vic",
        snd_kwargs: dict[str, Any] | None = None,
        ext_coef: float | Schedule = 2.0,
        int_coef: float | Schedule = 1.0,
        rewards: Literal["combined", "streams"] = "combined",
        device: th.device | str = "auto",
    ) -> None:
        if not isinstance(venv, VecEnv):
            raise ValueError(f"venv={venv!r} must be a VecEnv of Stable-Baselines3: see its make_vec_env.")
        plain = checked({"ext_coef": ext_coef, "int_coef": int_coef, "rewards": rewards}, ARGUMENTS)
        snd_kwargs = check_snd_kwargs(snd_kwargs)
        if is_vecenv_wrapped(venv, VecIntrinsicReward):
            raise ValueError("The environment already has an intrinsic reward: wrap it in VecIntrinsicReward once.")
        if isinstance(snd, SND) and snd_kwargs:
            raise ValueError(f"snd_kwargs={snd_kwargs!r} only goes with the name of a target: give them to the SND itself.")
        super().__init__(venv)
        snd_kwargs = {"precision": "auto", **snd_kwargs}
        self.snd = snd if isinstance(snd, SND) else SND(venv.observation_space, snd, device=device, **snd_kwargs)
        self.snd.check_space(venv.observation_space)
        self.coef_schedules = FloatSchedule(plain["ext_coef"]), FloatSchedule(plain["int_coef"])
        self.rewards = rewards
        self.set_progress(1.0)
        self._training = False
        self._learn_call: FrameType | None = None
        self._warned = False
        #: number of calls of :meth:`pop_statistics` that had something to tell
        self.n_rollouts = 0
        #: the ``eta`` with which the last rollout's mean intrinsic reward would have been 0.03, but for clipping
        self.proposed_eta: float | None = None
        #: s_t, ``(n_envs, *obs_shape)``; an algorithm that has the same batch on its device may put it here
        self.last_obs: Any = None
        self._intrinsic: th.Tensor | None = None
        self._returns = th.zeros(venv.num_envs, device=self.snd.device)
        self._returns_began = False
        #: of each step since the last sums: novelty, novelty as ``SND.normalize`` gives it, and intrinsic rewards, (n_envs,)
        self._seen: list[tuple[th.Tensor, th.Tensor, th.Tensor]] = []
        self._sums: dict[str, th.Tensor] = {}
        self._extrinsic_sum = 0.0
        self._n_steps = 0
        self._recording: th.Tensor | None = None  # (n_steps, n_envs, *frame_shape)
        self._recorded = 0
        self._terminal_frames: dict[int, th.Tensor] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Without what SB3 keeps of the class itself and a call of ``learn``, which can be neither pickled nor copied."""
        return {name: value for name, value in vars(self).items() if name not in ("class_attributes", "_learn_call")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, class_attributes=dict(inspect.getmembers(type(self))), _learn_call=None)

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
        Reward steps until a call has ended, however it ends: callbacks do not hear of an exception or an interrupt.

        :param call: A call that is running, such as that of ``learn``
        :raises ValueError: if the environment has not been reset since it was wrapped
        """
        if self.last_obs is None:
            raise ValueError(
                "VecIntrinsicReward has not seen the environment's present observation: call its reset() after wrapping,"
                " or set_env() with force_reset=True."
            )
        self._training, self._learn_call = True, call

    def set_progress(self, progress_remaining: float) -> None:
        """
        Let the weights of both rewards, and what the nets have of schedules, follow their schedules.

        :param progress_remaining: From 1, when training begins, to 0, as SB3's schedules take it
        """
        remaining = max(0.0, progress_remaining)
        self.coefs = np.array([schedule(remaining) for schedule in self.coef_schedules], dtype=np.float32)
        self.snd.set_progress(progress_remaining)

    def reset(self) -> VecEnvObs:
        self.last_obs = self.venv.reset()
        return self.last_obs

    def step_async(self, actions: np.ndarray) -> None:
        self.venv.step_async(actions)  # first, so that environments and nets work at the same time
        self._intrinsic = None  # an interrupt may have left that of the step before
        if self.training:
            frames = self.snd.select(self.last_obs)
            self.snd.update_statistics(frames)
            novelty = self.snd.novelty(frames)
            if self.snd.return_stats is not None:
                self._add_to_returns(novelty)
                self.snd.return_stats.update(self._returns)
            relative = self.snd.normalize(novelty)
            self._intrinsic = self.snd.clip(relative)
            self._seen.append((novelty, relative, self._intrinsic))
            if len(self._seen) == MOST_SEEN:
                self._add_to_sums()
            if self._recording is not None:
                if self._recorded == len(self._recording):
                    raise RuntimeError(
                        "The environment was stepped by something else than the algorithm while it learns:"
                        " evaluate on another environment."
                    )
                self._recording[self._recorded].copy_(frames)

    def _add_to_returns(self, novelty: th.Tensor) -> None:
        """The sums begin as if the first novelty had always been there, where they would take 100 steps to settle from 0."""
        if not self._returns_began:
            self._returns_began = True
            self._returns = novelty / (1 - RETURN_DISCOUNT)
        else:
            self._returns = RETURN_DISCOUNT * self._returns + novelty

    def step_wait(self) -> VecEnvStepReturn:
        self.last_obs, extrinsic, dones, infos = self.venv.step_wait()
        intrinsic = np.zeros(self.num_envs, dtype=np.float32)
        training = self._intrinsic is not None
        if self._intrinsic is not None:
            if self._recording is not None:
                self._record_ends(dones, infos)
            intrinsic, self._intrinsic = self._intrinsic.cpu().numpy(), None
            assert intrinsic.shape == (self.num_envs,), intrinsic.shape
        both = zip(infos, extrinsic.tolist(), intrinsic.tolist(), strict=True)  # infos may be one dict several times
        infos = [{**info, EXTRINSIC_REWARD_KEY: ext, INTRINSIC_REWARD_KEY: int_} for info, ext, int_ in both]
        if not training:
            return self.last_obs, extrinsic, dones, infos
        self._extrinsic_sum += float(np.abs(extrinsic).mean())
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

    def _add_to_sums(self) -> None:
        """What the steps since the last call have seen, all at once."""
        if not self._seen:
            return
        novelty, relative, intrinsic = (th.stack(each) for each in zip(*self._seen, strict=True))  # (steps, n_envs) each
        sums = {
            "relative_novelty": relative,
            "novelty_mean": novelty,
            "intrinsic_reward_mean": intrinsic,
            "intrinsic_reward_clipped": (intrinsic >= 1).float(),
        }
        for name, values in sums.items():
            self._sums[name] = self._sums.get(name, 0.0) + values.mean(dim=1).sum()
        largest = intrinsic.max()
        self._sums["intrinsic_reward_max"] = th.maximum(self._sums.get("intrinsic_reward_max", largest), largest)
        self._n_steps += len(self._seen)
        self._seen = []

    def pop_statistics(self) -> dict[str, float]:
        """
        :return: since the last call, over all training steps: ``novelty_mean`` (before eta and clipping),
            ``intrinsic_reward_mean``, ``intrinsic_reward_max``, and ``intrinsic_reward_clipped``, the share of rewards at
            their limit of 1; empty if there was no step
        """
        self._add_to_sums()
        statistics = {
            name: value.item() / (1 if name.endswith("_max") else self._n_steps) for name, value in self._sums.items()
        }
        if statistics:
            self.n_rollouts += 1
            relative = statistics.pop("relative_novelty")
            self.proposed_eta = PROPOSED_MEAN / relative if relative > 0 else None
            self._check_bonus(statistics, self._extrinsic_sum / self._n_steps)
        self._sums, self._n_steps, self._extrinsic_sum = {}, 0, 0.0
        return statistics

    def _check_bonus(self, statistics: dict[str, float], extrinsic: float) -> None:
        """
        Warn once of a bonus that tells nothing, unless it was switched off or has faded by its schedule.

        :param statistics: Of a rollout
        :param extrinsic: Its mean absolute extrinsic reward
        """
        mean, clipped = statistics["intrinsic_reward_mean"], statistics["intrinsic_reward_clipped"]
        if self._warned or self.snd.eta < self.snd.first_eta or self.snd.eta == 0:
            return
        if self.proposed_eta is None:
            self._warned = True
            warnings.warn("Novelty is 0, so that no eta makes a reward of it: choose another target.", stacklevel=2)
            return
        if clipped > MOST_CLIPPED:
            reason = f"{clipped:.0%} of the intrinsic rewards are clipped at 1 and tell no states apart: lower eta"
        elif mean == 0 or mean < LEAST_SHARE * extrinsic:
            reason = (
                f"The mean intrinsic reward, {mean:.2g}, changes nothing beside a mean absolute extrinsic reward of"
                f" {extrinsic:.2g}: raise eta"
            )
        else:
            return
        self._warned = True
        proposal = f"{self.proposed_eta:.2g} would give a mean of {PROPOSED_MEAN}"
        warnings.warn(f"{reason}, which is {self.snd.eta:g}; {proposal}, or set norm_reward=True.", stacklevel=2)


def _is_running(call: FrameType) -> bool:
    """:return: whether what asks this was called, directly or not, by that call"""
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame is not call:
        frame = frame.f_back
    return frame is not None
