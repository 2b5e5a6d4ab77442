"""Convolutions in bfloat16 with their activations, in as few passes over memory as a CPU allows.

Knows layers and PyTorch's operators, but no paper's network and no observation.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import takewhile
from typing import Any

import torch as th
from torch import nn

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


Layer = tuple[nn.Conv2d, nn.ReLU | nn.ELU]  # a convolution and the activation after it


@cache
def can_fuse() -> bool:
    """
    Try oneDNN's convolution followed by a ReLU. The operator is private to PyTorch, and not every CPU
    supports it in bfloat16.

    :return: whether it exists and computes the correct result
    """
    frames, weight = th.tensor([[1.0, -3.0], [4.0, -2.0]]).view(4, 1, 1, 1), th.full((1, 1, 1, 1), 2.0)
    try:
        parameters = [weight.bfloat16(), th.ones(1, dtype=th.bfloat16)]
        (maps,) = _maps([(nn.Conv2d(1, 1, 1), nn.ReLU())], frames.bfloat16(), parameters)
    except (AttributeError, NotImplementedError, RuntimeError, TypeError):  # missing, unsupported, or other arguments
        return False
    return maps.flatten().tolist() == [3.0, 0.0, 9.0, 0.0]


def fusible(layers: Sequence[nn.Module]) -> list[Layer]:
    """
    Find the convolutions at the beginning of a net that are followed by a ReLU or an ELU. The search ends at
    a layer with a hook, which would not be called, and at a subclass, which may compute something else.

    :param layers: Layers of the net in their order
    :return: ``n`` convolutions with their activations, which are the first ``2 * n`` layers
    """
    pairs = zip(layers[::2], layers[1::2], strict=False)
    return list(takewhile(_is_fusible, pairs))  # type: ignore[arg-type]


def _is_fusible(pair: Layer) -> bool:
    convolution, activation = pair
    if type(convolution) is not nn.Conv2d or type(activation) not in (nn.ReLU, nn.ELU):
        return False
    zero_padded = convolution.padding_mode == "zeros" and isinstance(convolution.padding, tuple)
    return zero_padded and convolution.bias is not None and not any(getattr(layer, hooks) for layer in pair for hooks in HOOKS)


class Convolutions(th.autograd.Function):
    """
    Several convolutions, each followed by an activation. Outputs and gradients equal those of ``nn.Conv2d``
    and the activation under autocast bit for bit, except that a ReLU turns NaN into 0.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, layers: Sequence[Layer], frames: th.Tensor, *parameters: th.Tensor
    ) -> th.Tensor:
        """
        Compute the last map.

        :param layers: The layers, for their strides and paddings
        :param frames: ``(n, C, H, W)`` bfloat16, channels last
        :param parameters: Weight and bias of each convolution, float32
        :return: ``(n, C', H', W')`` bfloat16, channels last
        """
        reduced = [parameter.bfloat16() for parameter in parameters]
        maps = [frames, *_maps(layers, frames, reduced)]
        ctx.layers = layers
        ctx.save_for_backward(*maps, *reduced[::2])
        return maps[-1]

    @staticmethod
    @th.autograd.function.once_differentiable
    def backward(ctx: Any, grad: th.Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        """
        Compute the gradients.

        :param grad: Gradient of the last map, ``(n, C', H', W')`` bfloat16
        :return: gradients of the arguments of :meth:`forward`
        """
        n_layers = len(ctx.layers)
        maps, weights = ctx.saved_tensors[: n_layers + 1], ctx.saved_tensors[n_layers + 1 :]
        inner = th.empty_like(maps[-1])  # other code may read the given gradient, so it is not overwritten
        # Otherwise an activation's gradient takes ten times as long
        grad = grad.contiguous(memory_format=th.channels_last)
        grads: list[th.Tensor] = []
        for index in reversed(range(n_layers)):
            convolution, activation = ctx.layers[index]
            if isinstance(activation, nn.ReLU):
                th.ops.aten.threshold_backward.grad_input(grad, maps[index + 1], 0, grad_input=inner)
            else:
                constants = activation.alpha, 1, 1, True
                th.ops.aten.elu_backward.grad_input(grad, *constants, maps[index + 1], grad_input=inner)
            wanted = [index > 0 or ctx.needs_input_grad[1], True, True]
            geometry = convolution.stride, convolution.padding, convolution.dilation, False, (0, 0), convolution.groups
            grad, *own = th.ops.aten.convolution_backward(
                inner, maps[index], weights[index], [convolution.out_channels], *geometry, wanted
            )
            grads = [*(each.float() for each in own), *grads]
            inner = grad  # from here on in place, since no other code can read it
        return None, grad, *grads


def _maps(layers: Sequence[Layer], frames: th.Tensor, reduced: Sequence[th.Tensor]) -> Iterator[th.Tensor]:
    """
    Compute the map of each layer.

    :param layers: The layers, for their strides and paddings
    :param frames: ``(n, C, H, W)`` bfloat16, channels last
    :param reduced: Weight and bias of each convolution, bfloat16
    :return: output of each activation
    """
    for (convolution, activation), weight, bias in zip(layers, reduced[::2], reduced[1::2], strict=True):
        geometry = convolution.padding, convolution.stride, convolution.dilation, convolution.groups
        fused = "relu" if isinstance(activation, nn.ReLU) else "none"
        frames = th.ops.mkldnn._convolution_pointwise(frames, weight, bias, *geometry, fused, [], "")
        if isinstance(activation, nn.ELU):
            nn.functional.elu_(frames, activation.alpha)
        yield frames


def convolve(layers: Sequence[Layer], frames: th.Tensor) -> th.Tensor:
    """
    Compute what the layers would compute one by one under autocast. The CPU must support this, see
    :func:`can_fuse`. A ReLU loses a NaN: :func:`poison` finds it.

    :param layers: The layers, see :func:`fusible`
    :param frames: ``(n, C, H, W)`` float32 or bfloat16
    :return: ``(n, C', H', W')`` bfloat16, channels last
    """
    frames = frames.to(th.bfloat16, memory_format=th.channels_last)
    parameters = _parameters(layers)
    if th.is_grad_enabled() and any(tensor.requires_grad for tensor in (frames, *parameters)):
        return Convolutions.apply(layers, frames, *parameters)
    for maps in _maps(layers, frames, [parameter.bfloat16() for parameter in parameters]):
        frames = maps  # frees the map before
    return frames


@th.no_grad()
def poison(layers: Sequence[Layer], frames: th.Tensor) -> th.Tensor:
    """
    Find infinite values and NaN, which oneDNN's ReLU would turn into 0. Adding the result to a net's output
    makes it NaN, as the layers would one by one.

    :param layers: The layers
    :param frames: Input of the layers, ``(n, C, H, W)``. Frames in bfloat16 come from uint8 images and are
        not searched.
    :return: ``(n,)`` float32: NaN if the frame or any weight or bias is not finite, else 0
    """
    weights = th.stack([parameter.sum() for parameter in _parameters(layers)]).sum()
    sums = frames.sum(dim=(1, 2, 3)) if frames.dtype == th.float32 else th.zeros(len(frames))
    return (sums + weights) * 0


def _parameters(layers: Sequence[Layer]) -> list[th.Tensor]:
    return [p for convolution, _ in layers for p in (convolution.weight, convolution.bias) if p is not None]
