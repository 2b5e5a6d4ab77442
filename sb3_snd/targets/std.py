"""SND-STD: a target trained by spatio-temporal deep infomax (ST-DIM).

Pecháč, Chovanec, Farkaš: Self-supervised network distillation, arXiv 2302.11563, section 4. Anand et al.:
Unsupervised state representation learning in Atari, arXiv 1906.08226, eq. 2 and 3. Departs from ST-DIM, as
the reference does: the softmax runs over the predictions, the global features are those of s_{t+1}, and the
local ones are those of s_t. Two terms of weight 1e-4 keep the logits small and spread the features.
"""

from typing import Any

import torch as th
from torch import nn
from torch.nn import functional as F

from sb3_snd.common.torch_layers import orthogonal_
from sb3_snd.common.type_aliases import Transitions
from sb3_snd.common.validation import MAX_WIDTH, integer, or_none, validate
from sb3_snd.targets.shared_nets import SharedNetsTarget

REGULARISATION = 1e-4
# On a CPU at most so many logits are computed at a time, so that they stay in its cache. More are never kept
# for a gradient.
CACHED_LOGITS = 2**21


def infonce(logits: th.Tensor) -> th.Tensor:
    """
    Compute the cross-entropy over the second axis, which holds the predictions (arXiv 1906.08226, eq. 1). The
    correct prediction for the features in column j is j.

    :param logits: Products of predictions and features, ``(P, B, B)``
    :return: scalar, mean over positions and columns
    """
    positions, n, _ = logits.shape
    return F.cross_entropy(logits, th.arange(n, device=logits.device).expand(positions, n))


