"""The ``SND`` module: target, learner and optimiser, with novelty, the loss and training on a rollout.

Knows observations and target models, but no environment, algorithm or logger.
"""

import inspect
import itertools
import pathlib
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import FloatSchedule, get_device, update_learning_rate
from torch import nn

from sb3_snd.common.check_nan import check_gradients, check_terms, gradient_norm
from sb3_snd.common.cuda_graphs import Replay, Tensors, optimizer_state, recorded_updates
from sb3_snd.common.precision import PRECISION, match_layout, resolve_precision, set_precision
from sb3_snd.common.preprocessing import FrameReader, map_obs
from sb3_snd.common.running_stats import RunningMeanStd
from sb3_snd.common.type_aliases import Transitions
from sb3_snd.common.validation import (
    FLAG,
    LARGEST,
    MOST_EPOCHS,
    check_device,
    checked,
    not_negative,
    or_none,
    positive,
    scheduled,
    whole,
)
from sb3_snd.rewards.rollout import Rollout
from sb3_snd.targets import TARGETS, Target

VECTOR_CLIP = 5.0  # normalised vector observations are clamped to this many standard deviations
MINIBATCH = 512  # minibatch size in the paper
LEAST_DIVISOR = 64  # smallest minibatch size that is tried to divide a rollout into equal parts
RETURN_WINDOW = 200  # number of steps that the return statistics remember
#: Lower bound on the standard deviation of the discounted sums, as a share of their mean. Without it the bonus
#: would rise to its limit if all states were equally novel: the sums would settle, and the estimate would
#: forget that they ever differed. In this package's tasks the standard deviation is 0.2 to 1 times the mean.
#: With the bound, novelty that never changes gives a reward of eta / 20.
LEAST_SPREAD = 0.2
ARGUMENTS = {
    "eta": scheduled(not_negative(LARGEST)),
    "learning_rate": scheduled(positive(1)),
    "batch_size": or_none(whole(2)),  # the variance of a single sample is undefined
    "n_epochs": whole(1, MOST_EPOCHS),
    "norm_reward": FLAG,
    "precision": PRECISION,
}
#: errors that may occur if a file does not hold the tensors that :meth:`SND.save` writes
UNREADABLE = (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, TypeError, AttributeError, ValueError)
#: defaults of the settings, except eta, whose default depends on the target
DEFAULTS = {"learning_rate": 1e-4, "batch_size": None, "n_epochs": 1, "norm_reward": False, "precision": "float32"}
#: settings that are saved in a file; precision is not, since it depends on the machine
SAVED_SETTINGS = ("eta", "learning_rate", "batch_size", "n_epochs", "norm_reward")
GIVEN = ("self", "observation_space", "target", "device")  # arguments that snd_kwargs cannot hold
GRADIENT_NORM = "gradient_norm"  # a term that every update returns, but that is not logged
# Extra rows for terminal frames in fixed-shape minibatches: max(SPARE_FRAMES, batch_size // 16)
SPARE_FRAMES = 16


