"""``ForwardModel``: the features of s_{t+1}, predicted from those of s_t and the action.

Pathak et al.: Curiosity-driven exploration by self-supervised prediction, arXiv 1705.05363, eq. 4. Knows features and
actions, but no frames and no bonus.
"""

from collections.abc import Sequence

import torch as th
from stable_baselines3.common.torch_layers import create_mlp
from torch import nn

from sb3_snd.common.actions import ActionCoder
from sb3_snd.common.torch_layers import orthogonal_


class ForwardModel(nn.Module):
    """
    Net with ReLU layers that predicts features.

    :param features_dim: Number of features
    :param coder: Encodes the actions
    :param widths: Widths of the hidden layers
    """

    def __init__(self, features_dim: int, coder: ActionCoder, widths: Sequence[int] = (256,)) -> None:
        super().__init__()
        self.coder = coder
        self.net = nn.Sequential(*create_mlp(features_dim + coder.dim, features_dim, [*widths]))
        orthogonal_(self, 2**0.5)

    def forward(self, features: th.Tensor, actions: th.Tensor | None) -> th.Tensor:
        """
        Predict features.

        :param features: Features of s_t, ``(B, features_dim)``
        :param actions: ``(B, *action_shape)``
        :return: predicted features of s_{t+1}, ``(B, features_dim)``
        """
        assert actions is not None, "The transitions have no actions."
        return self.net(th.cat([features, self.coder.encode(actions)], dim=1))
