"""RND: a random target that is never trained.

Burda et al.: Exploration by random network distillation, arXiv 1810.12894. Departs from RND as the authors of
SND did in their comparison: a running mean is subtracted from frames, but they are not divided by their
standard deviation. Novelty is half the summed squared error and is not normalised.
"""

import torch as th
from torch import nn

from sb3_snd.common.running_stats import RunningMeanStd
from sb3_snd.common.torch_layers import Conv
from sb3_snd.common.type_aliases import Transitions
from sb3_snd.targets.base import Target, masked_mse

DISTILLED_SHARE = 0.25  # share of the (sample, feature) entries that are distilled


class RNDTarget(Target):
    """
    Random target of RND.

    :param frame_shape: ``(C, H, W)`` or ``(D,)``
    :param features_dim: Size of the feature space
    """

    eta = 1.0
    convs = learner_convs = (Conv(32, kernel=8, stride=4, padding=2), Conv(64, stride=2), Conv(64))
    activation = nn.ELU
    gain = learner_gain = 2**0.5

    def __init__(self, frame_shape: tuple[int, ...], features_dim: int | None = None) -> None:
        super().__init__(frame_shape, features_dim)
        self.requires_grad_(False)
        self.frame_stats = RunningMeanStd(frame_shape, count=1.0, count_batches=True)

    def update_statistics(self, frames: th.Tensor) -> None:
        """Update the running mean, in which each batch counts once; see :meth:`Target.update_statistics`."""
        self.frame_stats.update(frames)

    def preprocess(self, frames: th.Tensor) -> th.Tensor:
        """Subtract the running mean from the frames."""
        return frames - self.frame_stats.mean.to(frames.dtype)

    def novelty(self, prediction: th.Tensor, features: th.Tensor) -> th.Tensor:
        """Return half the summed squared distance, ``(n,)``."""
        return (prediction - features).square().sum(dim=1) / 2

    def loss(
        self,
        batch: Transitions,
        learner: nn.Module,
        uniform: th.Tensor | None = None,
    ) -> dict[str, th.Tensor]:
        """
        Distil a random quarter of the entries; see :meth:`Target.loss`.

        :param uniform: Numbers in [0, 1) that select the entries, ``(B, D)``; drawn if not given
        """
        states = batch.states
        with th.no_grad():
            z = self(states)  # (B, D)
        uniform = th.rand_like(z) if uniform is None else uniform
        distill = masked_mse(learner(states), z, uniform < DISTILLED_SHARE)
        return {"loss": distill, "distill": distill, "features": z}
