"""SND-BT: a target trained by Barlow Twins on two augmented views of each state.

Zbontar et al.: Barlow Twins: Self-supervised learning via redundancy reduction, arXiv 2103.03230, eq. 1 and 2. The
paper on SND (arXiv 2302.11563) does not have this target; the loss and the augmentation are those of its authors'
released program. Departs from Barlow Twins, as that program does: the features are not standardised, so the loss
compares second moments and not correlations; the views are noisy and blurred; and there is no projector. The nets and
their initialisation are those of SND-VIC.
"""

import torch as th
from torch import nn
from torch.nn import functional as F

from sb3_snd.common.preprocessing import is_grid
from sb3_snd.common.type_aliases import Transitions
from sb3_snd.targets.augmentations import blur
from sb3_snd.targets.shared_nets import SharedNetsTarget

REDUNDANCY_WEIGHT = 5e-3
NOISE_STD = 0.1


def barlow_terms(z_a: th.Tensor, z_b: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """
    Compute both terms of Barlow Twins from the matrix of second moments C = z_aᵀ z_b / B (arXiv 2103.03230, eq. 1).

    :param z_a: Features of the first views, ``(B, D)``
    :param z_b: Features of the second views, ``(B, D)``
    :return: two scalars: sum over the features of (1 - C_ii)², and sum of the squares of all other entries
    """
    moments = z_a.T @ z_b / len(z_a)  # (D, D)
    diagonal = moments.diagonal()
    return (1 - diagonal).square().sum(), moments.square().sum() - diagonal.square().sum()


class BTTarget(SharedNetsTarget):
    """
    Target of SND-BT.

    :param frame_shape: ``(C, H, W)`` or ``(D,)``
    :param features_dim: Size of the feature space
    :param target_width: Channels of the target's last convolution: 128 for Atari, 64 for Procgen
    :param learner_width: Channels of the learner's last convolution
    """

    eta = 1.0
    learner_gain = 2**0.5

    def augment(self, frames: th.Tensor) -> th.Tensor:
        """
        Add normal noise, and blur images. Neighbours in a vector or a grid of symbols are not alike, so those are not
        blurred.

        :param frames: ``(n, *frame_shape)``
        :return: augmented frames, of the same shape
        """
        noisy = frames + NOISE_STD * th.randn_like(frames)
        return blur(noisy) if len(self.frame_shape) == 3 and not is_grid(self.frame_shape) else noisy

    def loss(
        self,
        batch: Transitions,
        learner: nn.Module,
        views: tuple[th.Tensor, th.Tensor] | None = None,
    ) -> dict[str, th.Tensor]:
        """
        Compute distillation, and Barlow Twins with weights 1 and 0.005; see :meth:`Target.loss`.

        :param views: Two views of each state, ``(B, *frame_shape)`` each; drawn if not given
        """
        states = batch.states
        with th.no_grad():
            z = self(states)  # (B, D)
        distill = F.mse_loss(learner(states), z)
        if views is None:
            views = self.augment(states), self.augment(states)
        z_a, z_b = self(th.cat(views)).chunk(2)  # (B, D) each
        invariance, redundancy = barlow_terms(z_a, z_b)
        target = invariance + REDUNDANCY_WEIGHT * redundancy
        return {
            "loss": distill + target,
            "distill": distill,
            "target": target,
            "invariance": invariance,
            "redundancy": redundancy,
            "features": z,
        }