class SND(nn.Module):
    """
    Self-supervised network distillation (Pecháč, Chovanec, Farkaš, arXiv 2302.11563).

    :param observation_space: Observation space of the environment. Images are uint8 or float, channels first or
        last, stacked or not; only the newest frame is used. Any other space that SB3 supports is read as a
        vector, normalised by a running mean and standard deviation and clamped to ±5. A ``Dict`` of such spaces
        is allowed
    :param target: Name in ``sb3_snd.targets.TARGETS``, or a subclass of ``Target``
    :param eta: Scale of the intrinsic reward, or a function of the remaining training progress, which falls
        from 1 to 0; by default the paper's value for Montezuma's Revenge
    :param learning_rate: Learning rate of the single Adam optimiser for both nets, or a function of the
        remaining progress; 1e-4 by default
    :param batch_size: Transitions per minibatch, consecutive in time. If it does not divide the rollout, the
        last minibatch is smaller, and a single remaining transition joins the minibatch before it. The default
        is the largest number from 64 to 512 that divides the rollout, or the paper's 512 if there is none
    :param n_epochs: Number of passes over each rollout; one by default, as in the paper
    :param device: PyTorch device of the nets
    :param obs_key: Entries of ``Dict`` observations from which novelty is computed: the name of one entry, or
        the names of several entries that are not images. By default it is the only image, or all other entries
        if there are no images or several
    :param norm_reward: Whether to divide novelty by the running standard deviation of its discounted sum over
        time in each environment (RND, arXiv 1810.12894, section 2.4), so that ``eta`` depends less on the task;
        off by default, as in the paper. The estimate forgets after about 200 steps (RND's never does), because
        a fresh learner's novelty is about a hundred times a trained one's. It is at least 0.2 times the mean of
        the sums, see ``LEAST_SPREAD``
    :param precision: Number format in which the encoders of images compute, see
        :func:`~sb3_snd.common.precision.resolve_precision`; ``"float32"`` by default. Losses and the difference that
        gives novelty are always float32. ``"auto"`` keeps the encoders of vectors, which are small, in float32
    :param target_kwargs: Further arguments of the target model (``features_dim``, ``target_width``, ...)
    :raises ValueError: for an unknown target, an unknown argument, a value out of its range, or an observation
        space that no target supports
    """

    optimizer: th.optim.Adam

    def __init__(
        self,
        observation_space: spaces.Space,
        target: str | type[Target] = "vic",
        eta: float | Schedule | None = None,
        learning_rate: float | Schedule | None = None,
        batch_size: int | None = None,
        n_epochs: int | None = None,
        device: th.device | str = "auto",
        obs_key: str | Sequence[str] | None = None,
        norm_reward: bool | None = None,
        precision: str | None = None,
        **target_kwargs: Any,
    ) -> None:
        super().__init__()
        target_class = find_target(target, target_kwargs)
        target_kwargs = checked(target_kwargs, {})
        check_device(device)
        asked = dict(
            eta=eta,
            learning_rate=learning_rate,
            batch_size=batch_size,
            n_epochs=n_epochs,
            norm_reward=norm_reward,
            precision=precision,
        )
        #: the settings that the caller chose, which :meth:`load` does not change
        self.given = checked({name: value for name, value in asked.items() if value is not None}, ARGUMENTS)
        #: arguments with which a second SND can load this one's state_dict
        self.init_kwargs = {**DEFAULTS, "eta": target_class.eta, **self.given, "obs_key": obs_key, **target_kwargs}
        self.reader = FrameReader(observation_space, obs_key)
        self.target_name = target

        self.target = target_class(self.frame_shape, **target_kwargs)
        self.learner = self.target.make_learner()
        self.obs_stats = None if self.reader.is_image else RunningMeanStd(self.frame_shape)
        #: statistics of the discounted sums of novelty
        self.return_stats: RunningMeanStd | None = None
        self.register_load_state_dict_pre_hook(_match_return_stats)
        self.to(get_device(device))
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        rate = FloatSchedule(self.init_kwargs["learning_rate"])(1.0)
        self.optimizer = th.optim.Adam(trained, lr=rate, fused=True)
        self.optimizer.register_load_state_dict_post_hook(match_layout)
        self.set_precision()
        self._use_settings()
        self.optimizer.register_load_state_dict_post_hook(lambda _: self._use_learning_rate())
        #: whether all minibatches have the same shape and updates are recorded, if the device supports that
        self.fixed_shapes = False
        self._replay: Replay | None = None
        self._rates: list[th.Tensor] = []
        self._batch: Transitions | None = None
        self._memory: list[th.Tensor] = []  # tensors that the pool reads
        self._names: list[str] = []  # names of the loss terms

    def _use_settings(self) -> None:
        """Apply ``init_kwargs``, which may have changed."""
        self._progress_remaining = 1.0
        #: scale of the intrinsic reward at the beginning of training, and at present
        self.first_eta = self.eta = FloatSchedule(self.init_kwargs["eta"])(1.0)
        self.batch_size, self.n_epochs = self.init_kwargs["batch_size"], self.init_kwargs["n_epochs"]
        if not self.init_kwargs["norm_reward"]:
            self.return_stats = None
        elif self.return_stats is None:
            self.return_stats = RunningMeanStd((), 0.0, True, RETURN_WINDOW).to(self.device)
        self._use_learning_rate()

    def _use_learning_rate(self) -> None:
        update_learning_rate(self.optimizer, FloatSchedule(self.init_kwargs["learning_rate"])(self._progress_remaining))

    def set_progress(self, progress_remaining: float) -> None:
        """
        Update ``eta`` and the learning rate from their schedules. Constants stay as they are.

        :param progress_remaining: Remaining training progress, from 1 at the beginning to 0, as in SB3's
            schedules. A value below 0, which occurs if the last rollout exceeds the training, counts as 0
        """
        self._progress_remaining = progress_remaining = max(0.0, progress_remaining)
        if callable(self.init_kwargs["eta"]):
            self.eta = FloatSchedule(self.init_kwargs["eta"])(progress_remaining)
        if callable(self.init_kwargs["learning_rate"]):
            self._use_learning_rate()

    def set_precision(self) -> None:
        """Apply the precision to the nets. It must be called again after they have moved to another device."""
        precision = self.init_kwargs["precision"]
        resolved = resolve_precision(precision, self.device)
        if precision != "float32" and (self.reader.is_image or precision != "auto"):
            set_precision(self, resolved)

    @property
    def device(self) -> th.device:
        """
        Device of the nets. The optimiser gives it without a search for a parameter, since it is read several
        times per step.
        """
        return self.optimizer.param_groups[0]["params"][0].device

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """Shape of one frame, ``(C, H, W)`` or ``(D,)``."""
        return self.reader.shape

    def select(self, obs: Any) -> th.Tensor:
        """
        Extract the newest frames and move them to the nets' device. Every method that takes ``obs`` accepts the
        result.

        :param obs: ``(n, *obs_shape)``, or a dict of these
        :return: newest frames ``(n, *frame_shape)``: images in the environment's dtype, vectors in float32
        """
        return self.reader.newest(obs, self.device)

    def _frames(self, obs: Any) -> th.Tensor:
        """
        Prepare observations for the nets.

        :param obs: ``(n, *obs_shape)``
        :return: input of the nets, ``(n, *frame_shape)`` float32
        """
        frames = self.reader.scale(self.select(obs))
        if self.obs_stats is not None:
            frames = self.obs_stats.normalize(frames, clip=VECTOR_CLIP)
        return self.target.preprocess(frames)

    @th.no_grad()
    def update_statistics(self, obs: Any) -> None:
        """
        Update the running statistics of observations, if there are any, with a new batch.

        :param obs: ``(n, *obs_shape)``
        """
        if self.obs_stats is None and not self.target.keeps_statistics:
            return
        frames = self.reader.scale(self.select(obs))
        if self.obs_stats is not None:
            self.obs_stats.update(frames)
        if self.target.keeps_statistics:
            if self.obs_stats is not None:
                frames = self.obs_stats.normalize(frames, clip=VECTOR_CLIP)
            self.target.update_statistics(frames)

    @th.no_grad()
    def features(self, obs: Any) -> th.Tensor:
        """
        Compute the target's features.

        :param obs: ``(n, *obs_shape)``
        :return: features, ``(n, features_dim)`` float32 on the nets' device
        """
        return self.target(self._frames(obs))

    @th.no_grad()
    def novelty(self, obs: Any) -> th.Tensor:
        """
        Compute the distillation error (arXiv 2302.11563, eq. 2). On an accelerator the call returns before the
        result is ready.

        :param obs: ``(n, *obs_shape)``
        :return: novelty, ``(n,)`` float32 on the nets' device
        """
        frames = self._frames(obs)
        return self.target.novelty(self.learner(frames), self.target(frames))

    def normalize(self, novelty: th.Tensor) -> th.Tensor:
        """
        Divide novelty by the standard deviation of its discounted sums, or by 0.2 times their mean if that is
        more. Without ``norm_reward``, return it unchanged.

        :param novelty: ``(n,)``
        :return: normalised novelty, ``(n,)``
        """
        if self.return_stats is None:
            return novelty
        spread = th.maximum(self.return_stats.var.sqrt(), LEAST_SPREAD * self.return_stats.mean)
        return novelty / spread.clamp(min=1e-12).to(novelty.dtype)

    def scale(self, novelty: th.Tensor) -> th.Tensor:
        """
        Compute the intrinsic reward from novelty that is not normalised yet.

        :param novelty: ``(n,)``
        :return: clip(eta · normalised novelty, 0, 1), ``(n,)``; see :meth:`normalize`
        """
        return self.clip(self.normalize(novelty))

    def clip(self, novelty: th.Tensor) -> th.Tensor:
        """
        Compute the intrinsic reward from normalised novelty.

        :param novelty: Novelty as :meth:`normalize` returns it, ``(n,)``
        :return: clip(eta · novelty, 0, 1), ``(n,)``
        """
        return (self.eta * novelty).clamp_(0.0, 1.0)

    def intrinsic_reward(self, obs: Any) -> th.Tensor:
        """
        Compute the intrinsic reward of observations.

        :param obs: ``(n, *obs_shape)``
        :return: clip(eta · novelty, 0, 1), ``(n,)`` float32 on the nets' device
        """
        return self.scale(self.novelty(obs))

    def loss(self, obs: Any, next_obs: Any, **draws: Any) -> dict[str, th.Tensor]:
        """
        Compute the loss of a minibatch.

        :param obs: s_t, ``(B, *obs_shape)``; a target that compares pairs of other states draws them from these
        :param next_obs: s_{t+1}, ``(B, *obs_shape)``
        :param draws: Random numbers of the target's loss, if they should not be drawn
        :return: scalar terms by name; ``"loss"`` is the one to minimise
        """
        return self._terms(self._pairs(obs, next_obs), **draws)

    def _pairs(self, obs: Any, next_obs: Any) -> Transitions:
        states = self._frames(obs)
        n = len(states)
        next_index = th.arange(n, 2 * n, device=self.device)
        return Transitions(th.cat([states, self._frames(next_obs)]), next_index, n, states.__getitem__)

    def _terms(self, batch: Transitions, **draws: Any) -> dict[str, th.Tensor]:
        terms = self.target.loss(batch, self.learner, **draws)
        terms["feature_norm"] = terms.pop("features").norm(dim=1).mean()
        return terms

    def minibatch_size(self, size: int) -> int:
        """
        Choose the size of a rollout's minibatches.

        :param size: Transitions in a rollout
        :return: number of transitions in each of its minibatches except the last
        :raises ValueError: if the rollout has only one transition
        """
        check_rollout(size)
        largest = min(MINIBATCH, size)
        divisors = (n for n in range(largest, min(LEAST_DIVISOR, largest) - 1, -1) if size % n == 0)
        return self.batch_size or next(divisors, largest)

    def _bounds(self, size: int) -> np.ndarray:
        """
        Divide a rollout into minibatches.

        :param size: Transitions in a rollout
        :return: index at which each minibatch begins, followed by ``size``, ``(n_minibatches + 1,)``
        """
        starts = np.arange(0, size, self.minibatch_size(size))
        if size - starts[-1] == 1:  # the variance of a single transition is undefined
            starts = starts[:-1]
        return np.append(starts, size)

    def minibatches(self, rollout: Rollout) -> Iterator[Transitions]:
        """
        Iterate over consecutive transitions in time order. The states of one step are the successors of the
        step before, so ``B`` transitions of ``N`` environments need only ``B + N`` frames, plus one for each
        episode that ended among them.

        :param rollout: ``T`` steps of ``N`` environments
        :return: ``T * N / batch_size`` minibatches, rounded up
        :raises ValueError: if the rollout has only one transition
        """
        observations = self.reader.entry(rollout.observations)
        n_steps, n_envs = next(iter(_leaves(observations))).shape[:2]
        size = n_steps * n_envs
        flat = map_obs(lambda entry: entry.reshape(size, *entry.shape[2:]), observations)  # row t * N + n
        last_frames = self.select(rollout.last_observation)
        ends = np.array(sorted(rollout.terminal_observations), dtype=np.int64)
        bounds = self._bounds(size)
        sizes = np.diff(bounds)
        first_ends = np.searchsorted(ends, bounds)  # (n_minibatches + 1,)
        minibatch = np.searchsorted(bounds, ends, side="right") - 1  # in which each episode ends
        next_index = np.arange(size) - np.repeat(bounds[:-1], sizes) + n_envs
        next_index[ends] = sizes[minibatch] + n_envs + np.arange(len(ends)) - first_ends[minibatch]
        next_indices = th.as_tensor(next_index, device=self.device)
        terminal_frames = last_frames[:0]
        if len(ends) > 0:
            entries = [self.reader.entry(rollout.terminal_observations[row]) for row in ends]
            terminal_frames = self.select(map_obs(lambda *each: th.stack([*map(th.as_tensor, each)]), *entries))

        def take(entry: Any, rows: th.Tensor) -> Any:
            return entry[rows.cpu().numpy()] if isinstance(entry, np.ndarray) else entry[rows.to(entry.device)]

        def pool(rows: th.Tensor) -> th.Tensor:
            return self._frames(map_obs(lambda entry: take(entry, rows), flat))

        for index, (start, stop) in enumerate(itertools.pairwise(bounds.tolist())):
            parts = [self.select(map_obs(lambda entry, a=start, b=stop: entry[a : b + n_envs], flat))]
            parts.append(last_frames[: max(0, stop + n_envs - size)])
            parts.append(terminal_frames[first_ends[index] : first_ends[index + 1]])
            if self.fixed_shapes:  # pad with frames that no transition uses
                spare = max(SPARE_FRAMES, (stop - start) // 16) - len(parts[-1])
                parts.append(last_frames[:1].expand(max(0, spare), *last_frames.shape[1:]))
            frames = self._frames(th.cat([part for part in parts if len(part) > 0]))
            yield Transitions(frames, next_indices[start:stop], size, pool)

    def train_on_rollout(self, rollout: Rollout) -> dict[str, float]:
        """
        Train both nets with ``n_epochs`` passes over a rollout.

        :param rollout: ``T`` steps of ``N`` environments
        :return: mean over the minibatches of each loss term, and of the norm of the target's features
        :raises ValueError: if the rollout has only one transition
        """
        leaves = _leaves(self.reader.entry(rollout.observations))
        self._memory = [entry for entry in leaves if isinstance(entry, th.Tensor)]
        batches = itertools.chain.from_iterable(self.minibatches(rollout) for _ in range(self.n_epochs))
        if not self.fixed_shapes:
            return self._train(batches, self._update)
        if self._replay is None:
            self._rates = [th.zeros((), device=self.device) for _ in self.optimizer.param_groups]
            self._replay = Replay(self._update, self._state)
        with recorded_updates(self._replay, self.optimizer, self._rates) as update:
            return self._train(batches, update)

    def train_on_pairs(self, obs: Any, next_obs: Any) -> dict[str, float]:
        """
        Train both nets with one update, for algorithms that keep no rollout.

        :param obs: s_t, ``(B, *obs_shape)``
        :param next_obs: s_{t+1}, ``(B, *obs_shape)``
        :return: each loss term, and the mean norm of the target's features
        """
        return self._train([self._pairs(obs, next_obs)], self._update)

    def _train(self, batches: Iterable[Transitions], update: Callable[..., Tensors]) -> dict[str, float]:
        total, n_batches = th.zeros((), device=self.device), 0
        for batch in batches:
            self._batch = batch
            (terms,) = update(batch.frames, batch.next_index)
            total = total + terms  # stays on the device, so that the host need not wait
            n_batches += 1
        self._batch, self._memory = None, []
        self.optimizer.zero_grad()  # frees their memory for other uses
        means = dict(zip(self._names, (total / n_batches).tolist(), strict=True))
        check_terms(means, "SND", poisoned=True)
        del means[GRADIENT_NORM]
        return means

    def _update(self, frames: th.Tensor, next_index: th.Tensor) -> Tensors:
        """
        Train both nets on one minibatch.

        :return: all terms of the loss and the norm of its gradient, ``(n_terms + 1,)``
        """
        assert self._batch is not None
        terms = self._terms(self._batch._replace(frames=frames, next_index=next_index))
        self.optimizer.zero_grad()
        terms["loss"].backward()
        terms = {name: term.detach() for name, term in terms.items()}
        norm = gradient_norm(self)
        check_gradients(self, "SND", terms, norm)
        self.optimizer.step()
        self._names = [*terms, GRADIENT_NORM]
        return (th.stack([*terms.values(), norm]),)

    def _state(self) -> Iterator[Any]:
        yield from self._memory
        yield from self.parameters()
        yield from self.buffers()
        yield from optimizer_state(self.optimizer)

    def save(self, path: str | pathlib.Path) -> None:
        """
        Write nets, running statistics, optimiser and settings. The present value of a schedule is saved, not
        the schedule. The file can be loaded with ``weights_only=True``.

        :param path: File to write
        """
        rate = self.optimizer.param_groups[0]["lr"]
        settings = {name: self.init_kwargs[name] for name in SAVED_SETTINGS} | {"eta": self.eta, "learning_rate": rate}
        th.save({"snd": self.state_dict(), "optimizer": self.optimizer.state_dict(), "settings": settings}, path)

    def load(self, path: str | pathlib.Path) -> None:
        """
        Load a file that :meth:`save` wrote, in place. A setting that was passed when this object was created
        (``eta``, ``learning_rate``, ``batch_size``, ``n_epochs``, ``norm_reward``) keeps its value; the others
        are taken from the file.

        :param path: File to read
        :raises ValueError: if the file holds another target or other sizes, or anything but tensors, which is
            not executed
        """
        try:
            saved = th.load(path, map_location=self.device, weights_only=True)
        except UNREADABLE as error:
            raise ValueError(f"{path} is not a file of tensors that SND.save wrote, so nothing was loaded.") from error
        before = self.init_kwargs
        try:
            settings = {name: saved.get("settings", {})[name] for name in SAVED_SETTINGS if name in saved.get("settings", {})}
            self.init_kwargs = {**before, **checked(settings, ARGUMENTS), **self.given}
            self._use_settings()
            self.load_state_dict(saved["snd"])
            self.optimizer.load_state_dict(saved["optimizer"])
        except UNREADABLE as error:
            self.init_kwargs = before
            self._use_settings()
            raise ValueError(f"{path} does not hold an SND with target {self.target_name!r} of these sizes.") from error

    def check_space(self, observation_space: spaces.Space) -> None:
        """
        Check that the nets fit an environment.

        :param observation_space: Observation space of the environment
        :raises ValueError: if these nets were made for other frames
        """
        reader = FrameReader(observation_space, self.reader.obs_key)
        made_for, given = self.reader.describe(), reader.describe()
        if made_for != given:
            raise ValueError(
                f"This SND was made for {made_for}, but the environment gives {given}:"
                " create it with the environment's observation_space."
            )


def _leaves(observations: Any) -> list[Any]:
    """Return the arrays or tensors of observations, which may be a dict of them."""
    return list(observations.values()) if isinstance(observations, dict) else [observations]


def _match_return_stats(snd: SND, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Drop saved statistics of novelty's sums if they are not used, and keep the present ones if none were saved."""
    own = {} if snd.return_stats is None else snd.return_stats.state_dict(prefix=f"{prefix}return_stats.")
    for name in [name for name in state_dict if name.startswith(f"{prefix}return_stats.") and name not in own]:
        del state_dict[name]
    state_dict.update({name: value for name, value in own.items() if name not in state_dict})


def find_target(target: str | type[Target], target_kwargs: dict[str, Any]) -> type[Target]:
    """
    Look up a target class and check its arguments.

    :param target: Name in the registry, or a class
    :param target_kwargs: Arguments for the class
    :return: the class
    :raises ValueError: if the name is unknown, or the class does not take the arguments
    """
    if isinstance(target, str):
        if target not in TARGETS:
            raise ValueError(f"Unknown target {target!r}: choose one of {', '.join(map(repr, TARGETS))}.")
        target = TARGETS[target]
    if not (isinstance(target, type) and issubclass(target, Target)):
        raise ValueError(f"target={target!r} must be a name ({', '.join(map(repr, TARGETS))}) or a subclass of Target.")
    known = list(inspect.signature(target).parameters)[1:]
    unknown = sorted(set(target_kwargs) - set(known))
    if unknown:
        raise ValueError(
            f"Unknown SND argument {unknown[0]!r}: {target.__name__} takes"
            f" {', '.join(['eta', 'learning_rate', 'batch_size', 'n_epochs', 'obs_key', 'norm_reward', 'precision', *known])}."
        )
    return target


def check_rollout(size: int) -> None:
    """
    Check that a rollout is large enough to train SND.

    :param size: Transitions in a rollout, ``n_steps * n_envs``
    :raises ValueError: if there is only one, since the variance of a single state is undefined
    """
    if size < 2:
        raise ValueError("SND cannot train on a rollout of one transition (n_steps * n_envs): raise n_steps or n_envs.")


def check_snd_kwargs(snd_kwargs: Any) -> dict[str, Any]:
    """
    Check the type and the names of ``snd_kwargs``.

    :param snd_kwargs: Value of an argument ``snd_kwargs``; None means no arguments
    :return: arguments of ``SND`` by name
    :raises ValueError: if it is neither None nor a dict of such arguments
    """
    names = snd_kwargs if isinstance(snd_kwargs, dict) else [None]
    if snd_kwargs is not None and not all(isinstance(name, str) and name not in GIVEN for name in names):
        raise ValueError(
            f"snd_kwargs={snd_kwargs!r} must be a dict of SND's arguments by name, without {', '.join(GIVEN)}, or None."
        )
    return dict(snd_kwargs or {})
