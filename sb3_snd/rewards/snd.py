"""``SND``: novelty as the error with which a learner distils a target that is itself trained.

Knows observations and target models, but no environment, algorithm or logger.
"""

import inspect
from collections.abc import Sequence
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.type_aliases import Schedule

from sb3_snd.common.type_aliases import Transitions
from sb3_snd.common.validation import validate
from sb3_snd.rewards.base import IntrinsicReward
from sb3_snd.rewards.rollout import Step
from sb3_snd.rewards.training import RewardTrainer
from sb3_snd.targets import TARGETS, Target

#: arguments that every target takes, in the order in which an error lists them
SETTINGS = ("eta", "learning_rate", "batch_size", "n_epochs", "obs_key", "norm_reward", "precision")


class SND(IntrinsicReward):
    """
    Self-supervised network distillation (Pecháč, Chovanec, Farkaš, arXiv 2302.11563).

    :param observation_space: Observation space of the environment. Images are uint8 or float, channels first
        or last, stacked or not; only the newest frame is used. Any other space that SB3 supports is read as a
        vector, normalised by a running mean and standard deviation and clamped to ±5. A ``Dict`` of such
        spaces is allowed
    :param target: Name in ``sb3_snd.targets.TARGETS``, or a subclass of ``Target``
    :param eta: Scale of the intrinsic reward, or a function of the remaining training progress, which falls
        from 1 to 0; by default the paper's value for Montezuma's Revenge
    :param learning_rate: Learning rate of the single Adam optimiser for both nets, or a function of the
        remaining progress; 1e-4 by default
    :param batch_size: Transitions per minibatch, consecutive in time. If it does not divide the rollout, the
        last minibatch is smaller, and a single remaining transition joins the minibatch before it. The
        default is the largest number from 64 to 512 that divides the rollout, or the paper's 512 if there is
        none
    :param n_epochs: Number of passes over each rollout; one by default, as in the paper
    :param device: PyTorch device of the nets
    :param obs_key: Entries of ``Dict`` observations from which novelty is computed: the name of one entry, or
        the names of several entries that are not images. By default it is the only image, or all other
        entries if there are no images or several
    :param norm_reward: Whether to divide novelty by the running standard deviation of its discounted sum over
        time in each environment (RND, arXiv 1810.12894, section 2.4), so that ``eta`` depends less on the
        task; off by default, as in the paper. The estimate forgets after about 200 steps (RND's never does),
        because a fresh learner's novelty is about a hundred times a trained one's. It is at least 0.2 times
        the mean of the sums, see :class:`~sb3_snd.rewards.scale.RewardScale`
    :param precision: Number format in which the encoders of images compute, see
        :func:`~sb3_snd.common.precision.resolve_precision`; ``"float32"`` by default. Losses and the
        difference that gives novelty are always float32. ``"auto"`` keeps the encoders of vectors, which are
        small, in float32
    :param action_space: Action space of the environment, which only targets that are trained on actions need
    :param target_kwargs: Further arguments of the target model (``features_dim``, ``target_width``, ...)
    :raises ValueError: for an unknown target, an unknown argument, a value out of its range, or an
        observation space that no target supports
    """

    reads = "state"
    trainer: RewardTrainer

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
        action_space: spaces.Space | None = None,
        **target_kwargs: Any,
    ) -> None:
        target_class = find_target(target, target_kwargs)
        target_kwargs = validate(target_kwargs, {})
        super().__init__(
            observation_space,
            obs_key,
            action_space=action_space,
            defaults={"eta": target_class.eta},
            eta=eta,
            learning_rate=learning_rate,
            batch_size=batch_size,
            n_epochs=n_epochs,
            norm_reward=norm_reward,
            precision=precision,
        )
        self.init_kwargs |= target_kwargs
        self.target_name = target
        spaces_read: dict[str, Any] = {"action_space": action_space} if target_class.reads_actions else {}
        self.target = target_class(self.frame_shape, **spaces_read, **target_kwargs)
        self.learner = self.target.make_learner()
        self.set_up(device)

    def prepare(self, obs: Any) -> th.Tensor:
        """Prepare observations for target and learner; see :meth:`.IntrinsicReward.prepare`."""
        return self.target.preprocess(super().prepare(obs))

    @th.no_grad()
    def observe(self, obs: Any) -> None:
        """Update running statistics, also those of the target; see :meth:`.IntrinsicReward.observe`."""
        super().observe(obs)
        if self.target.keeps_statistics:
            self.target.update_statistics(super().prepare(obs))

    @th.no_grad()
    def features(self, obs: Any) -> th.Tensor:
        """
        Compute the target's features.

        :param obs: ``(n, *obs_shape)``
        :return: features, ``(n, features_dim)`` float32 on the nets' device
        """
        return self.target(self.prepare(obs))

    @th.no_grad()
    def novelty(self, obs: Any) -> th.Tensor:
        """
        Compute the distillation error (arXiv 2302.11563, eq. 2). On an accelerator the call returns before
        the result is ready.

        :param obs: ``(n, *obs_shape)``
        :return: novelty, ``(n,)`` float32 on the nets' device
        """
        return self.rate(obs)[0]

    @th.no_grad()
    def rate(self, frames: Any) -> tuple[th.Tensor, th.Tensor]:
        """Compute novelty and the target's features; see :meth:`.IntrinsicReward.rate`."""
        prepared = self.prepare(frames)
        features = self.target(prepared)
        return self.target.novelty(self.learner(prepared), features), features

    def bonus(self, step: Step) -> th.Tensor:
        """Compute the novelty of the states s_t, ``(n,)``; see :meth:`novelty`."""
        return self.novelty(step.states)

    def loss(self, batch: Transitions, **draws: Any) -> dict[str, th.Tensor]:
        """
        Compute the loss of a minibatch.

        :param batch: Prepared transitions
        :param draws: Random numbers of the target's loss, if they should not be drawn
        :return: scalar terms by name; ``"loss"`` is the one to minimise
        """
        terms = self.target.loss(batch, self.learner, **draws)
        terms["feature_norm"] = terms.pop("features").norm(dim=1).mean()
        return terms

    @property
    def spec(self) -> Any:
        """Name or class of the target, as the argument ``snd`` takes it."""
        return self.target_name

    @property
    def trains_on_actions(self) -> bool:
        """Whether the target's loss reads the actions of a minibatch."""
        return self.target.reads_actions


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
    known = [name for name in inspect.signature(target).parameters if name not in ("frame_shape", "action_space")]
    unknown = sorted(set(target_kwargs) - set(known))
    if unknown:
        raise ValueError(f"Unknown SND argument {unknown[0]!r}: {target.__name__} takes {', '.join([*SETTINGS, *known])}.")
    return target
