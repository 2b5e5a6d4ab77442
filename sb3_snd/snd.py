"""SND: a target, the learner that distils it, and their optimiser; novelty, loss, and one pass over a rollout.

Knows observations and target models; no environment, no algorithm, no logger.
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

from sb3_snd.arguments import FLAG, LARGEST, MOST_EPOCHS, checked, not_negative, or_none, positive, scheduled, whole
from sb3_snd.faults import check_gradients, check_terms, gradient_norm
from sb3_snd.graphs import Replay, Tensors, optimizer_state, recorded_updates
from sb3_snd.hardware import PRECISION, check_device, resolve_precision
from sb3_snd.preprocessing import FrameReader, map_obs
from sb3_snd.running_stats import RunningMeanStd
from sb3_snd.targets import TARGETS, Target
from sb3_snd.torch_layers import match_layout, set_precision
from sb3_snd.type_aliases import Rollout, Transitions

VECTOR_CLIP = 5.0  # normalised vector observations are clamped to this many standard deviations
MINIBATCH = 512  # of the paper
LEAST_DIVISOR = 64  # smaller minibatches are not worth dividing a rollout into equal parts
RETURN_WINDOW = 200  # steps that the estimate remembers
#: The least standard deviation of the discounted sums, as a share of their mean. Without it the bonus would rise to its limit
#: where all states are equally novel: the sums settle, and the estimate forgets that they ever differed. In this package's
#: tasks the standard deviation is 0.2 to 1 times the mean. A novelty that never changes is then worth eta / 20.
LEAST_SPREAD = 0.2
# The variance of one sample is not defined
ARGUMENTS = {
    "eta": scheduled(not_negative(LARGEST)),
    "learning_rate": scheduled(positive(1)),
    "batch_size": or_none(whole(2)),
    "n_epochs": whole(1, MOST_EPOCHS),
    "norm_reward": FLAG,
    "precision": PRECISION,
}
#: what reading or taking over something else than tensors of ours may raise
UNREADABLE = (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, TypeError, AttributeError, ValueError)
#: defaults of the settings, but for eta, whose default is the target's
DEFAULTS = {"learning_rate": 1e-4, "batch_size": None, "n_epochs": 1, "norm_reward": False, "precision": "float32"}
#: settings that a file holds; precision depends on the machine
SAVED_SETTINGS = ("eta", "learning_rate", "batch_size", "n_epochs", "norm_reward")
GIVEN = ("self", "observation_space", "target", "device")  # arguments that snd_kwargs cannot hold
GRADIENT_NORM = "gradient_norm"  # a term that every update returns and nobody logs
SPARE_FRAMES = 16  # for the last observations of episodes in minibatches of fixed shape; one for 16 transitions, if more


class SND(nn.Module):
    """
    Self-supervised network distillation (Pecháč, Chovanec, Farkaš, arXiv 2302.11563).

    :param observation_space: What the environment gives: images (uint8 or float, channels first or last, stacked or not:
        only the newest frame is used) or anything else that SB3 knows, as a vector (normalised by a running mean and
        standard deviation, clamped to ±5); or a ``Dict`` of these
    :param target: Name in ``sb3_snd.targets.TARGETS``, or a subclass of ``Target``
    :param eta: Scale of the intrinsic reward, or a function of the remaining progress of training, from 1 to 0; by default
        the paper's for Montezuma's Revenge
    :param learning_rate: Learning rate of the one Adam for both nets, or a function of the remaining progress;
        1e-4 by default
    :param batch_size: Transitions in a minibatch, consecutive in time. Where it does not divide the rollout, the last
        minibatch is smaller; a single transition joins the minibatch before. By default the paper's 512, or the largest
        number from 64 to 512 that divides the rollout
    :param n_epochs: Passes over each rollout; one by default, as in the paper
    :param device: PyTorch device of the nets
    :param obs_key: What novelty is read from in ``Dict`` observations: the name of an entry, or names of several entries that
        are no images; by default the only image, or, where there are several or none, all other entries
    :param norm_reward: Whether to divide novelty by the running standard deviation of its discounted sum, over time in
        each environment (RND, arXiv 1810.12894, section 2.4), so that ``eta`` depends less on the task; off by default, as in
        the paper. The estimate remembers 200 steps, where RND's remembers all, since a fresh learner's novelty is some hundred
        times a trained one's; and it is 0.2 times the mean of the sums at least, see ``LEAST_SPREAD``
    :param precision: What the encoders of images compute in, see :func:`~sb3_snd.hardware.resolve_precision`; losses and
        novelty's difference are float32 always. ``"auto"`` keeps those of vectors, which are small, in float32;
        ``"float32"`` by default
    :param target_kwargs: Further arguments of the target model (``features_dim``, ``target_width``, ...)
    :raises ValueError: for an unknown target, an unknown argument, a value out of its range, or an observation space
        that no target can take
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
        #: what a second SND needs to take this one's state_dict
        self.init_kwargs = {**DEFAULTS, "eta": target_class.eta, **self.given, "obs_key": obs_key, **target_kwargs}
        self.reader = FrameReader(observation_space, obs_key)
        self.target_name = target

        self.target = target_class(self.frame_shape, **target_kwargs)
        self.learner = self.target.make_learner()
        self.obs_stats = None if self.reader.is_image else RunningMeanStd(self.frame_shape)
        #: of the discounted sums of novelty
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
        #: whether a rollout's minibatches have one shape and updates are recorded, where the device can do that
        self.fixed_shapes = False
        self._replay: Replay | None = None
        self._rates: list[th.Tensor] = []
        self._batch: Transitions | None = None
        self._memory: list[th.Tensor] = []  # what its pool reads
        self._names: list[str] = []  # of the loss terms

    def _use_settings(self) -> None:
        """``init_kwargs`` may have changed."""
        self._progress_remaining = 1.0
        #: scale of the intrinsic reward when training begins, and now
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
        Let ``eta`` and the learning rate follow their schedules. Numbers stay as they are.

        :param progress_remaining: From 1, when training begins, to 0, as SB3's schedules take it; what lies below 0, where
            the last rollout is longer than the training, counts as 0
        """
        self._progress_remaining = progress_remaining = max(0.0, progress_remaining)
        if callable(self.init_kwargs["eta"]):
            self.eta = FloatSchedule(self.init_kwargs["eta"])(progress_remaining)
        if callable(self.init_kwargs["learning_rate"]):
            self._use_learning_rate()

    def set_precision(self) -> None:
        """To be called again when the nets have moved to another device."""
        precision = self.init_kwargs["precision"]
        resolved = resolve_precision(precision, self.device)
        if precision != "float32" and (self.reader.is_image or precision != "auto"):
            set_precision(self, resolved)

    @property
    def device(self) -> th.device:
        """Device of the nets, asked for several times a step: the optimiser need not look for a parameter."""
        return self.optimizer.param_groups[0]["params"][0].device

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """``(C, H, W)`` of one frame, or ``(D,)``."""
        return self.reader.shape

    def select(self, obs: Any) -> th.Tensor:
        """
        What novelty is read from, on the nets' device. Every method here takes it in place of observations.

        :param obs: ``(n, *obs_shape)``, or a dict of these
        :return: the newest frames ``(n, *frame_shape)``: images in the environment's dtype, vectors float32
        """
        return self.reader.newest(obs, self.device)

    def _frames(self, obs: Any) -> th.Tensor:
        """
        :param obs: ``(n, *obs_shape)``
        :return: what the nets see, ``(n, *frame_shape)`` float32
        """
        frames = self.reader.scale(self.select(obs))
        if self.obs_stats is not None:
            frames = self.obs_stats.normalize(frames, clip=VECTOR_CLIP)
        return self.target.preprocess(frames)

    @th.no_grad()
    def update_statistics(self, obs: Any) -> None:
        """
        Let running statistics of observations, where there are any, see a new batch.

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
        :param obs: ``(n, *obs_shape)``
        :return: the target's features, ``(n, features_dim)`` float32 on the nets' device
        """
        return self.target(self._frames(obs))

    @th.no_grad()
    def novelty(self, obs: Any) -> th.Tensor:
        """
        Distillation error (arXiv 2302.11563, eq. 2). On an accelerator the call returns before the result is there.

        :param obs: ``(n, *obs_shape)``
        :return: ``(n,)`` float32 on the nets' device
        """
        frames = self._frames(obs)
        return self.target.novelty(self.learner(frames), self.target(frames))

    def normalize(self, novelty: th.Tensor) -> th.Tensor:
        """
        :param novelty: ``(n,)``
        :return: with ``norm_reward`` novelty divided by the standard deviation of its discounted sums, or by 0.2 times their
            mean where that is more, ``(n,)``; without, the same
        """
        if self.return_stats is None:
            return novelty
        spread = th.maximum(self.return_stats.var.sqrt(), LEAST_SPREAD * self.return_stats.mean)
        return novelty / spread.clamp(min=1e-12).to(novelty.dtype)

    def scale(self, novelty: th.Tensor) -> th.Tensor:
        """
        :param novelty: ``(n,)``
        :return: intrinsic reward clip(eta · novelty, 0, 1), ``(n,)``, of novelty as :meth:`normalize` gives it
        """
        return self.clip(self.normalize(novelty))

    def clip(self, novelty: th.Tensor) -> th.Tensor:
        """
        :param novelty: As :meth:`normalize` gives it, ``(n,)``
        :return: intrinsic reward clip(eta · novelty, 0, 1), ``(n,)``
        """
        return (self.eta * novelty).clamp_(0.0, 1.0)

    def intrinsic_reward(self, obs: Any) -> th.Tensor:
        """
        :param obs: ``(n, *obs_shape)``
        :return: clip(eta · novelty, 0, 1), ``(n,)`` float32 on the nets' device
        """
        return self.scale(self.novelty(obs))

    def loss(self, obs: Any, next_obs: Any, **draws: Any) -> dict[str, th.Tensor]:
        """
        :param obs: s_t, ``(B, *obs_shape)``; pairs of other states, where a target needs them, are drawn from these
        :param next_obs: s_{t+1}, ``(B, *obs_shape)``
        :param draws: Random numbers of the target's loss, given instead of drawn
        :return: named scalar terms; ``"loss"`` is what is minimised
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
        :param size: Transitions in a rollout
        :return: transitions in each of its minibatches but the last
        :raises ValueError: if there is one transition only
        """
        check_rollout(size)
        largest = min(MINIBATCH, size)
        divisors = (n for n in range(largest, min(LEAST_DIVISOR, largest) - 1, -1) if size % n == 0)
        return self.batch_size or next(divisors, largest)

    def _bounds(self, size: int) -> np.ndarray:
        """
        :param size: Transitions in a rollout
        :return: where its minibatches begin, and ``size``, ``(n_minibatches + 1,)``
        """
        starts = np.arange(0, size, self.minibatch_size(size))
        if size - starts[-1] == 1:  # the variance of one transition is not defined
            starts = starts[:-1]
        return np.append(starts, size)

    def minibatches(self, rollout: Rollout) -> Iterator[Transitions]:
        """
        Consecutive transitions in time order. The states of one step are the successors of the step before, so ``B``
        transitions of ``N`` environments hold ``B + N`` frames and one more for each episode that ended among them.

        :param rollout: ``T`` steps of ``N`` environments
        :return: ``T * N / batch_size`` minibatches, rounded up
        :raises ValueError: if the rollout has one transition only
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
        minibatch = np.searchsorted(bounds, ends, side="right") - 1  # of each end
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
            if self.fixed_shapes:  # the rest is nobody's successor
                spare = max(SPARE_FRAMES, (stop - start) // 16) - len(parts[-1])
                parts.append(last_frames[:1].expand(max(0, spare), *last_frames.shape[1:]))
            frames = self._frames(th.cat([part for part in parts if len(part) > 0]))
            yield Transitions(frames, next_indices[start:stop], size, pool)

    def train_on_rollout(self, rollout: Rollout) -> dict[str, float]:
        """
        ``n_epochs`` passes of both nets over a rollout.

        :param rollout: ``T`` steps of ``N`` environments
        :return: means over the minibatches of each loss term, and of the norm of the target's features
        :raises ValueError: if the rollout has one transition only
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
        One update of both nets, for algorithms that keep no rollout.

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
            total = total + terms  # no reading of the device here
            n_batches += 1
        self._batch, self._memory = None, []
        self.optimizer.zero_grad()  # their room is needed elsewhere
        means = dict(zip(self._names, (total / n_batches).tolist(), strict=True))
        check_terms(means, "SND", poisoned=True)
        del means[GRADIENT_NORM]
        return means

    def _update(self, frames: th.Tensor, next_index: th.Tensor) -> Tensors:
        """:return: all terms of a minibatch's loss and the norm of its gradient, ``(n_terms + 1,)``, after the step"""
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
        Write nets, running statistics, optimiser and settings, of schedules the present value; the file loads with
        ``weights_only=True``.

        :param path: File to write
        """
        rate = self.optimizer.param_groups[0]["lr"]
        settings = {name: self.init_kwargs[name] for name in SAVED_SETTINGS} | {"eta": self.eta, "learning_rate": rate}
        th.save({"snd": self.state_dict(), "optimizer": self.optimizer.state_dict(), "settings": settings}, path)

    def load(self, path: str | pathlib.Path) -> None:
        """
        Take over what :meth:`save` wrote, in place. A setting (``eta``, ``learning_rate``, ``batch_size``, ``n_epochs``,
        ``norm_reward``) is what this object was given when it was made, else what was saved.

        :param path: File to read
        :raises ValueError: if the file holds another target or other sizes, or anything but tensors, which is not run
        """
        try:
            saved = th.load(path, map_location=self.device, weights_only=True)
        except UNREADABLE as error:
            raise ValueError(f"{path} is no file of tensors that SND.save wrote, so it is not read any further.") from error
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
        :param observation_space: What an environment gives
        :raises ValueError: if these nets were made for other frames
        """
        reader = FrameReader(observation_space, self.reader.obs_key)
        made_for, given = self.reader.describe(), reader.describe()
        if made_for != given:
            raise ValueError(
                f"This SND was made for {made_for}, the environment gives {given}:"
                " make it from the environment's observation_space."
            )


def _leaves(observations: Any) -> list[Any]:
    """:return: the arrays or tensors of observations, which may be a dict of them"""
    return list(observations.values()) if isinstance(observations, dict) else [observations]


def _match_return_stats(snd: SND, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Statistics of novelty's sums are read where there is a use for them, and begin anew where none were saved."""
    own = {} if snd.return_stats is None else snd.return_stats.state_dict(prefix=f"{prefix}return_stats.")
    for name in [name for name in state_dict if name.startswith(f"{prefix}return_stats.") and name not in own]:
        del state_dict[name]
    state_dict.update({name: value for name, value in own.items() if name not in state_dict})


def find_target(target: str | type[Target], target_kwargs: dict[str, Any]) -> type[Target]:
    """
    :param target: Name in the registry, or a class
    :param target_kwargs: Arguments meant for it
    :return: the class
    :raises ValueError: if the name is unknown, or the class does not take the arguments
    """
    if isinstance(target, str):
        if target not in TARGETS:
            raise ValueError(f"Unknown target {target!r}: the known ones are {', '.join(map(repr, TARGETS))}.")
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
    :param size: Transitions in a rollout, ``n_steps * n_envs``
    :raises ValueError: if there is one only, since the variance of one state is not defined
    """
    if size < 2:
        raise ValueError("SND cannot train on a rollout of one transition (n_steps * n_envs): raise n_steps or n_envs.")


def check_snd_kwargs(snd_kwargs: Any) -> dict[str, Any]:
    """
    :param snd_kwargs: What an argument ``snd_kwargs`` was given; None: nothing
    :return: arguments of ``SND`` by name
    :raises ValueError: if it is something else
    """
    names = snd_kwargs if isinstance(snd_kwargs, dict) else [None]
    if snd_kwargs is not None and not all(isinstance(name, str) and name not in GIVEN for name in names):
        raise ValueError(
            f"snd_kwargs={snd_kwargs!r} must be a dict of SND's arguments by name, without {', '.join(GIVEN)}, or be None."
        )
    return dict(snd_kwargs or {})
