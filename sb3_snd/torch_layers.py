"""Encoders, learners and the policy's trunk, sized from the observation and with orthogonal initialisation.

Knows shapes; the papers that use these layers are in ``targets/`` and ``policies.py``.
"""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import torch as th
from stable_baselines3.common.preprocessing import is_image_space_channels_first
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from sb3_snd.arguments import WIDEST, checked, whole
from sb3_snd.convolutions import can_fuse, convolve, fusible, poison
from sb3_snd.preprocessing import check_frame_size

MLP_WIDTHS = (256, 256)  # widths of the hidden layers of an encoder of vectors


class Encoder(nn.Sequential):
    """
    Sequence of layers that compute in bfloat16 if :func:`set_precision` has set it. Inputs, outputs and weights
    are float32. A slice of it computes in the same format.
    """

    reduced: bool = False  #: whether it computes in bfloat16
    fused: bool = False  #: whether convolutions and their activations are computed together

    def __getitem__(self, index: Any) -> Any:
        part = super().__getitem__(index)
        if isinstance(part, Encoder):
            part.reduced, part.fused = self.reduced, self.fused
        return part

    def forward(self, frames: th.Tensor) -> th.Tensor:
        """
        Compute features.

        :param frames: ``(n, *shape)`` float32; if the layers compute in bfloat16, finite bfloat16 is accepted
            as well
        :return: ``(n, features_dim)`` float32
        """
        if not self.reduced:
            return super().forward(frames)
        layers = fusible([*self]) if self.fused and frames.device.type == "cpu" else []
        with th.autocast(frames.device.type, th.bfloat16):
            features = convolve(layers, frames) if layers else frames
            for layer in itertools.islice(self, 2 * len(layers), None):
                features = layer(features)
        features = features.float()
        if layers:
            features = features + poison(layers, frames).view(-1, *[1] * (features.ndim - 1))
        return features


def set_precision(module: nn.Module, precision: str) -> None:
    """
    Set, in place, the number format of all encoders in a module, and the memory layout that processors convolve
    fastest.

    :param module: Module with encoders, which are initialised but not yet trained
    :param precision: Result of :func:`~sb3_snd.hardware.resolve_precision`
    """
    for net in module.modules():
        if isinstance(net, Encoder):
            device = next(net.parameters()).device.type
            net.reduced = precision == "bfloat16"
            net.fused = net.reduced and device == "cpu" and can_fuse()
            if device in ("cpu", "cuda"):
                net.to(memory_format=th.channels_last)  # type: ignore[call-overload]  # the convolutions' weights


def match_layout(optimizer: th.optim.Optimizer) -> None:
    """
    Copy an optimiser's state to the memory layout of its parameters, in place. Fused optimisers process memory
    in its order, and a loaded state has the layout of the parameters with which it was saved.

    :param optimizer: Optimiser whose state has been loaded
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, th.Tensor) and value.shape == parameter.shape:
                state[name] = th.empty_like(parameter).copy_(value).detach()


class Conv(NamedTuple):
    """One convolution: output channels, kernel, stride, padding."""

    channels: int
    kernel: int = 3
    stride: int = 1
    padding: int = 1


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
    activation: type[nn.Module],
) -> Encoder:
    """
    Build an encoder: convolutions for images or two hidden layers for vectors, then one linear layer without
    activation.

    :param shape: ``(C, H, W)`` or ``(D,)``
    :param convs: The convolutions, unused for vectors
    :param features_dim: Output size
    :param activation: Activation after every layer except the last; after a convolution it works in place
    :return: ``(n, *shape)`` -> ``(n, features_dim)``
    """
    layers: list[nn.Module] = []
    if len(shape) == 3:
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
    with th.no_grad():
        n_flatten = body(th.zeros(1, *shape)).shape[1]  # size by a dummy forward
    body.append(nn.Linear(n_flatten, features_dim))
    return body


def learner(
    shape: tuple[int, ...],
    convs: Sequence[Conv],
    features_dim: int,
    activation: type[nn.Module],
) -> Encoder:
    """
    Build a learner: an encoder with two more linear layers, with an ELU before each.

    :param shape: ``(C, H, W)`` or ``(D,)``
    :param convs: The convolutions, unused for vectors
    :param features_dim: Output size, and size of the two layers before
    :param activation: Activation after every layer of the encoder except its last
    :return: ``(n, *shape)`` -> ``(n, features_dim)``
    """
    net = encoder(shape, convs, features_dim, activation)
    for _ in range(2):
        net.append(nn.ELU())
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


class SNDTrunk(BaseFeaturesExtractor):
    """
    Trunk of the paper's actor and critic: four convolutions over all frames of the stack, and one linear layer
    without an activation after it (Pecháč et al., arXiv 2302.11563, and the released program).

    :param observation_space: Space of images. SB3 transposes uint8 images to channels first; others may have
        either order
    :param features_dim: Output size
    :param width: Channels of the last convolution: 128 for Atari, 64 for Procgen
    :raises ValueError: if the space does not hold images, or if height or width is below 36 pixels
    """

    def __init__(self, observation_space: gym.Space, features_dim: int = 512, width: int = 128) -> None:
        sizes = {"features_dim": features_dim, "width": width}
        features_dim, width = checked(sizes, dict.fromkeys(sizes, whole(1, WIDEST))).values()
        super().__init__(observation_space, features_dim)
        shape = observation_space.shape
        if shape is None or len(shape) != 3:
            raise ValueError(f"CnnPolicy needs images, not {observation_space}: use MlpPolicy.")
        assert isinstance(observation_space, gym.spaces.Box)
        self.channels_last = not is_image_space_channels_first(observation_space)
        if self.channels_last:
            shape = shape[2], *shape[:2]
        check_frame_size(*shape[1:])
        self.net = encoder(shape, snd_convs(width), features_dim, nn.ReLU)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """
        Compute features.

        :param observations: ``(n, *shape)`` float32 in [0, 1]
        :return: ``(n, features_dim)``
        """
        if self.channels_last:
            observations = observations.permute(0, 3, 1, 2)
        return self.net(observations)
