"""``PPOSND``: PPO with an extrinsic and an intrinsic stream of rewards, values and advantages.

Knows SB3's rollout loop, the two-stream buffer and ``SND``, but no network layer, loss or game.
"""

import contextlib
import io
import pathlib
import pickle
import warnings
from collections.abc import Iterator
from typing import Any, ClassVar, TypeVar

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import FloatSchedule
from stable_baselines3.common.vec_env import VecEnv

from sb3_snd.common.check_nan import check_terms
from sb3_snd.common.cuda_graphs import can_record
from sb3_snd.common.memory import keep_freed_memory, return_freed_memory
from sb3_snd.common.precision import match_layout, resolve_precision, set_precision
from sb3_snd.common.validation import validate
from sb3_snd.ppo_snd.acting import Actor
from sb3_snd.ppo_snd.buffers import StreamRolloutBuffer
from sb3_snd.ppo_snd.device_update import DeviceUpdate, train_as_sb3
from sb3_snd.ppo_snd.loading import read_data, use_given_snd
from sb3_snd.ppo_snd.policies import CnnPolicy, MlpPolicy, MultiInputPolicy, StreamActorCriticPolicy
from sb3_snd.ppo_snd.stream_ppo import StreamPPO
from sb3_snd.ppo_snd.validation import RULES, check_construction, check_model, check_unwrapped
from sb3_snd.rewards.base import IntrinsicReward
from sb3_snd.rewards.make import check_snd_kwargs, check_space, is_trained, make_reward
from sb3_snd.rewards.rollout import check_rollout
from sb3_snd.targets import Target
from sb3_snd.wrappers import VecIntrinsicReward, VecRewardStreams

SelfPPOSND = TypeVar("SelfPPOSND", bound="PPOSND")


