"""SND-V: a target trained by a contrastive loss on pairs of states, equal or different, both augmented.

Pecháč, Chovanec, Farkaš: Self-supervised network distillation, arXiv 2302.11563, section 4.
The settings are those of the authors' released program; their published Montezuma runs used others, which are arguments here.
"""

from typing import NamedTuple

import torch as th
from torch import nn
from torch.nn import functional as F

from sb3_snd.arguments import FLAG, SHARE, checked
from sb3_snd.augmentations import add_noise, drop_tiles
from sb3_snd.running_stats import RunningMeanStd
from sb3_snd.targets.base import Target, masked_mse
from sb3_snd.torch_layers import Conv
from sb3_snd.type_aliases import Transitions

DISTILLED_SHARE = 0.25  # share of the (sample, feature) entries that are distilled
PAIRS_PER_SAMPLE = 1 / 8
NORM_LIMIT = 200.0
INPUT_CLIP = 1.0  # normalised frames are clamped to this many standard deviations


class Pairs(NamedTuple):
    """Random pairs of states: rows of the rollout, and 1 where they differ, else 0."""

    first: th.Tensor  # (k,) int64
    second: th.Tensor  # (k,) int64
    far: th.Tensor  # (k,) float32


def draw_pairs(n_pairs: int, pool_size: int, device: th.device) -> Pairs:
    """
    :param n_pairs: How many, k
    :param pool_size: Number of states to draw from
    :param device: Where the draws are made
    :return: the same state twice with probability 1/2, else two independent draws
    """
    first, other = th.randint(pool_size, (2, n_pairs), device=device)
    far = th.rand(n_pairs, device=device) < 0.5
    return Pairs(first, th.where(far, other, first), far.float())


def contrastive_loss(z_a: th.Tensor, z_b: th.Tensor, far: th.Tensor) -> th.Tensor:
    """
    Squared error of the mean squared distance to 0 for equal states and to 1 for different ones; features with a mean
    square above 200 for both together are pulled back.

    :param z_a: Features of the first states, ``(k, D)``
    :param z_b: Features of the second states, ``(k, D)``
    :param far: 1 where the states differ, else 0, ``(k,)``
    :return: scalar
    """
    distance = (z_a - z_b).square().mean(dim=1)  # (k,)
    norm = z_a.square().mean() + z_b.square().mean()
    return (far - distance).square().mean() + F.relu(norm - NORM_LIMIT)


class VTarget(Target):
    """
    :param frame_shape: ``(C, H, W)`` or ``(D,)``
    :param features_dim: Size of the feature space
    :param normalize_input: Whether frames are normalised pixel by pixel by a running mean and standard deviation, in which
        each batch counts once, and clamped to ±1. For images; vectors are normalised as they come
    :param noise_probability: Probability of a state to be given noise in the contrastive loss
    :raises ValueError: for ``normalize_input`` with vectors, or a probability outside of [0, 1]
    """

    eta = 0.5
    convs = learner_convs = (Conv(16, stride=2), Conv(32, stride=2), Conv(64, stride=2), Conv(64))
    activation = nn.ELU
    gain = learner_gain = 2**0.5

    def __init__(
        self,
        frame_shape: tuple[int, ...],
        features_dim: int | None = None,
        normalize_input: bool = False,
        noise_probability: float = 0.5,
    ) -> None:
        given = {"normalize_input": normalize_input, "noise_probability": noise_probability}
        checked(given, {"normalize_input": FLAG, "noise_probability": SHARE})
        if normalize_input and len(frame_shape) != 3:
            raise ValueError("normalize_input=True is for images: leave it away, vectors are normalised already.")
        super().__init__(frame_shape, features_dim)
        self.noise_probability = noise_probability
        self.keeps_statistics = normalize_input
        self.frame_stats = RunningMeanStd(frame_shape, count=1.0, count_batches=True) if normalize_input else None

    def update_statistics(self, frames: th.Tensor) -> None:
        """Each batch counts once in the running mean and variance; see :meth:`Target.update_statistics`."""
        if self.frame_stats is not None:
            self.frame_stats.update(frames)

    def preprocess(self, frames: th.Tensor) -> th.Tensor:
        """:return: the frames, with ``normalize_input`` in units of their standard deviation, in [-1, 1]"""
        return frames if self.frame_stats is None else self.frame_stats.normalize(frames, INPUT_CLIP)

    def augment(self, frames: th.Tensor) -> th.Tensor:
        """
        :param frames: ``(k, *frame_shape)``
        :return: the same with random tiles dropped and noise added
        """
        return add_noise(drop_tiles(frames), probability=self.noise_probability)

    def loss(
        self,
        batch: Transitions,
        learner: nn.Module,
        uniform: th.Tensor | None = None,
        pairs: Pairs | None = None,
    ) -> dict[str, th.Tensor]:
        """
        Distillation of a random quarter of the entries, and the contrastive loss; see :meth:`Target.loss`.

        :param uniform: Numbers in [0, 1) that choose the entries, ``(B, D)``; drawn if not given
        :param pairs: Pairs of rows of the pool, taken without augmentation; drawn and augmented if not given
        """
        states = batch.states
        with th.no_grad():
            z = self(states)  # (B, D)
        uniform = th.rand_like(z) if uniform is None else uniform
        distill = masked_mse(learner(states), z, uniform > 1 - DISTILLED_SHARE)
        if pairs is None:
            n_pairs = max(1, int(len(states) * PAIRS_PER_SAMPLE))
            pairs = draw_pairs(n_pairs, batch.pool_size, states.device)
            views = self.augment(batch.pool(pairs.first)), self.augment(batch.pool(pairs.second))
        else:
            views = batch.pool(pairs.first), batch.pool(pairs.second)
        z_a, z_b = self(th.cat(views)).chunk(2)  # (k, D) each
        target = contrastive_loss(z_a, z_b, pairs.far)
        return {"loss": distill + target, "distill": distill, "target": target, "features": z}
