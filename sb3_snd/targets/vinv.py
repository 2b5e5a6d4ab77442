"""SND-VINV: the target of SND-VIC, whose features also tell the action between two successive states.

VICReg as in :mod:`~sb3_snd.targets.vic`, and an inverse model (Pathak et al., arXiv 1705.05363, eq. 2 and 3). The paper on
SND (arXiv 2302.11563) does not have this target; nets and weights are those of its authors' released program. Departs from
that program, which applies a softmax before the cross-entropy, where a second one follows: here the inverse model gives
logits. Knows features and actions, but no environment.
"""

import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import create_mlp
from torch import nn
from torch.nn import functional as F

from sb3_snd.common.actions import ActionCoder
from sb3_snd.common.torch_layers import orthogonal_
from sb3_snd.common.type_aliases import Transitions
from sb3_snd.targets.shared_nets import SharedNetsTarget
from sb3_snd.targets.vic import vicreg_terms

INVERSE_WEIGHT = 0.5


class VINVTarget(SharedNetsTarget):
    """
    Target of SND-VINV.

    :param frame_shape: ``(C, H, W)`` or ``(D,)``
    :param action_space: Action space of the environment
    :param features_dim: Size of the feature space. The hidden layers of the inverse model have this size and half of it
    :param target_width: Channels of the target's last convolution: 128 for Atari, 64 for Procgen
    :param learner_width: Channels of the learner's last convolution
    :raises ValueError: for a value out of its range, or without an action space
    """

    eta = 0.5
    reads_actions = True
    learner_gain = 2**0.5

    def __init__(
        self,
        frame_shape: tuple[int, ...],
        action_space: spaces.Space | None = None,
        features_dim: int | None = None,
        target_width: int = 128,
        learner_width: int = 128,
    ) -> None:
        super().__init__(frame_shape, features_dim, target_width, learner_width)
        self.coder = ActionCoder(action_space, type(self).__name__)
        widths = [self.features_dim, max(1, self.features_dim // 2)]
        #: features of s_t and s_{t+1}, ``(B, 2 * features_dim)`` -> logits of actions, ``(B, coder.dim)``
        self.inverse = nn.Sequential(*create_mlp(2 * self.features_dim, self.coder.dim, widths))
        orthogonal_(self.inverse, 2**0.5)

    def loss(self, batch: Transitions, learner: nn.Module) -> dict[str, th.Tensor]:
        """Compute distillation, VICReg, and the inverse model's loss with weight 0.5; see :meth:`Target.loss`."""
        assert batch.actions is not None, "The transitions have no actions."
        z, z_next = batch.split(self(batch.frames))  # (B, D) each
        distill = F.mse_loss(learner(batch.states), z.detach())
        vicreg = vicreg_terms(z, z_next)
        inverse = self.coder.prediction_loss(self.inverse(th.cat([z, z_next], dim=1)), batch.actions)
        target = vicreg["target"] + INVERSE_WEIGHT * inverse
        return {
            "loss": distill + target,
            "distill": distill,
            **vicreg,
            "target": target,
            "inverse": inverse,
            "features": z.detach(),
        }
