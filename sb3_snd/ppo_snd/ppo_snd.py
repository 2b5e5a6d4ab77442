"""``PPOSND``: PPO with an extrinsic and an intrinsic stream of rewards, values and advantages.

Knows SB3's rollout loop, the two-stream buffer and ``SND``, but no network layer, loss or game.
"""

import contextlib
import io
import json
import math
import pathlib
import pickle
import time
import warnings
import zipfile
from collections.abc import Iterator
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.save_util import json_to_data, open_path
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule, TensorDict
from stable_baselines3.common.utils import FloatSchedule, explained_variance, obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv

from sb3_snd.common.check_nan import check_gradients, check_terms
from sb3_snd.common.cuda_graphs import Replay, Tensors, can_record, unchecked_distributions
from sb3_snd.common.memory import keep_freed_memory, return_freed_memory
from sb3_snd.common.precision import match_layout, resolve_precision, set_precision
from sb3_snd.common.preprocessing import FrameReader
from sb3_snd.common.type_aliases import STREAM_NAMES
from sb3_snd.common.validation import check_device, checked
from sb3_snd.ppo_snd.buffers import StreamRolloutBuffer
from sb3_snd.ppo_snd.device_update import DeviceUpdate
from sb3_snd.ppo_snd.frame_stacks import FrameUploader, find_stack
from sb3_snd.ppo_snd.policies import CnnPolicy, MlpPolicy, MultiInputPolicy, StreamActorCriticPolicy
from sb3_snd.ppo_snd.validation import (
    ARGUMENTS,
    check_buffer,
    check_policy,
    check_policy_kwargs,
    check_sizes,
    check_unwrapped,
    find_env,
)
from sb3_snd.rewards.base import IntrinsicReward
from sb3_snd.rewards.make import check_snd_kwargs, make_reward
from sb3_snd.rewards.rollout import Rollout, check_rollout
from sb3_snd.targets import Target
from sb3_snd.wrappers import VecIntrinsicReward, VecRewardStreams

SelfPPOSND = TypeVar("SelfPPOSND", bound="PPOSND")


