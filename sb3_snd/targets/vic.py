"""SND-VIC: a target trained by VICReg on successive states.

Pecháč, Chovanec, Farkaš: Self-supervised network distillation, arXiv 2302.11563, section 4. Bardes, Ponce,
LeCun: VICReg, arXiv 2105.04906, eq. 1 to 6. Departs from VICReg: successive states are the two views, and
there is neither augmentation nor a projector.
"""

import torch as th
from torch import nn
from torch.nn import functional as F

from sb3_snd.common.type_aliases import Transitions
from sb3_snd.common.validation import non_negative, validate
from sb3_snd.targets.shared_nets import SharedNetsTarget

COVARIANCE_WEIGHT = 1 / 25
RULES = {"mean_coef": non_negative(1e3)}


def spread_terms(features: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """
    Compute both of VICReg's spread terms from one covariance matrix, whose diagonal holds the variances.

    :param features: ``(B, D)``
    :return: two scalars: hinge loss on the standard deviation of each feature (arXiv 2105.04906, eq. 1), and
        squared covariances of different features (eq. 3 and 4)
    """
    n, dim = features.shape
    centred = features - features.mean(dim=0)
    cov = centred.T @ centred / (n - 1)  # (D, D)
    variances = cov.diagonal()
    variance = F.relu(1 - th.sqrt(variances + 1e-4)).mean()
    return variance, (cov.square().sum() - variances.square().sum()) / dim


def vicreg_terms(z: th.Tensor, z_next: th.Tensor) -> dict[str, th.Tensor]:
    """
    Compute VICReg's loss with weights 1, 1 and 1/25 (arXiv 2105.04906, eq. 6).

    :param z: Features of s_t, ``(B, D)``
    :param z_next: Features of s_{t+1}, ``(B, D)``
    :return: scalars by name: ``"target"``, the loss, and its three terms
    """
    invariance = F.mse_loss(z, z_next)
    variance, covariance = map(th.add, spread_terms(z), spread_terms(z_next))
    return {
        "target": invariance + variance + COVARIANCE_WEIGHT * covariance,
        "invariance": invariance,
        "variance": variance,
        "covariance": covariance,
    }


class VICTarget(SharedNetsTarget):
    """
    Target of SND-VIC.

    :param frame_shape: ``(C, H, W)`` or ``(D,)``
    :param features_dim: Size of the feature space
    :param target_width: Channels of the target's last convolution: 128 for Atari, 64 for Procgen
    :param learner_width: Channels of the learner's last convolution
    :param mean_coef: Weight of the squared mean of each feature over a minibatch; 0 by default, as in the paper.
        VICReg's loss stays the same if one vector is added to the features of all states. So this vector drifts,
        and the learner's error in it is novelty that all states share. A weight of 0.1 keeps the vector small
    :raises ValueError: for a value out of its range
    """

    eta = 0.25
    learner_gain = 2**0.5

    def __init__(
        self,
        frame_shape: tuple[int, ...],
        features_dim: int | None = None,
        target_width: int = 128,
        learner_width: int = 128,
        mean_coef: float = 0.0,
    ) -> None:
        validate({"mean_coef": mean_coef}, RULES)
        super().__init__(frame_shape, features_dim, target_width, learner_width)
        self.mean_coef = mean_coef

    def loss(self, batch: Transitions, learner: nn.Module) -> dict[str, th.Tensor]:
        """Compute distillation, VICReg, and the penalty on the features' mean; see :meth:`Target.loss`."""
        z, z_next = batch.split(self(batch.frames))  # (B, D) each
        distill = F.mse_loss(learner(batch.states), z.detach())
        vicreg = vicreg_terms(z, z_next)
        if self.mean_coef > 0:
            vicreg["mean"] = z.mean(dim=0).square().mean()
            vicreg["target"] = vicreg["target"] + self.mean_coef * vicreg["mean"]
        return {"loss": distill + vicreg["target"], "distill": distill, **vicreg, "features": z.detach()}
