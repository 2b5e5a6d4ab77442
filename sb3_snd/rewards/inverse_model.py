"""``InverseModel``: features in which two successive states tell the action between them.

Pathak et al.: Curiosity-driven exploration by self-supervised prediction, arXiv 1705.05363, eq. 2 and 3. What no action
can change, the features need not hold. Knows frames and actions, but no bonus.
"""

from collections.abc import Sequence

import torch as th
from gymnasium import spaces
from torch import nn

from sb3_snd.common.actions import ActionCoder
from sb3_snd.common.torch_layers import Conv, encoder, orthogonal_
from sb3_snd.common.type_aliases import Transitions

#: convolutions of the encoder in arXiv 1705.05363, section 3
ICM_CONVS = (Conv(32, stride=2),) * 4


class InverseModel(nn.Module):
    """
    Encoder of frames, and a net with one hidden layer that predicts the action from the features of s_t and
    s_{t+1}.

    :param frame_shape: ``(C, H, W)`` or ``(D,)``
    :param action_space: Action space of the environment
    :param reader: Name of the class that reads the actions, for the error message
    :param features_dim: Number of features
    :param convs: Convolutions of the encoder, unused for vectors
    :param width: Width of the hidden layer
    :raises ValueError: if the action space is None
    """

    def __init__(
        self,
        frame_shape: tuple[int, ...],
        action_space: spaces.Space | None,
        reader: str,
        features_dim: int,
        convs: Sequence[Conv] = ICM_CONVS,
        width: int = 256,
    ) -> None:
        super().__init__()
        self.coder = ActionCoder(action_space, reader)
        self.features_dim = features_dim
        self.encoder = encoder(frame_shape, convs, features_dim, nn.ELU)
        self.head = nn.Sequential(nn.Linear(2 * features_dim, width), nn.ReLU(), nn.Linear(width, self.coder.dim))
        orthogonal_(self, 2**0.5)

    def forward(self, frames: th.Tensor) -> th.Tensor:
        """
        Compute features.

        :param frames: Prepared frames, ``(n, *frame_shape)`` float32
        :return: ``(n, features_dim)`` float32
        """
        return self.encoder(frames)

    def loss(self, features: th.Tensor, next_features: th.Tensor, batch: Transitions) -> th.Tensor:
        """
        Compute how badly the features tell the actions.

        :param features: Features of s_t, ``(B, features_dim)``
        :param next_features: Features of s_{t+1}, ``(B, features_dim)``
        :param batch: The transitions, with their actions
        :return: scalar, see :meth:`~sb3_snd.common.actions.ActionCoder.prediction_loss`
        """
        assert batch.actions is not None, "The transitions have no actions."
        return self.coder.prediction_loss(self.head(th.cat([features, next_features], dim=1)), batch.actions)