class SpatialInfoNCE(th.autograd.Function):
    """
    Sum of :func:`infonce` of two sets of logits at each position. Value and gradients come from one pass over
    blocks of positions. On a CPU the logits, 2 * P * B² numbers, are therefore never in memory all at once.
    """

    @staticmethod
    def forward(ctx: Any, predictions: th.Tensor, features: th.Tensor) -> th.Tensor:  # type: ignore[override]
        """
        Compute the loss, and save its gradients for :meth:`backward`.

        :param predictions: Two sets of B predictions at each position, ``(P, 2 * B, L)``
        :param features: Local features with which they are compared, ``(P, B, L)``
        :return: scalar
        """
        predictions, features = predictions.float(), features.float()
        positions, n, _ = features.shape
        block = max(1, CACHED_LOGITS // (2 * n * n)) if features.device.type == "cpu" else positions
        nce = features.new_zeros(())
        grads = th.empty_like(predictions), th.empty_like(features)
        with th.autocast(features.device.type, enabled=False):
            for start in range(0, positions, block):
                part = slice(start, start + block)
                logits = features[part] @ predictions[part].transpose(1, 2)  # (p, B, 2 * B)
                log_p = logits.unflatten(2, (2, n)).log_softmax(dim=3)  # (p, B features, 2, B predictions)
                nce -= log_p.diagonal(dim1=1, dim2=3).sum()  # prediction j is correct for features j
                # d cross-entropy / d logits = softmax - one-hot, in place of log_p
                p_minus_onehot = log_p.exp_()
                p_minus_onehot.diagonal(dim1=1, dim2=3).sub_(1)
                grad_logits = p_minus_onehot.flatten(2)  # (p, B, 2 * B)
                th.matmul(grad_logits.transpose(1, 2), features[part], out=grads[0][part])
                th.matmul(grad_logits, predictions[part], out=grads[1][part])
        ctx.save_for_backward(*grads)
        ctx.size = positions * n
        return nce / ctx.size

    @staticmethod
    @th.autograd.function.once_differentiable
    def backward(ctx: Any, grad: th.Tensor) -> tuple[th.Tensor, ...]:  # type: ignore[override]
        """
        Scale the saved gradients.

        :param grad: Gradient with respect to the result, scalar
        :return: gradients with respect to predictions and features
        """
        return tuple(grad / ctx.size * saved for saved in ctx.saved_tensors)


def logit_norm(predictions: th.Tensor, features: th.Tensor) -> th.Tensor:
    """
    Compute the mean Frobenius norm of each position's logits ``features @ predictionsᵀ`` from the L x L Gram
    matrices of both.

    :param predictions: ``(P, B, L)``
    :param features: ``(P, B, L)``
    :return: scalar
    """
    squares = (predictions.transpose(1, 2) @ predictions) * (features.transpose(1, 2) @ features)  # (P, L, L)
    return squares.sum(dim=(1, 2)).clamp(min=1e-12).sqrt().mean()


class STDTarget(SharedNetsTarget):
    """
    Target of SND-STD, with two linear projections for the loss.

    Local features are the map after the third convolution. For vectors they are the last hidden layer, a map
    of one position.

    :param frame_shape: ``(C, H, W)`` or ``(D,)``
    :param features_dim: Size of the feature space
    :param target_width: Channels of the target's last convolution: 128 for Atari, 64 for Procgen
    :param learner_width: Channels of the learner's last convolution: 128 for Atari, 64 for Procgen
    """

    eta = 1.0
    learner_gain = 0.5

    def __init__(
        self,
        frame_shape: tuple[int, ...],
        features_dim: int | None = None,
        target_width: int = 128,
        learner_width: int = 128,
    ) -> None:
        # The standard deviation of a single feature is undefined
        validate({"features_dim": features_dim}, {"features_dim": or_none(integer(2, MAX_WIDTH))})
        super().__init__(frame_shape, features_dim, target_width, learner_width)
        # Number of layers up to the local features: three of the four convolutions, or both hidden layers
        self.n_local_layers = 6 if len(frame_shape) == 3 else 4
        with th.no_grad():
            local_dim = self.encoder[: self.n_local_layers](th.zeros(1, *frame_shape)).shape[1]
        self.global_projection = nn.Linear(self.features_dim, local_dim)
        self.local_projection = nn.Linear(local_dim, local_dim)
        for projection in (self.global_projection, self.local_projection):
            orthogonal_(projection, self.gain)

    def contrast(
        self,
        predictions: tuple[th.Tensor, th.Tensor],
        features: th.Tensor,
    ) -> tuple[th.Tensor, th.Tensor]:
        """
        Compute the contrastive loss and the norm of its logits.

        :param predictions: Predictions from global and from local features of s_{t+1}, ``(P, B, L)`` each
        :param features: Local features of s_t, ``(P, B, L)``
        :return: sum of both cross-entropies, and sum of both mean norms of the logits
        """
        positions, n, _ = features.shape
        if 2 * positions * n * n > CACHED_LOGITS:
            nce = SpatialInfoNCE.apply(th.cat(predictions, dim=1), features)
            return nce, logit_norm(predictions[0], features) + logit_norm(predictions[1], features)
        # Few enough logits to keep, as for vectors: both terms share them, and their gradients share one
        # backward pass
        logits = features @ th.cat(predictions, dim=1).transpose(1, 2)  # (P, B, 2 * B)
        logits = logits.unflatten(2, (2, n))  # (P, B features, 2, B predictions)
        nce = -2 * logits.log_softmax(dim=3).diagonal(dim1=1, dim2=3).mean()
        return nce, logits.square().sum(dim=(1, 3)).clamp(min=1e-12).sqrt().mean(dim=0).sum()

    def infomax(self, batch: Transitions) -> tuple[th.Tensor, th.Tensor, th.Tensor, th.Tensor]:
        """
        Compute the loss of ST-DIM.

        :param batch: Preprocessed transitions
        :return: features of s_t and s_{t+1}, ``(B, D)`` each, and the two results of :meth:`contrast`
        """
        maps = self.encoder[: self.n_local_layers](batch.frames)  # (M, L, H, W) or (M, L)
        z, z_next = batch.split(self.encoder[self.n_local_layers :](maps))  # (B, D) each
        # (M, P, L); channels-last maps are not copied
        by_position = maps.permute(0, 2, 3, 1).flatten(1, 2) if maps.ndim == 4 else maps.unsqueeze(1)
        local, local_next = batch.split(by_position)  # (B, P, L) each
        local = local.transpose(0, 1)  # (P, B, L)
        by_global = self.global_projection(z_next).expand_as(local)
        by_local = self.local_projection(local_next).transpose(0, 1)
        return z, z_next, *self.contrast((by_global, by_local), local)

    def loss(self, batch: Transitions, learner: nn.Module) -> dict[str, th.Tensor]:
        """Compute distillation (summed), and InfoNCE with its two regularisers; see :meth:`Target.loss`."""
        z, _, nce, norm = self.infomax(batch)
        distill = (learner(batch.states) - z.detach()).square().sum()
        feature_std = -z.std(dim=1).mean()
        target = nce + REGULARISATION * (norm + feature_std)
        return {
            "loss": distill + target,
            "distill": distill,
            "target": target,
            "infonce": nce,
            "logit_norm": norm,
            "feature_std": feature_std,
            "features": z.detach(),
        }
