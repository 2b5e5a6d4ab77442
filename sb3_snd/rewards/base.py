"""``IntrinsicReward``: interface of all intrinsic rewards. Tensors go in, tensors come out.

Knows frames, actions and the ends of episodes, but no environment, info, buffer, algorithm or logger.
"""

import pathlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import torch as th
from gymnasium import spaces
from stable_baselines3.common.utils import get_device

from sb3_snd.common.precision import resolve_precision, set_precision
from sb3_snd.common.preprocessing import FrameReader
from sb3_snd.common.running_stats import RunningMeanStd
from sb3_snd.common.type_aliases import Transitions
from sb3_snd.common.validation import check_device, validate
from sb3_snd.rewards.rollout import Step
from sb3_snd.rewards.run_buffers import RunBuffers
from sb3_snd.rewards.scale import RewardScale
from sb3_snd.rewards.settings import DEFAULTS, RULES, check_argument_names, load_reward, save_reward
from sb3_snd.rewards.training import RewardTrainer

VECTOR_CLIP = 5.0  # normalised vectors and grids are clamped to this many standard deviations


class IntrinsicReward(RunBuffers, ABC):
    """
    Base class of all intrinsic rewards.

    A subclass defines its nets, :meth:`bonus` and :meth:`loss`, and calls :meth:`set_up` at the end of its
    constructor. What it keeps about each environment, such as the memory of an episode, is a non-persistent
    buffer (``register_buffer(..., persistent=False)``) whose first axis is the environments: it belongs to a
    run and not to the model, so a checkpoint of the run holds it, and a saved model does not.

    When training begins, and whenever the environments have stepped or were reset unseen,
    :class:`~sb3_snd.rewards.scorer.Scorer` calls :meth:`start` and, for rewards that read transitions,
    :meth:`begin` with all environments. Then it calls for each step, without gradients:

    1. :meth:`observe` with the frames of s_t
    2. :meth:`bonus` with the step. A reward that reads states is asked while the environments step, one that
       reads transitions afterwards
    3. only for rewards that read transitions: :meth:`remember` with the same step, then :meth:`begin` with the
       first frames of the episodes that begin

    After that, row n of a memory holds exactly what environment n has shown since its last reset, or since the
    reward began to follow it.

    A subclass takes an observation space, ``action_space``, ``device``, ``obs_key`` and the settings below, so that
    its class can be given as ``snd`` and it can be loaded with a model.

    :param observation_space: Observation space of the environment
    :param obs_key: Entries of ``Dict`` observations that are read, see
        :class:`~sb3_snd.common.preprocessing.FrameReader`
    :param action_space: Action space of the environment, for rewards that read actions
    :param defaults: Settings in which this reward differs from ``sb3_snd.rewards.settings.DEFAULTS``
    :param settings: ``eta``, ``learning_rate``, ``batch_size``, ``n_epochs``, ``norm_reward`` and
        ``precision``; None stands for the default
    :raises ValueError: for a value out of its range, or an observation space that cannot be read
    """

    #: what :meth:`bonus` reads: the state s_t, or the whole transition from s_t to s_{t+1}
    reads: Literal["state", "transition"] = "transition"
    #: whether :meth:`begin` and the steps are given the places of the agents, see ``sb3_snd.envs.PlaceInfo``
    reads_places: bool = False
    #: whether its memory, if any, is that of all environments together, and goes on when episodes begin
    shares_memory: bool = False
    #: steps of each environment with random actions that must be observed before a training begins
    warm_up_steps: int = 0
    #: name under which the class is registered
    registered_name: ClassVar[str]
    #: trains the nets; None if there is nothing to train
    trainer: RewardTrainer | None = None

    def __init__(
        self,
        observation_space: spaces.Space,
        obs_key: str | Sequence[str] | None = None,
        action_space: spaces.Space | None = None,
        defaults: Mapping[str, Any] = MappingProxyType({}),
        **settings: Any,
    ) -> None:
        super().__init__()
        check_argument_names(type(self), settings)
        #: the settings that the caller chose, which :meth:`load` does not change
        self.given = validate({name: value for name, value in settings.items() if value is not None}, RULES)
        #: arguments with which a second reward of this class can load this one's state_dict
        self.init_kwargs: dict[str, Any] = {**DEFAULTS, **defaults, **self.given, "obs_key": obs_key}
        self.reader = FrameReader(observation_space, obs_key)
        self.action_space = action_space
        #: running statistics of observations without bounds, such as vectors
        self.obs_stats = None if self.reader.has_bounds else RunningMeanStd(self.frame_shape)
        #: turns the bonus into the intrinsic reward
        self.scale = RewardScale()
        #: number of calls of :meth:`claim`
        self.n_claims = 0

    def set_up(self, device: th.device | str) -> None:
        """
        Move the nets to their device and create their trainer. The nets must be complete.

        :param device: PyTorch device
        :raises ValueError: if PyTorch cannot compute there
        """
        check_device(device)
        self.to(get_device(device))
        if any(parameter.requires_grad for parameter in self.parameters()):
            self.trainer = RewardTrainer(self)
        self.set_precision()
        self.use_settings()

    def use_settings(self) -> None:
        """Apply the settings in ``init_kwargs``, which may have changed."""
        settings = self.init_kwargs
        self.scale.configure(settings["eta"], settings["norm_reward"], self.device)
        if self.trainer is not None:
            self.trainer.configure(settings["learning_rate"], settings["batch_size"], settings["n_epochs"])

    def set_progress(self, progress_remaining: float) -> None:
        """
        Update ``eta`` and the learning rate from their schedules. Constants stay as they are.

        :param progress_remaining: Remaining training progress, from 1 at the beginning to 0, as in SB3's
            schedules. A value below 0, which occurs if the last rollout exceeds the training, counts as 0
        """
        remaining = max(0.0, progress_remaining)
        self.scale.set_progress(remaining)
        if self.trainer is not None:
            self.trainer.set_progress(remaining)

    def set_precision(self) -> None:
        """Apply the precision to the nets. It must be called again after they have moved to another device."""
        precision = self.init_kwargs["precision"]
        resolved = resolve_precision(precision, self.device)
        if precision != "float32" and (self.reader.is_image or precision != "auto"):
            set_precision(self, resolved)

    @property
    def device(self) -> th.device:
        """Device of the nets."""
        return self._anchor.device

    @property
    def spec(self) -> Any:
        """Value of an argument ``snd`` that makes such a reward, together with ``init_kwargs``."""
        return vars(type(self)).get("registered_name", type(self))  # a subclass does not have its parent's name

    @property
    def trains_on_actions(self) -> bool:
        """Whether the loss reads the actions of a minibatch."""
        return self.reads == "transition"

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """Shape of one prepared frame, ``(C, H, W)`` or ``(D,)``."""
        return self.reader.scaled_shape

    def select(self, obs: Any) -> th.Tensor:
        """
        Extract the newest frames and move them to the nets' device. The result can be passed wherever a method
        takes ``obs``.

        :param obs: ``(n, *obs_shape)``, or a dict of these
        :return: newest frames ``(n, *frame_shape)``: images in the environment's dtype, vectors in float32
        """
        return self.reader.newest(obs, self.device)

    def prepare(self, obs: Any) -> th.Tensor:
        """
        Prepare observations for the nets: images are scaled to [0, 1], symbols encoded one-hot, and all others
        normalised by their running statistics and clamped to ±5.

        :param obs: ``(n, *obs_shape)``
        :return: input of the nets, ``(n, *frame_shape)`` float32
        """
        frames = self.reader.scale(self.select(obs))
        return frames if self.obs_stats is None else self.obs_stats.normalize(frames, clip=VECTOR_CLIP)

    @th.no_grad()
    def observe(self, obs: Any) -> None:
        """
        Update running statistics of observations, if there are any. This is called once per step, before :meth:`bonus`.

        :param obs: ``(n, *obs_shape)``
        """
        if self.obs_stats is not None:
            self.obs_stats.update(self.reader.scale(self.select(obs)))

    def features(self, obs: Any) -> th.Tensor | None:
        """
        Compute the features in which the reward compares states, for analysis. By default there are none.

        :param obs: ``(n, *obs_shape)``
        :return: features, ``(n, features_dim)`` float32 on the nets' device, or None
        """
        return None

    def rate(self, frames: th.Tensor) -> tuple[th.Tensor, th.Tensor | None]:
        """
        Compute the bonus of states and their features at once. Only rewards that read states can do so.

        :param frames: ``(n, *frame_shape)``
        :return: results of :meth:`bonus` and :meth:`features`
        """
        return self.bonus(Step(frames)), self.features(frames)

    def claim(self) -> int:
        """
        Serve other environments from now on. What the reward keeps about environments is then theirs.

        :return: a number that ``n_claims`` keeps until the next claim
        """
        self.n_claims += 1
        return self.n_claims

    def start(self, n_envs: int) -> None:
        """
        Allocate empty memory for a number of environments. By default there is no memory.

        :param n_envs: Number of environments
        """

    def begin(self, frames: th.Tensor, which: th.Tensor, places: th.Tensor | None = None) -> None:
        """
        Empty the memory of environments that begin an episode, and insert their first states if the reward
        does so. By default there is no memory.

        :param frames: Frames of all environments, ``(n_envs, *frame_shape)``
        :param which: Environments that begin an episode, ``(n_envs,)`` bool
        :param places: Keys of the places of all agents, ``(n_envs, K)`` int64, if ``reads_places``
        """

    @abstractmethod
    def bonus(self, step: Step) -> th.Tensor:
        """
        Compute the unscaled bonus. This must change nothing.

        :param step: One step of the environments; with ``reads = "state"`` it holds only the states
        :return: bonus >= 0, ``(n,)`` float32 on the nets' device
        """

    def remember(self, step: Step) -> None:
        """
        Take a step into the memory. By default there is no memory.

        :param step: The step that :meth:`bonus` has just rated, with the true successors
        """

    def loss(self, batch: Transitions, **draws: Any) -> dict[str, th.Tensor]:
        """
        Compute the loss of a minibatch. A reward whose nets are trained must define it.

        :param batch: Prepared transitions
        :param draws: Random numbers of the loss, if they should not be drawn
        :return: scalar terms by name; ``"loss"`` is the one to minimise
        """
        raise NotImplementedError(f"{type(self).__name__} has parameters to train, but no loss.")

    def transitions(
        self, obs: Any, next_obs: Any, actions: th.Tensor | None = None, ends: th.Tensor | None = None
    ) -> Transitions:
        """
        Assemble a minibatch of given pairs.

        :param obs: s_t, ``(B, *obs_shape)``; a loss that compares pairs of other states draws them from these
        :param next_obs: s_{t+1}, ``(B, *obs_shape)``
        :param actions: ``(B, *action_shape)``
        :param ends: Whether the episode ended with the transition, ``(B,)`` bool; by default it did not
        :return: the minibatch
        """
        states = self.prepare(obs)
        n = len(states)
        next_index = th.arange(n, 2 * n, device=self.device)
        frames = th.cat([states, self.prepare(next_obs)])
        ends = th.zeros(n, dtype=th.bool, device=self.device) if ends is None else ends
        return Transitions(frames, next_index, n, states.__getitem__, actions, ends)

    def save(self, path: str | pathlib.Path) -> None:
        """
        Write nets, running statistics, optimiser and settings. The present value of a schedule is saved, not
        the schedule. The file can be loaded with ``weights_only=True``.

        :param path: File to write
        """
        save_reward(self, path)

    def load(self, path: str | pathlib.Path) -> None:
        """
        Load a file that :meth:`save` wrote, in place. A setting that was passed when this object was created
        (``eta``, ``learning_rate``, ``batch_size``, ``n_epochs``, ``norm_reward``) keeps its value; the others
        are taken from the file.

        :param path: File to read
        :raises ValueError: if the file holds another reward or other sizes, or anything but tensors, which is
            not executed
        """
        load_reward(self, path)
