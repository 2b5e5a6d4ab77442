"""Number formats: which one a processor is fast in, and nets that compute in it.

Knows devices and layers, but no paper or algorithm.
"""

import itertools
from typing import Any

import torch as th
from torch import nn

from sb3_snd.common.convolutions import can_fuse, convolve, fusible, poison
from sb3_snd.common.validation import one_of, validate

PRECISIONS = ("auto", "bfloat16", "float32")
PRECISION = one_of(*PRECISIONS)


def resolve_precision(precision: str, device: th.device) -> str:
    """
    Choose the number format in which convolutions and the linear layers after them compute. Weights, losses,
    the difference that gives novelty, and optimisers are always float32.

    - ``"auto"``: bfloat16 if the processor multiplies in it (AVX512-BF16, AMX, CUDA from sm_80; no GPU has
      TF32 without it), otherwise float32. Convolutions are in channels-last layout on CPU and CUDA.
    - ``"bfloat16"``: always bfloat16, with the same layout.
    - ``"float32"``: PyTorch's defaults, including the layout.

    Encoders of small grids always compute in float32: they would gain no time.

    :param precision: One of these three
    :param device: Device of the nets
    :return: ``"bfloat16"`` or ``"float32"``
    :raises ValueError: for an unknown format
    """
    validate({"precision": precision}, {"precision": PRECISION})
    if precision != "auto":
        return precision
    if device.type == "cpu":
        fast = th.cpu._is_avx512_bf16_supported() or th.cpu._is_amx_tile_supported()
    else:
        fast = device.type == "cuda" and th.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if fast else "float32"


class Encoder(nn.Sequential):
    """
    Sequence of layers that compute in bfloat16 if :func:`set_precision` has set it. Inputs, outputs and
    weights are float32. A slice of it computes in the same format.
    """

    reducible: bool = True  #: whether it may compute in bfloat16
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
    Set, in place, the number format of all encoders in a module, and the memory layout that processors
    convolve fastest.

    :param module: Module with encoders, which are initialised but not yet trained
    :param precision: Result of :func:`~sb3_snd.common.precision.resolve_precision`
    """
    for net in module.modules():
        if isinstance(net, Encoder):
            device = next(net.parameters()).device.type
            net.reduced = precision == "bfloat16" and net.reducible
            net.fused = net.reduced and device == "cpu" and can_fuse()
            if device in ("cpu", "cuda"):
                net.to(memory_format=th.channels_last)  # type: ignore[call-overload]  # the convolutions' weights


def match_layout(optimizer: th.optim.Optimizer) -> None:
    """
    Copy an optimiser's state to the memory layout of its parameters, in place. Fused optimisers process
    memory in its order, and a loaded state has the layout of the parameters with which it was saved.

    :param optimizer: Optimiser whose state has been loaded
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, th.Tensor) and value.shape == parameter.shape:
                state[name] = th.empty_like(parameter).copy_(value).detach()
