"""Encoders and learners, sized from the observation and with orthogonal initialisation.

Knows shapes; the papers that use these layers are in ``targets/`` and ``ppo_snd/policies.py``.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch as th
from torch import nn

from sb3_snd.common.precision import Encoder
from sb3_snd.common.preprocessing import is_grid

MLP_WIDTHS = (256, 256)  # widths of the hidden layers of an encoder of vectors


class Conv(NamedTuple):
    """One convolution: output channels, kernel, stride, padding."""

    channels: int  #: number of output channels
    kernel: int = 3  #: height and width of the kernel
    stride: int = 1  #: step of the kernel
    padding: int = 1  #: number of zeros on each side


#: convolutions of DQN (Mnih et al., 2015)
DQN_CONVS = (Conv(32, kernel=8, stride=4, padding=0), Conv(64, kernel=4, stride=2, padding=0), Conv(64, padding=0))
#: convolutions for grids of less than 36 x 36 cells, whatever the paper's convolutions are
GRID_CONVS = (Conv(32, kernel=2, padding=0), Conv(64, kernel=2, padding=0), Conv(64, kernel=2, padding=0))


def snd_convs(width: int) -> tuple[Conv, ...]:
    """
    Return the convolutions shared by SND-VIC, SND-STD and the policy's trunk (reference, appendix of the
    paper).

    :param width: Channels of the last convolution
    :return: four convolutions
    """
    return Conv(32, stride=2), Conv(64, stride=2), Conv(64, stride=2), Conv(width)


def encoder(
    shape: tuple[int, ...],
    convs: Sequence[Conv],
    features_dim: int,
    activation: Callable[[], nn.Module],
) -> Encoder:
    """
    Build an encoder: convolutions for images or two hidden layers for vectors, then one linear layer without
    activation.

    :param shape: ``(C, H, W)`` or ``(D,)``
    :param convs: The convolutions; unused for vectors, and replaced by ``GRID_CONVS`` for small grids
    :param features_dim: Output size
    :param activation: Activation after every layer except the last; after a convolution it works in place
    :return: ``(n, *shape)`` -> ``(n, features_dim)``
    """
    layers: list[nn.Module] = []
    if len(shape) == 3:
        convs = GRID_CONVS if is_grid(shape) else convs
        for (channels, *_), conv in itertools.pairwise((Conv(shape[0]), *convs)):
            layers += [nn.Conv2d(channels, conv.channels, conv.kernel, conv.stride, conv.padding), activation()]
        for layer in layers:
            if hasattr(layer, "inplace"):  # nothing else reads the activation's input
                layer.inplace = True  # type: ignore[assignment]
        layers.append(nn.Flatten())
    else:
        for fan_in, fan_out in itertools.pairwise((*shape, *MLP_WIDTHS)):
            layers += [nn.Linear(fan_in, fan_out), activation()]
    body = Encoder(*layers)
    body.reducible = not is_grid(shape)
    with th.no_grad():
        n_flatten = body(th.zeros(1, *shape)).shape[1]  # size by a dummy forward
    body.append(nn.Linear(n_flatten, features_dim))
    return body


def learner(
    shape: tuple[int, ...],
    convs: Sequence[Conv],
    features_dim: int,
    activation: Callable[[], nn.Module],
    head_activation: Callable[[], nn.Module] = nn.ELU,
) -> Encoder:
    """
    Build a learner: an encoder with two more linear layers, with an activation before each.

    :param shape: ``(C, H, W)`` or ``(D,)``
    :param convs: The convolutions, see :func:`encoder`
    :param features_dim: Output size, and size of the two layers before
    :param activation: Activation after every layer of the encoder except its last
    :param head_activation: Activation before each of the two layers
    :return: ``(n, *shape)`` -> ``(n, features_dim)``
    """
    net = encoder(shape, convs, features_dim, activation)
    for _ in range(2):
        net.append(head_activation())
        net.append(nn.Linear(features_dim, features_dim))
    return net


def orthogonal_(module: nn.Module, gain: float) -> None:
    """
    Initialise linear and convolutional layers with orthogonal weights and zero biases, in place.

    :param module: Module with the layers
    :param gain: Scale of the weights
    """
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            nn.init.orthogonal_(layer.weight, gain)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
