"""SND: a target, the learner that distils it, and their optimiser; novelty, loss, and one pass over a rollout.

Knows observations and target models; no environment, no algorithm, no logger.
"""

import inspect
import itertools
import pathlib
import pickle
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.utils import get_device
from torch import nn

from sb3_snd.arguments import FLAG, LARGEST, MOST_EPOCHS, checked, not_negative, or_none, positive, whole
from sb3_snd.faults import check_gradients, check_terms
from sb3_snd.graphs import Replay, Tensors, optimizer_state, recorded_updates
from sb3_snd.hardware import PRECISION, check_device, resolve_precision
from sb3_snd.preprocessing import FrameReader
from sb3_snd.running_stats import RunningMeanStd
from sb3_snd.targets import TARGETS, Target
from sb3_snd.torch_layers import match_layout, set_precision
from sb3_snd.type_aliases import Rollout, Transitions

VECTOR_CLIP = 5.0  # normalised vector observations are clamped to this many standard deviations
MINIBATCH = 512  # of the paper
RETURN_WINDOW = 200  # steps that the estimate remembers
# The variance of one sample is not defined
ARGUMENTS = {
    "eta": not_negative(LARGEST),
    "learning_rate": positive(1),
    "batch_size": or_none(whole(2)),
    "n_epochs": whole(1, MOST_EPOCHS),
    "norm_reward": FLAG,
    "precision": PRECISION,
}
#: what reading or taking over something else than tensors of ours may raise
UNREADABLE = (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, TypeError, AttributeError, ValueError)
GIVEN = ("self", "observation_space", "target", "device")  # arguments that snd_kwargs cannot hold
SPARE_FRAMES = 16  # for the last observations of episodes in minibatches of fixed shape; one for 16 transitions, if more


