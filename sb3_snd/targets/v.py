"""SND-V: a target trained by a contrastive loss on pairs of states, equal or different, both augmented.

Pecháč, Chovanec, Farkaš: Self-supervised network distillation, arXiv 2302.11563, section 4. The settings are
those of the authors' released program. Their published Montezuma runs used others, which are available as
arguments.
"""

from typing import NamedTuple

import torch as th
from torch import nn
from torch.nn import functional as F

from sb3_snd.common.running_stats import RunningMeanStd
from sb3_snd.common.torch_layers import Conv
from sb3_snd.common.type_aliases import Transitions
from sb3_snd.common.validation import BOOL, FRACTION, validate
from sb3_snd.targets.augmentations import add_noise, drop_tiles
from sb3_snd.targets.base import Target, masked_mse

DISTILLED_SHARE = 0.25  # share of the (sample, feature) entries that are distilled
PAIRS_PER_SAMPLE = 1 / 8
NORM_LIMIT = 200.0
INPUT_CLIP = 1.0  # normalised frames are clamped to this many standard deviations


class Pairs(NamedTuple):
    """Random pairs of states, as row numbers of the rollout, and whether their draws are independent."""

    first: th.Tensor  #: ``(k,)`` int64
    second: th.Tensor  #: ``(k,)`` int64
    far: th.Tensor  #: ``(k,)`` float32, 1 for different states, 0 for the same state twice


def draw_pairs(n_pairs: int, pool_size: int, device: th.device) -> Pairs:
    """
    Draw random pairs of states: the same state twice with probability 1/2, otherwise two independent draws.

    :param n_pairs: Number of pairs, k
    :param pool_size: Number of states from which to draw
    :param device: Device on which to draw
    :return: the pairs
    """
    first, other = th.randint(pool_size, (2, n_pairs), device=device)
    far = th.rand(n_pairs, device=device) < 0.5
    return Pairs(first, th.where(far, other, first), far.float())


def contrastive_loss(z_a: th.Tensor, z_b: th.Tensor, far: th.Tensor) -> th.Tensor:
    """
    Compute the squared error of the mean squared distance, whose target is 0 for equal states and 1 for
    different ones. If the mean squares of both features add up to more than 200, the excess is added as a
    penalty.

    :param z_a: Features of the first states, ``(k, D)``
    :param z_b: Features of the second states, ``(k, D)``
    :param far: 1 if the states differ, else 0, ``(k,)``
    :return: scalar
    """
    distance = (z_a - z_b).square().mean(dim=1)  # (k,)
    norm = z_a.square().mean() + z_b.square().mean()
    return (far - distance).square().mean() + F.relu(norm - NORM_LIMIT)


class VTarget(Target):
    """
    Target of SND-V.

    :param frame_shape: ``(C, H, W)`` or ``(D,)``
    :param features_dim: Size of the feature space
    :param normalize_input: Whether to normalise each pixel by a running mean and standard deviation, in which
        each batch counts once, and clamp it to ±1. This is for images only, as vectors are already normalised
    :param noise_probability: Probability that a state is given noise in the contrastive loss
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
        validate(given, {"normalize_input": BOOL, "noise_probability": FRACTION})
        if normalize_input and len(frame_shape) != 3:
            raise ValueError("normalize_input=True is for images only: omit it, since vectors are already normalised.")
        super().__init__(frame_shape, features_dim)
        self.noise_probability = noise_probability
        self.keeps_statistics = normalize_input
        self.frame_stats = RunningMeanStd(frame_shape, count=1.0, count_batches=True) if normalize_input else None

    def update_statistics(self, frames: th.Tensor) -> None:
        """
        Update the running mean and variance, in which each batch counts once; see
        :meth:`Target.update_statistics`.
        """
        if self.frame_stats is not None:
            self.frame_stats.update(frames)

    def preprocess(self, frames: th.Tensor) -> th.Tensor:
        """
        Normalise the frames by their running mean and standard deviation and clamp them to [-1, 1], if
        ``normalize_input`` is set.
        """
        return frames if self.frame_stats is None else self.frame_stats.normalize(frames, INPUT_CLIP)

    def augment(self, frames: th.Tensor) -> th.Tensor:
        """
        Drop random tiles and add noise.

        :param frames: ``(k, *frame_shape)``
        :return: augmented frames, of the same shape
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
        Compute the distillation of a random quarter of the entries, and the contrastive loss; see
        :meth:`Target.loss`.

        :param uniform: Numbers in [0, 1) that select the entries, ``(B, D)``; drawn if not given
        :param pairs: Pairs of rows of the pool, which are not augmented; drawn and augmented if not given
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