class PPOSND(StreamPPO):
    """
    PPO with two value streams, one of which is driven by Self-supervised Network Distillation.

    Paper: Pecháč, Chovanec, Farkaš: Self-supervised network distillation, https://arxiv.org/abs/2302.11563.
    PPO's arguments keep PPO's defaults; the paper's settings are in ``hyperparams/``. ``CnnPolicy`` is the
    paper's network.

    :param policy: ``"MlpPolicy"``, ``"CnnPolicy"``, ``"MultiInputPolicy"`` or a subclass of
        ``StreamActorCriticPolicy``
    :param env: The environment, which is wrapped in a ``VecIntrinsicReward`` here; ``get_env()`` returns it
        unwrapped
    :param snd: Name in ``sb3_snd.targets.TARGETS`` or ``sb3_snd.rewards.REWARDS``, a subclass of ``Target`` or of
        ``IntrinsicReward``, or an intrinsic reward such as an ``SND``; None gives plain PPO with one stream
    :param snd_kwargs: Arguments of the reward, if ``snd`` is not one yet; ``batch_size`` and ``precision``
        are those given here by default
    :param gamma: Discount factor of the extrinsic stream
    :param gamma_int: Discount factor of the intrinsic stream
    :param ext_coef: Weight of the extrinsic advantage, or a function of the remaining training progress,
        which falls from 1 to 0; unused with one stream
    :param int_coef: Weight of the intrinsic advantage, or such a function; unused with one stream
    :param intrinsic_episodic: Whether the intrinsic stream ends with the episode, as in the paper; if not, it
        continues through resets (RND, arXiv 1810.12894, section 2.3)
    :param episodic: Name of an episodic bonus, see :class:`~sb3_snd.wrappers.VecIntrinsicReward`
    :param normalize_advantage: Whether to normalise the weighted advantage. By default it is normalised with
        one stream, as in PPO, but not with two, as in the paper
    :param vf_coef: Weight of the value loss, which is a mean over both streams: 1.0 here equals 0.5 times the
        sum of both losses
    :param precision: Number format in which the convolutions of the paper's nets compute, see
        :func:`~sb3_snd.common.precision.resolve_precision`; ``"auto"``, or ``"float32"`` without SND, by default
    :param cuda_graphs: Whether to record acting and both updates once as CUDA graphs and replay them. This
        needs CUDA and a fused optimiser, which all nets have except plain PPO's for vectors. The algorithm is
        the same up to rounding. Recorded updates synchronise only once, at their end, when all losses and
        gradients are checked, so early stopping by ``target_kl`` is not available
    :param kwargs: Further arguments of PPO, by name
    :raises ValueError: for a value out of its range, an unknown reward, or an observation space that it cannot
        read
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
        episodic: str | None = None,
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
        snd_kwargs = check_snd_kwargs(snd_kwargs, snd, episodic)
        kwargs = validate({**kwargs, "normalize_advantage": normalize_advantage}, RULES)
        if _init_setup_model:  # otherwise ``load`` restores the saved attributes later
            env = check_construction(policy, self.policy_aliases, env, kwargs, trains_snd=is_trained(snd))
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
        super().__init__(policy, env, _init_setup_model=_init_setup_model, **kwargs)

    @property
    def n_streams(self) -> int:
        """Number of streams: 2, or 1 without SND."""
        return 1 if self.snd_target is None else 2

    def _setup_model(self) -> None:
        check_model(self)
        if self.rollout_buffer_class is None:
            self.rollout_buffer_class = StreamRolloutBuffer
        with self._with_streams():
            super()._setup_model()
        if self.precision != "float32":
            set_precision(self.policy, resolve_precision(self.precision, self.device))
        self.policy.optimizer.register_load_state_dict_post_hook(match_layout)
        # gSDE replaces its noise tensor now and then, which a recording would not see
        self._actor = Actor(self, records=self.cuda_graphs and not self.use_sde)
        self._update = DeviceUpdate(self, records=self.cuda_graphs)
        self._store_frames_once(reads_frames=self.snd_target is not None)

        if self.snd_target is not None:
            if self.snd is None:
                snd_kwargs = {"batch_size": self.batch_size, "precision": self.precision, **self.snd_kwargs}
                read = self.observation_space, self.action_space, self.device
                self.snd = make_reward(self.snd_target, *read, snd_kwargs)
            check_space(self.snd, self.observation_space)
            self.snd.to(self.device)
            self.snd.set_precision()
            if self.snd.trainer is not None:  # moves the optimiser's state to the device
                self.snd.trainer.optimizer.load_state_dict(self.snd.trainer.optimizer.state_dict())
            if self.env is not None:
                self.env = self._wrap_with_snd(self.env)
        if self.cuda_graphs:
            self._use_graphs()

    @contextlib.contextmanager
    def _with_streams(self) -> Iterator[None]:
        """Add the streams' arguments for policy and buffer, and restore the user's own, which are saved."""
        user_kwargs = self.policy_kwargs, self.rollout_buffer_kwargs
        self.policy_kwargs = {**self.policy_kwargs, "n_streams": self.n_streams}
        if self.n_streams == 2:
            self.rollout_buffer_kwargs = {
                **self.rollout_buffer_kwargs,
                "gamma_int": self.gamma_int,
                "ext_coef": FloatSchedule(self.ext_coef)(1.0),
                "int_coef": FloatSchedule(self.int_coef)(1.0),
                "intrinsic_episodic": self.intrinsic_episodic,
            }
        try:
            yield
        finally:
            self.policy_kwargs, self.rollout_buffer_kwargs = user_kwargs

    def _use_graphs(self) -> None:
        if not can_record(self.device):
            warnings.warn(f"cuda_graphs=True is ignored: {self.device} has no CUDA graphs.", stacklevel=2)
        if self.snd is not None and self.snd.trainer is not None:
            self.snd.trainer.fixed_shapes = True

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
        self._store_frames_once(reads_frames=self.snd_target is not None)
        if self.snd is not None:
            assert self.env is not None
            self.env = self._wrap_with_snd(self.env)

    def get_env(self) -> VecEnv | None:
        """
        Return the environment without ``VecIntrinsicReward``, with its own rewards, so that it is suitable for
        evaluation. Its state is that of the training, so reset it before the training continues.

        :return: the environment, or None if the model has none
        """
        return self.env.venv if isinstance(self.env, VecIntrinsicReward) else self.env

    def _follow_schedules(self) -> None:
        """Update the streams' weights, ``eta`` and the learning rate of SND's nets from their schedules."""
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
        if self.snd is not None and self.snd.trainer is not None:
            check_rollout(self.n_steps * self.n_envs)
        if total_timesteps > 0:
            self._update_current_progress_remaining(self.num_timesteps, total_timesteps)
        return total_timesteps, callback

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
                train_as_sb3(self)
        check_terms({"loss": self.logger.name_to_value["train/loss"]}, "PPO", poisoned=True)
        if self.snd is None:
            return
        self._log_explained_variance()
        if self.snd.trainer is None:
            return
        self.policy.optimizer.zero_grad()  # frees memory for SND's update
        if self._trains_images_on_cpu and self.logger.name_to_value["time/ppo_s"] > 1:
            return_freed_memory()  # not worth it for small rollouts
        with self._timed("snd"):
            losses = self.snd.trainer.train_on_rollout(self._rollout())
        for name, value in losses.items():
            self.logger.record(f"snd/{name}", value)

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
        if self._trains_images_on_cpu:
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
        data = read_data(path)
        check_unwrapped(args[0] if args else kwargs.get("env"))
        use_given_snd(path, data, kwargs)
        try:
            return super().load(path, *args, **kwargs)
        except pickle.UnpicklingError as error:
            raise ValueError(f"{path} holds other objects in place of tensors, so nothing was loaded.") from error

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_uploader", "_actor", "_update"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        state_dicts, variables = super()._get_torch_save_params()
        if self.snd is not None:
            state_dicts += ["snd"] if self.snd.trainer is None else ["snd", "snd.trainer.optimizer"]
        return state_dicts, variables
