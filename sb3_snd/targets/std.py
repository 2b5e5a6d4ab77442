"""SND-STD: a target trained by spatio-temporal deep infomax (ST-DIM).

Pecháč, Chovanec, Farkaš: Self-supervised network distillation, arXiv 2302.11563, section 4.
Anand et al.: Unsupervised state representation learning in Atari, arXiv 1906.08226, eq. 2 and 3.
Departs from ST-DIM, as the reference does: the softmax runs over the anchors, the global features are those of s_{t+1}
and the local ones those of s_t; logits are kept small and features spread by two terms of weight 1e-4.
"""

import torch as th
from torch import nn
from torch.nn import functional as F

from sb3_snd.targets.vic import VICTarget
from sb3_snd.torch_layers import orthogonal_
from sb3_snd.type_aliases import Transitions

REGULARISATION = 1e-4


def infonce(logits: th.Tensor) -> th.Tensor:
    """
    Cross-entropy over the second axis; the right class of column j is j (arXiv 1906.08226, eq. 1).

    :param logits: ``(P, B, B)``
    :return: scalar, mean over positions and columns
    """
    positions, n, _ = logits.shape
    return F.cross_entropy(logits, th.arange(n, device=logits.device).expand(positions, n))


class STDTarget(VICTarget):
    """
    Nets as in SND-VIC, but for the learner's gain, and two linear projections for the loss. Local features are the map
    after the third convolution; for vectors the last hidden layer, a map of one position.

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
        super().__init__(frame_shape, features_dim, target_width, learner_width)
        # Layers up to the local features: three convolutions of four, or both hidden layers
        self.n_local_layers = 6 if len(frame_shape) == 3 else 4
        with th.no_grad():
            local_dim = self.encoder[: self.n_local_layers](th.zeros(1, *frame_shape)).shape[1]
        self.global_projection = nn.Linear(self.features_dim, local_dim)
        self.local_projection = nn.Linear(local_dim, local_dim)
        for projection in (self.global_projection, self.local_projection):
            orthogonal_(projection, self.gain)

    def loss(self, batch: Transitions, learner: nn.Module) -> dict[str, th.Tensor]:
        """Distillation (summed), and InfoNCE with its two regularisers; see :meth:`Target.loss`."""
        maps = self.encoder[: self.n_local_layers](batch.frames)  # (M, L, H, W) or (M, L)
        z, z_next = batch.split(self.encoder[self.n_local_layers :](maps))  # (B, D) each
        local, local_next = batch.split(maps.flatten(2) if maps.ndim == 4 else maps.unsqueeze(2))  # (B, L, P) each
        distill = (learner(batch.states) - z.detach()).square().sum()

        columns = local.permute(2, 1, 0)  # (P, L, B)
        logits = (
            th.matmul(self.global_projection(z_next), columns),  # (B, L) @ (P, L, B) -> (P, B, B)
            th.matmul(self.local_projection(local_next.permute(2, 0, 1)), columns),  # (P, B, L) @ (P, L, B) -> (P, B, B)
        )
        nce = infonce(logits[0]) + infonce(logits[1])
        logit_norm = sum(x.norm(dim=(1, 2)).mean() for x in logits)  # Frobenius norm of each position's matrix
        feature_std = -z.std(dim=1).mean()
        target = nce + REGULARISATION * (logit_norm + feature_std)
        return {
            "loss": distill + target,
            "distill": distill,
            "target": target,
            "infonce": nce,
            "logit_norm": logit_norm,
            "feature_std": feature_std,
            "features": z.detach(),
        }