class PPOSND(PPO):
    """
    PPO with two value streams, one of which is driven by Self-supervised Network Distillation.

    Paper: Pecháč, Chovanec, Farkaš: Self-supervised network distillation, https://arxiv.org/abs/2302.11563
    PPO's arguments keep PPO's defaults; the paper's settings are in ``hyperparams/``. ``CnnPolicy`` is the
    paper's network.

    :param policy: ``"MlpPolicy"``, ``"CnnPolicy"``, ``"MultiInputPolicy"`` or a subclass of
        ``StreamActorCriticPolicy``
    :param env: The environment, which is wrapped in a ``VecIntrinsicReward`` here; ``get_env()`` returns it
        unwrapped
    :param snd: Name of a target in ``sb3_snd.targets.TARGETS``, a subclass of ``Target`` or of
        ``IntrinsicReward``, or an intrinsic reward such as an ``SND``; None gives plain PPO with one stream
    :param snd_kwargs: Arguments of the reward, if ``snd`` is not one yet; ``batch_size`` and ``precision`` are
        those given here by default
    :param gamma: Discount factor of the extrinsic stream
    :param gamma_int: Discount factor of the intrinsic stream
    :param ext_coef: Weight of the extrinsic advantage, or a function of the remaining training progress, which
        falls from 1 to 0; unused with one stream
    :param int_coef: Weight of the intrinsic advantage, or such a function; unused with one stream
    :param intrinsic_episodic: Whether the intrinsic stream ends with the episode, as in the paper; if not, it
        continues through resets (RND, arXiv 1810.12894, section 2.3)
    :param normalize_advantage: Whether to normalise the weighted advantage. By default it is normalised with
        one stream, as in PPO, but not with two, as in the paper
    :param vf_coef: Weight of the value loss, which is a mean over both streams: 1.0 here equals 0.5 times the
        sum of both losses
    :param precision: Number format in which the convolutions of the paper's nets compute: ``"auto"``,
        ``"bfloat16"`` or ``"float32"``, see :func:`~sb3_snd.common.precision.resolve_precision`. The default is
        ``"auto"``, or ``"float32"`` without SND, as in PPO
    :param cuda_graphs: Whether to record acting and both updates once as CUDA graphs and replay them. This
        needs CUDA and a fused optimiser, which all nets have except plain PPO's for vectors. The algorithm is
        the same up to rounding. Recorded updates synchronise only once, at their end, when all losses and
        gradients are checked, so early stopping by ``target_kl`` is not available
    :param kwargs: Further arguments of PPO, by name
    :raises ValueError: for a value out of its range, an unknown target, or an observation space that no target
        supports
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    rollout_buffer: StreamRolloutBuffer
    snd: IntrinsicReward | None

    def __init__(
        self,
        policy: str | type[StreamActorCriticPolicy],
        env: GymEnv | str,
        snd: str | type[Target] | type[IntrinsicReward] | IntrinsicReward | None = "vic",
        snd_kwargs: dict[str, Any] | None = None,
        gamma_int: float = 0.99,
        ext_coef: float | Schedule = 2.0,
        int_coef: float | Schedule = 1.0,
        intrinsic_episodic: bool = True,
        normalize_advantage: bool | None = None,
        precision: str | None = None,
        cuda_graphs: bool = False,
        _init_setup_model: bool = True,
        **kwargs: Any,
    ) -> None:
        if normalize_advantage is None:
            normalize_advantage = snd is None
        if precision is None:
            precision = "float32" if snd is None else "auto"
        kwargs = checked({**kwargs, "normalize_advantage": normalize_advantage}, ARGUMENTS)
        if _init_setup_model:  # otherwise ``load`` restores the saved attributes later
            check_policy(policy, self.policy_aliases)
            check_device(kwargs.get("device", "auto"))
            env = find_env(env, kwargs.get("verbose", 0))
            check_sizes(env, kwargs, trains_snd=snd is not None)
            if kwargs.get("use_sde") and not isinstance(env.action_space, spaces.Box):
                raise ValueError(f"use_sde=True needs continuous actions (a Box space), not {env.action_space}.")
            if policy == "MultiInputPolicy" and not isinstance(env.observation_space, spaces.Dict):
                raise ValueError(
                    f"policy={policy!r} must be 'MlpPolicy' or 'CnnPolicy': {env.observation_space} is not a Dict space."
                )
        snd_kwargs = check_snd_kwargs(snd_kwargs, snd)
        if not isinstance(kwargs.get("rollout_buffer_kwargs"), (dict, type(None))):
            raise ValueError(f"rollout_buffer_kwargs={kwargs['rollout_buffer_kwargs']!r} must be a dict or None.")
        # ``load`` builds the nets from these two; ``_setup_model`` assigns them to ``self.snd``
        self.snd_target = snd.spec if isinstance(snd, IntrinsicReward) else snd
        self.snd_kwargs = snd.init_kwargs if isinstance(snd, IntrinsicReward) else snd_kwargs
        self.snd = snd if isinstance(snd, IntrinsicReward) else None
        self.gamma_int = gamma_int
        self.ext_coef = ext_coef
        self.int_coef = int_coef
        self.intrinsic_episodic = intrinsic_episodic
        self.precision = precision
        self.cuda_graphs = cuda_graphs
        self._uploader: FrameUploader | None = None
        self._recorded_act: Replay | None = None
        super().__init__(policy, env, _init_setup_model=_init_setup_model, **kwargs)

    @property
    def n_streams(self) -> int:
        """Number of streams: 2, or 1 without SND."""
        return 1 if self.snd_target is None else 2

    def _setup_model(self) -> None:
        self._check_arguments()
        precision = resolve_precision(self.precision, self.device)
        two = self.n_streams == 2
        stream_kwargs = dict(
            gamma_int=self.gamma_int,
            ext_coef=FloatSchedule(self.ext_coef)(1.0),
            int_coef=FloatSchedule(self.int_coef)(1.0),
            intrinsic_episodic=self.intrinsic_episodic,
        )
        if self.rollout_buffer_class is None:
            self.rollout_buffer_class = StreamRolloutBuffer
        # The parent reads both dicts once; they are restored afterwards so that the user's own arguments are saved
        user_kwargs = self.policy_kwargs, self.rollout_buffer_kwargs
        self.policy_kwargs = {**self.policy_kwargs, "n_streams": self.n_streams}
        self.rollout_buffer_kwargs = {**self.rollout_buffer_kwargs, **(stream_kwargs if two else {})}
        super()._setup_model()
        self.policy_kwargs, self.rollout_buffer_kwargs = user_kwargs
        if self.precision != "float32":
            set_precision(self.policy, precision)
        self.policy.optimizer.register_load_state_dict_post_hook(match_layout)
        self._update = DeviceUpdate(self, records=self.cuda_graphs)
        self._store_frames_once()

        if self.snd_target is not None:
            if self.snd is None:
                snd_kwargs = {"batch_size": self.batch_size, "precision": self.precision, **self.snd_kwargs}
                self.snd = make_reward(self.snd_target, self.observation_space, self.device, snd_kwargs)
            self.snd.check_space(self.observation_space)
            self.snd.to(self.device)
            self.snd.set_precision()
            if self.snd.trainer is not None:  # moves the optimiser's state to the device
                self.snd.trainer.optimizer.load_state_dict(self.snd.trainer.optimizer.state_dict())
            if self.env is not None:
                self.env = self._wrap_with_snd(self.env)
        if self.cuda_graphs:
            self._use_graphs()

    def _use_graphs(self) -> None:
        if not can_record(self.device):
            warnings.warn(f"cuda_graphs=True is ignored: {self.device} has no CUDA graphs.", stacklevel=2)
        if self.snd is not None and self.snd.trainer is not None:
            self.snd.trainer.fixed_shapes = True
        if not self.use_sde:  # gSDE replaces its noise tensor now and then
            self._recorded_act = Replay(self._forward, self._policy_state)

    def _policy_state(self) -> Iterator[th.Tensor]:
        yield from self.policy.parameters()
        yield from self.policy.buffers()

    def _forward(self, obs: th.Tensor) -> Tensors:
        with th.no_grad(), unchecked_distributions():
            return self.policy(obs)

    def _act(self, obs: th.Tensor | TensorDict) -> Tensors:
        """
        Choose actions for a batch of observations.

        :return: actions, values ``(n_envs, S)`` and log-probabilities
        :raises ValueError: if parameters of the action distribution are NaN or invalid, with the message of
            PyTorch's distributions. On a CPU they check them only if the log-probabilities are not finite or
            sampling fails, on other devices always
        """
        if self._recorded_act is not None and isinstance(obs, th.Tensor):
            return self._recorded_act(obs)
        with th.no_grad():
            if self.device.type != "cpu":
                return self.policy(obs)
            try:
                with unchecked_distributions():
                    actions, values, log_probs = self.policy(obs)
            except (RuntimeError, ValueError):
                self.policy.get_distribution(obs)
                raise
            if not math.isfinite(log_probs.sum()):
                self.policy.get_distribution(obs).log_prob(actions)
            return actions, values, log_probs

    def _store_frames_once(self) -> None:
        """
        Store single frames instead of stacks if the environment stacks like SB3's ``VecFrameStack`` and novelty
        needs only the newest frame.
        """
        if self.env is None or not isinstance(self.rollout_buffer, StreamRolloutBuffer):
            return
        n_stack = find_stack(self.env)
        if n_stack > 1 and self.snd_target is not None:
            channels = FrameReader(self.observation_space).shape[0]
            n_stack = n_stack if self.observation_space.shape[0] // n_stack >= channels else 1  # type: ignore[index]
        self.rollout_buffer.set_stack(n_stack)
        self._uploader = None
        space = self.observation_space
        if self.device.type == "cuda" and isinstance(space, spaces.Box) and len(space.shape) == 3:
            assert space.dtype is not None
            self._uploader = FrameUploader(self.n_envs, space.shape, space.dtype, self.device, n_stack)

    def _check_arguments(self) -> None:
        if not issubclass(self.policy_class, StreamActorCriticPolicy):
            raise ValueError(
                f"PPOSND needs a policy with one value per stream, not {self.policy_class.__name__}:"
                " use 'MlpPolicy', 'CnnPolicy', 'MultiInputPolicy' or a subclass of sb3_snd.policies.StreamActorCriticPolicy."
            )
        vars(self).update(checked({name: vars(self)[name] for name in ARGUMENTS if name in vars(self)}, ARGUMENTS))
        self.policy_kwargs = check_policy_kwargs(self.policy_class, self.policy_kwargs)
        if self.policy_kwargs.get("squash_output") and not self.use_sde:
            raise ValueError("squash_output=True requires gSDE: set use_sde=True.")
        check_buffer(self.rollout_buffer_class, self.rollout_buffer_kwargs)
        if self.cuda_graphs and self.target_kl is not None:
            raise ValueError(
                f"target_kl={self.target_kl!r} cannot be used with cuda_graphs=True, which has no early stopping:"
                " drop one of them."
            )
        if self.cuda_graphs and self.rollout_buffer_class not in (None, StreamRolloutBuffer):
            raise ValueError("cuda_graphs=True supports only StreamRolloutBuffer: omit rollout_buffer_class.")

    def _wrap_with_snd(self, env: VecEnv) -> VecEnv:
        assert self.snd is not None
        if isinstance(env, VecIntrinsicReward):  # saved with the model, by include=["env"]
            env = env.venv
        return VecRewardStreams(env, self.snd)

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """
        Set the environment; see ``BaseAlgorithm.set_env``.

        :param env: The environment, without intrinsic reward
        :param force_reset: Whether to reset it before training
        """
        check_unwrapped(env)
        super().set_env(env, force_reset)
        self._store_frames_once()
        if self.snd is not None:
            assert self.env is not None
            self.env = self._wrap_with_snd(self.env)

    def get_env(self) -> VecEnv | None:
        """
        Return the environment without ``VecIntrinsicReward``, with its own rewards, so that it is suitable for
        evaluation.

        :return: the environment, or None if the model has none
        """
        return self.env.venv if isinstance(self.env, VecIntrinsicReward) else self.env

    def collect_rollouts(
        self,
        env: VecEnv,
        callback: BaseCallback,
        rollout_buffer: RolloutBuffer,
        n_rollout_steps: int,
    ) -> bool:
        """
        Collect a rollout with the current policy.

        This follows the text of ``OnPolicyAlgorithm.collect_rollouts`` of SB3 (MIT). It is overridden because
        SB3's version bootstraps time limits with one scalar ``gamma``, loses terminal observations, and would
        copy each observation to the device three times.

        :param env: The training environment
        :param callback: Callback that is called at each step, and at the rollout's beginning and end
        :param rollout_buffer: The buffer to fill
        :param n_rollout_steps: Number of steps of each environment
        :return: False if the callback ended the training
        """
        self._follow_schedules()
        wrapper = env if isinstance(env, VecIntrinsicReward) else None
        try:
            if wrapper is not None:
                wrapper.training = True
            with self._timed("rollout"):
                return self._collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)
        finally:
            if wrapper is not None:
                wrapper.training = False

    def _follow_schedules(self) -> None:
        """Update the weights of both streams, ``eta`` and the learning rate of SND's nets from their schedules."""
        if self.snd is None:
            return
        remaining = max(0.0, self._current_progress_remaining)
        if callable(self.ext_coef) or callable(self.int_coef):
            coefs = [FloatSchedule(coef)(remaining) for coef in (self.ext_coef, self.int_coef)]
            self.rollout_buffer.coefs = np.array(coefs, dtype=np.float32)
        self.snd.set_progress(remaining)

    def _setup_learn(self, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        """Set up the training, and reset the progress, which is still that of an earlier training."""
        total_timesteps, callback = super()._setup_learn(*args, **kwargs)
        if self.snd is not None:
            check_rollout(self.n_steps * self.n_envs)
        if total_timesteps > 0:
            self._update_current_progress_remaining(self.num_timesteps, total_timesteps)
        return total_timesteps, callback

    def _collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        assert self._last_obs is not None, "No previous observation was provided"
        assert isinstance(rollout_buffer, StreamRolloutBuffer)
        self.policy.set_training_mode(False)
        n_steps = 0
        rollout_buffer.reset()
        if self._recorded_act is not None:
            self._recorded_act.check()
        if self.use_sde:
            self.policy.reset_noise(env.num_envs)
        callback.on_rollout_start()
        uploader = self._uploader
        first: Any = self._last_obs
        obs_tensor = obs_as_tensor(first, self.device) if uploader is None else uploader.restart(first)
        is_stack = None if uploader is None else True

        while n_steps < n_rollout_steps:
            if self.use_sde and self.sde_sample_freq > 0 and n_steps % self.sde_sample_freq == 0:
                self.policy.reset_noise(env.num_envs)
            chosen, values, log_probs = self._act(obs_tensor)
            actions = chosen.cpu().numpy()
            if isinstance(env, VecIntrinsicReward):
                env.set_device_obs(obs_tensor)
            clipped_actions = self._clip_actions(actions)  # callbacks may read this local variable, as in PPO
            new_obs, rewards, dones, infos = env.step(clipped_actions)
            rewards = np.array(rewards, dtype=np.float32).reshape(env.num_envs, self.n_streams)
            self.num_timesteps += env.num_envs

            callback.update_locals(locals())
            if not callback.on_step():
                return False

            self._update_info_buffer(infos, dones)
            for idx in np.flatnonzero(dones).tolist():
                terminal_obs = infos[idx].get("terminal_observation")
                if terminal_obs is not None and infos[idx].get("TimeLimit.truncated", False):
                    rewards[idx] += rollout_buffer.discount(self._terminal_values(terminal_obs))
            if isinstance(env, VecIntrinsicReward):
                for idx, successor in env.terminal_observations.items():
                    rollout_buffer.terminal_observations[n_steps * env.num_envs + idx] = successor
            rollout_buffer.add(obs_tensor, actions, rewards, self._last_episode_starts, values, log_probs, is_stack)  # type: ignore[arg-type]
            n_steps += 1
            self._last_obs = new_obs  # type: ignore[assignment]
            self._last_episode_starts = dones
            if uploader is None:
                obs_tensor = obs_as_tensor(new_obs, self.device)  # type: ignore[arg-type]
            else:
                obs_tensor = uploader.upload(new_obs, dones)  # type: ignore[arg-type]
                is_stack = uploader.is_stack

        with th.no_grad():
            values = self.policy.predict_values(obs_tensor)
        rollout_buffer.compute_returns_and_advantage(last_values=values, dones=dones)
        callback.update_locals(locals())
        callback.on_rollout_end()
        if isinstance(env, VecIntrinsicReward):
            for name, value in env.pop_statistics().items():
                self.logger.record(f"rollout/{name}", value)
        return True

    def _clip_actions(self, actions: np.ndarray) -> np.ndarray:
        if not isinstance(self.action_space, spaces.Box):
            return actions
        if self.policy.squash_output:
            return self.policy.unscale_action(actions)
        return np.clip(actions, self.action_space.low, self.action_space.high)

    def _terminal_values(self, terminal_obs: np.ndarray | dict[str, np.ndarray]) -> np.ndarray:
        """
        Compute the values of a terminal observation.

        :param terminal_obs: ``obs_shape``, or a dict of these
        :return: value of each stream, ``(S,)``
        """
        with th.no_grad():
            return self.policy.predict_values(self.policy.obs_to_tensor(terminal_obs)[0])[0].cpu().numpy()

    def train(self) -> None:
        """
        Run PPO's update, then train SND on the same rollout. SB3's own update is used if ``target_kl`` is set
        or the buffer is not exactly a ``StreamRolloutBuffer``.
        """
        self._follow_schedules()
        with self._timed("ppo"):
            if self.target_kl is None and type(self.rollout_buffer) is StreamRolloutBuffer:
                self._update.train()
            else:
                self._train_as_sb3()
        check_terms({"loss": self.logger.name_to_value["train/loss"]}, "PPO", poisoned=True)
        if self.snd is None:
            return
        self._log_explained_variance()
        if self.snd.trainer is None:
            return
        self.policy.optimizer.zero_grad()  # frees memory for SND's update
        if self._keeps_memory and self.logger.name_to_value["time/ppo_s"] > 1:  # not worth it for small rollouts
            return_freed_memory()
        with self._timed("snd"):
            losses = self.snd.trainer.train_on_rollout(self._rollout())
        for name, value in losses.items():
            self.logger.record(f"snd/{name}", value)

    def _log_explained_variance(self) -> None:
        for stream, name in enumerate(STREAM_NAMES):
            values, returns = self.rollout_buffer.values[..., stream], self.rollout_buffer.returns[..., stream]
            variance = explained_variance(values.flatten(), returns.flatten())
            self.logger.record(f"train/explained_variance_{name}", variance)

    def _rollout(self) -> Rollout:
        """Return the rollout in the buffer, with the actions as the environments got them."""
        buffer = self.rollout_buffer
        actions = buffer.actions.reshape(*buffer.actions.shape[:2], *(self.action_space.shape or ()))
        return buffer.rollout(self._last_obs, self._clip_actions(actions))

    def _train_as_sb3(self) -> None:
        """Run SB3's own PPO update, with a check of the gradients before each step of the optimiser."""
        optimizer = self.policy.optimizer
        look = optimizer.register_step_pre_hook(lambda *_: check_gradients(self.policy, "PPO"))
        try:
            super().train()
        finally:
            look.remove()

    @property
    def _keeps_memory(self) -> bool:
        space = self.observation_space
        parts = space.values() if isinstance(space, spaces.Dict) else [space]
        return self.device.type == "cpu" and any(len(part.shape or ()) == 3 for part in parts)

    @contextlib.contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        """Log the duration of a block in seconds as ``time/<phase>_s``."""
        start = time.perf_counter()
        yield
        if self.device.type == "cuda":
            th.cuda.synchronize(self.device)
        self.logger.record(f"time/{phase}_s", time.perf_counter() - start)

    def learn(
        self: SelfPPOSND,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str = "PPOSND",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfPPOSND:
        """Train the model; see ``PPO.learn``."""
        if self._keeps_memory:
            keep_freed_memory()
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)

    @classmethod
    def load(  # type: ignore[override]
        cls: type[SelfPPOSND], path: str | pathlib.Path | io.BufferedIOBase, *args: Any, **kwargs: Any
    ) -> SelfPPOSND:
        """
        Load a saved model; see ``BaseAlgorithm.load``.

        :param path: File that ``save`` wrote
        :param args: Further arguments of ``BaseAlgorithm.load``, by position
        :param kwargs: Further arguments of ``BaseAlgorithm.load``, by name
        :return: the model, with policy, SND nets, running statistics, both optimisers, counters and schedules
        :raises ValueError: if the file was not saved by ``PPOSND``, if it was saved with a target other than
            ``snd``, or if it holds anything but tensors in their place
        """
        file = open_path(path, "r", suffix="zip")
        try:
            with zipfile.ZipFile(file) as archive:
                data = json.loads(archive.read("data"))
        except (zipfile.BadZipFile, KeyError, ValueError):
            data = {}
        finally:
            if file is not path:
                file.close()
        if "snd_target" not in data:
            raise ValueError(f"{path} was not saved by PPOSND: load it with the algorithm that wrote it.")
        if isinstance(path, io.BufferedIOBase):
            path.seek(0)
        check_unwrapped(args[0] if args else kwargs.get("env"))
        snd = kwargs.get("snd")
        if isinstance(snd, IntrinsicReward):
            kwargs.update(snd_target=snd.spec, snd_kwargs=snd.init_kwargs)
        elif "snd" in kwargs:
            kwargs["snd_target"] = kwargs.pop("snd")
        if not isinstance(snd, IntrinsicReward) and "snd_kwargs" in kwargs:  # other arguments keep their saved values
            saved_kwargs = json_to_data(json.dumps({"snd_kwargs": data["snd_kwargs"]}), kwargs.get("custom_objects"))
            kwargs["snd_kwargs"] = {**saved_kwargs["snd_kwargs"], **check_snd_kwargs(kwargs["snd_kwargs"])}
        asked, saved = kwargs.get("snd_target", data["snd_target"]), data["snd_target"]
        if asked != saved and (asked is None or isinstance(asked, str)):
            raise ValueError(f"{path} was saved with snd={saved!r}, which cannot be changed to snd={asked!r}: omit snd.")
        try:
            return super().load(path, *args, **kwargs)
        except pickle.UnpicklingError as error:
            raise ValueError(f"{path} holds other objects in place of tensors, so nothing was loaded.") from error

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_uploader", "_recorded_act", "_update"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        state_dicts, variables = super()._get_torch_save_params()
        if self.snd is not None:
            state_dicts += ["snd"] if self.snd.trainer is None else ["snd", "snd.trainer.optimizer"]
        return state_dicts, variables
