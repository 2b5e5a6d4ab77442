"""Encoders, learners and the policy's trunk: sized from the observation, orthogonal initialisation.

Knows shapes; the papers that use these layers live in ``targets/`` and ``policies.py``.
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

MLP_WIDTHS = (256, 256)  # hidden layers of an encoder of vectors


class Encoder(nn.Sequential):
    """
    Layers that compute in bfloat16 after :func:`set_precision` has said so. What goes in and comes out is float32, and so are
    the weights. A slice of it computes as the whole does.
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
        :param frames: ``(n, *shape)`` float32, or finite bfloat16 where it computes in it
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
    Choose the number format of all encoders in a module, and the layout that processors convolve fastest, in place.

    :param module: Anything with encoders, initialised already and not trained yet
    :param precision: From :func:`~sb3_snd.hardware.resolve_precision`
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
    Fused optimisers walk memory as it lies, and a loaded state lies as the parameters did that it was saved with.

    :param optimizer: Its state takes the layout of its parameters, in place
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
    :param width: Channels of the last convolution
    :return: the convolutions shared by SND-VIC, SND-STD and the policy's trunk (reference, appendix of the paper)
    """
    return Conv(32, stride=2), Conv(64, stride=2), Conv(64, stride=2), Conv(width)


def encoder(
    shape: tuple[int, ...],
    convs: Sequence[Conv],
    features_dim: int,
    activation: type[nn.Module],
) -> Encoder:
    """
    Convolutions for images, two hidden layers for vectors; then one linear layer without activation.

    :param shape: ``(C, H, W)`` or ``(D,)``
    :param convs: The convolutions, unused for vectors
    :param features_dim: Output size
    :param activation: After every layer but the last; that of a convolution overwrites what it acts on
    :return: ``(n, *shape)`` -> ``(n, features_dim)``
    """
    layers: list[nn.Module] = []
    if len(shape) == 3:
        for (channels, *_), conv in itertools.pairwise((Conv(shape[0]), *convs)):
            layers += [nn.Conv2d(channels, conv.channels, conv.kernel, conv.stride, conv.padding), activation()]
        for layer in layers:
            if hasattr(layer, "inplace"):  # what it acts on is read nowhere else
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
    An encoder with two more linear layers, ELU between them.

    :param shape: ``(C, H, W)`` or ``(D,)``
    :param convs: The convolutions, unused for vectors
    :param features_dim: Output size, and that of the two layers before
    :param activation: After every layer of the encoder's body
    :return: ``(n, *shape)`` -> ``(n, features_dim)``
    """
    net = encoder(shape, convs, features_dim, activation)
    for _ in range(2):
        net.append(nn.ELU())
        net.append(nn.Linear(features_dim, features_dim))
    return net


def orthogonal_(module: nn.Module, gain: float) -> None:
    """
    :param module: Its linear and convolutional layers get orthogonal weights and zero biases, in place
    :param gain: Scale of the weights
    """
    for layer in module.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            nn.init.orthogonal_(layer.weight, gain)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)


class SNDTrunk(BaseFeaturesExtractor):
    """
    Trunk of the paper's actor and critic: four convolutions over all frames of the stack and one linear layer with no
    activation after it (Pecháč et al., arXiv 2302.11563, and the released program).

    :param observation_space: Images; SB3 transposes uint8 ones to channels first, of others either order is read
    :param features_dim: Output size
    :param width: Channels of the last convolution: 128 for Atari, 64 for Procgen
    :raises ValueError: if the space is no image, or a side is below 36 pixels
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
        :param observations: ``(n, *shape)`` float32 in [0, 1]
        :return: ``(n, features_dim)``
        """
        if self.channels_last:
            observations = observations.permute(0, 3, 1, 2)
        return self.net(observations)