class SND(nn.Module):
    """
    Self-supervised network distillation (Pecháč, Chovanec, Farkaš, arXiv 2302.11563).

    :param observation_space: What the environment gives: images (uint8 or float, channels first or last, stacked or not:
        only the newest frame is used) or anything else that SB3 knows, as a vector (normalised by a running mean and
        standard deviation, clamped to ±5); or a ``Dict`` of these
    :param target: Name in ``sb3_snd.targets.TARGETS``, or a subclass of ``Target``
    :param eta: Scale of the intrinsic reward; by default the paper's for Montezuma's Revenge
    :param learning_rate: Of the one Adam for both nets
    :param batch_size: Transitions in a minibatch, consecutive in time; it must divide the rollout. None: the paper's 512,
        or the largest number below that divides the rollout
    :param n_epochs: Passes over each rollout, one in the paper
    :param device: PyTorch device of the nets
    :param obs_key: The entry of ``Dict`` observations whose novelty counts
    :param norm_reward: Whether to divide novelty by the running standard deviation of its discounted sum, over time in
        each environment (RND, arXiv 1810.12894, section 2.4), so that ``eta`` depends less on the task; with a memory of 200
        steps, where RND's is endless, as a fresh learner's novelty is some hundred times a trained one's. Not in the paper
    :param precision: What the encoders of images compute in, see :func:`~sb3_snd.hardware.resolve_precision`; losses and
        novelty's difference are float32 always. ``"auto"`` keeps those of vectors, which are small, in float32
    :param target_kwargs: Further arguments of the target model (``features_dim``, ``target_width``, ...)
    :raises ValueError: for an unknown target, an unknown argument, a value out of its range, or an observation space
        that no target can take
    """

    optimizer: th.optim.Adam

    def __init__(
        self,
        observation_space: spaces.Space,
        target: str | type[Target] = "vic",
        eta: float | None = None,
        learning_rate: float = 1e-4,
        batch_size: int | None = None,
        n_epochs: int = 1,
        device: th.device | str = "auto",
        obs_key: str | None = None,
        norm_reward: bool = False,
        precision: str = "float32",
        **target_kwargs: Any,
    ) -> None:
        super().__init__()
        target_class = find_target(target, target_kwargs)
        check_device(device)
        #: what a second SND needs to take this one's state_dict
        self.init_kwargs = checked(
            dict(
                eta=target_class.eta if eta is None else eta,
                learning_rate=learning_rate,
                batch_size=batch_size,
                n_epochs=n_epochs,
                obs_key=obs_key,
                norm_reward=norm_reward,
                precision=precision,
                **target_kwargs,
            ),
            ARGUMENTS,
        )
        self.eta = self.init_kwargs["eta"]
        self.batch_size = self.init_kwargs["batch_size"]
        self.n_epochs = self.init_kwargs["n_epochs"]
        self.reader = FrameReader(observation_space, obs_key)
        self.target_name = target

        self.target = target_class(self.frame_shape, **checked(target_kwargs, {}))
        self.learner = self.target.make_learner()
        self.obs_stats = None if self.reader.is_image else RunningMeanStd(self.frame_shape)
        #: of the discounted sums of novelty
        self.return_stats = RunningMeanStd((), 0.0, True, RETURN_WINDOW) if norm_reward else None
        self.to(get_device(device))
        self.set_precision()
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        self.optimizer = th.optim.Adam(
            trained, lr=self.init_kwargs["learning_rate"], fused=True if self.reader.is_image else None
        )
        self.optimizer.register_load_state_dict_post_hook(match_layout)
        #: whether a rollout's minibatches have one shape and updates are recorded, where the device can do that
        self.fixed_shapes = False
        self._replay: Replay | None = None
        self._rates: list[th.Tensor] = []
        self._batch: Transitions | None = None
        self._memory: list[th.Tensor] = []  # what its pool reads
        self._names: list[str] = []  # of the loss terms

    def set_precision(self) -> None:
        """To be called again when the nets have moved to another device."""
        precision = self.init_kwargs["precision"]
        resolved = resolve_precision(precision, self.device)
        if precision != "float32" and (self.reader.is_image or precision != "auto"):
            set_precision(self, resolved)

    @property
    def device(self) -> th.device:
        """Device of the nets."""
        return next(self.parameters()).device

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

    def scale(self, novelty: th.Tensor) -> th.Tensor:
        """
        :param novelty: ``(n,)``
        :return: intrinsic reward clip(eta · novelty, 0, 1), ``(n,)``; with ``norm_reward`` novelty is first divided by
            the standard deviation of its discounted sums
        """
        if self.return_stats is not None:
            novelty = self.return_stats.scale(novelty)
        return (self.eta * novelty).clamp(0.0, 1.0)

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
        :return: transitions in each of its minibatches
        :raises ValueError: if ``batch_size`` does not divide them, or, where it is None, nothing from 2 to 512 does
        """
        batch_size = self.batch_size
        if batch_size is None:
            batch_size = next((n for n in range(min(MINIBATCH, size), 1, -1) if size % n == 0), MINIBATCH)
        check_minibatch(batch_size, size, "SND's batch_size")
        return batch_size

    def minibatches(self, rollout: Rollout) -> Iterator[Transitions]:
        """
        Consecutive transitions in time order. The states of one step are the successors of the step before, so ``B``
        transitions of ``N`` environments hold ``B + N`` frames and one more for each episode that ended among them.

        :param rollout: ``T`` steps of ``N`` environments
        :return: ``T * N / batch_size`` minibatches
        :raises ValueError: if ``batch_size`` does not divide ``T * N``
        """
        observations, last_observation = self.reader.entry(rollout.observations), self.reader.entry(rollout.last_observation)
        n_steps, n_envs = observations.shape[:2]
        size = n_steps * n_envs
        batch_size = self.minibatch_size(size)
        flat = observations.reshape(size, *observations.shape[2:])  # row t * N + n
        last_frames = self.select(last_observation)
        ends = np.array(sorted(rollout.terminal_observations), dtype=np.int64)
        bounds = np.searchsorted(ends, np.arange(0, size + 1, batch_size))  # of the ends in each minibatch
        next_index = np.tile(np.arange(n_envs, n_envs + batch_size), (size // batch_size, 1))  # (n_batches, B)
        rank = np.arange(len(ends)) - bounds[ends // batch_size]
        next_index[ends // batch_size, ends % batch_size] = batch_size + n_envs + rank
        next_indices = th.as_tensor(next_index, device=self.device)
        terminal_frames = last_frames[:0]
        if len(ends) > 0:
            entries = (self.reader.entry(rollout.terminal_observations[row]) for row in ends)
            terminal_frames = self.select(th.stack([th.as_tensor(entry) for entry in entries]))

        def pool(rows: th.Tensor) -> th.Tensor:
            return self._frames(flat[rows.cpu().numpy()] if isinstance(flat, np.ndarray) else flat[rows.to(flat.device)])

        for index, start in enumerate(range(0, size, batch_size)):
            stop = start + batch_size
            parts = [flat[start : stop + n_envs], last_frames[: max(0, stop + n_envs - size)]]
            parts.append(terminal_frames[bounds[index] : bounds[index + 1]])
            if self.fixed_shapes:  # the rest is nobody's successor
                spare = max(SPARE_FRAMES, batch_size // 16) - len(parts[-1])
                parts.append(last_frames[:1].expand(max(0, spare), *last_frames.shape[1:]))
            frames = th.cat([self._frames(part) for part in parts if len(part) > 0])
            yield Transitions(frames, next_indices[index], size, pool)

    def train_on_rollout(self, rollout: Rollout) -> dict[str, float]:
        """
        ``n_epochs`` passes of both nets over a rollout.

        :param rollout: ``T`` steps of ``N`` environments
        :return: means over the minibatches of each loss term, and of the norm of the target's features
        :raises ValueError: if ``batch_size`` does not divide ``T * N``
        """
        observations = self.reader.entry(rollout.observations)
        self._memory = [observations] if isinstance(observations, th.Tensor) else []
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
        return means

    def _update(self, frames: th.Tensor, next_index: th.Tensor) -> Tensors:
        """:return: all terms of a minibatch's loss, ``(n_terms,)``, after the step that they led to"""
        assert self._batch is not None
        terms = self._terms(self._batch._replace(frames=frames, next_index=next_index))
        self.optimizer.zero_grad()
        terms["loss"].backward()
        if not self.fixed_shapes:  # a recording cannot ask
            check_gradients(self, "SND", {name: term.detach() for name, term in terms.items()})
        self.optimizer.step()
        self._names = list(terms)
        return (th.stack([term.detach() for term in terms.values()]),)

    def _state(self) -> Iterator[Any]:
        yield from self._memory
        yield from self.parameters()
        yield from self.buffers()
        yield from optimizer_state(self.optimizer)

    def save(self, path: str | pathlib.Path) -> None:
        """
        Write nets, running statistics and optimiser; the file loads with ``weights_only=True``.

        :param path: File to write
        """
        th.save({"snd": self.state_dict(), "optimizer": self.optimizer.state_dict()}, path)

    def load(self, path: str | pathlib.Path) -> None:
        """
        Take over what :meth:`save` wrote, in place.

        :param path: File to read
        :raises ValueError: if the file holds another target or other sizes, or anything but tensors, which is not run
        """
        try:
            saved = th.load(path, map_location=self.device, weights_only=True)
        except UNREADABLE as error:
            raise ValueError(f"{path} is no file of tensors that SND.save wrote, so it is not read any further.") from error
        try:
            self.load_state_dict(saved["snd"])
            self.optimizer.load_state_dict(saved["optimizer"])
        except UNREADABLE as error:
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


def check_minibatch(batch_size: int, size: int, name: str = "batch_size") -> None:
    """
    :param batch_size: Transitions in a minibatch
    :param size: Transitions in a rollout, ``n_steps * n_envs``
    :param name: What the minibatch is called
    :raises ValueError: if the first does not divide the second
    """
    if size % batch_size != 0:
        divisor = next(d for d in range(min(batch_size, size), 0, -1) if size % d == 0)
        remedy = f"{divisor} would, for example" if divisor > 1 else "choose another n_steps or n_envs"
        raise ValueError(
            f"{name}={batch_size} does not divide the rollout of {size} transitions (n_steps * n_envs): {remedy}."
        )


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
