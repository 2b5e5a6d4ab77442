"""Convolutions in bfloat16 with their ReLUs in the same pass over memory, on CPUs.

Knows layers and PyTorch's operators; no network of a paper, no observation.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import takewhile
from typing import Any

import torch as th
from torch import nn

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@cache
def can_fuse() -> bool:
    """
    Try oneDNN's convolution with a ReLU behind it. The operator is private to PyTorch, and not every CPU has it in bfloat16.

    :return: whether it is there and computes what it should
    """
    frames, weight = th.tensor([[1.0, -3.0], [4.0, -2.0]]).view(4, 1, 1, 1), th.full((1, 1, 1, 1), 2.0)
    layer = nn.Conv2d(1, 1, 1)
    try:
        (maps,) = _maps([layer], frames.bfloat16(), [weight.bfloat16(), th.ones(1, dtype=th.bfloat16)])
    except (AttributeError, NotImplementedError, RuntimeError, TypeError):  # missing, refused, or with other arguments
        return False
    return maps.flatten().tolist() == [3.0, 0.0, 9.0, 0.0]


def fusible(layers: Sequence[nn.Module]) -> list[nn.Conv2d]:
    """
    Find the convolutions at the beginning of a net that have a ReLU behind them. One with a hook, which would not be called,
    ends the search, and so does a subclass, which may compute something else.

    :param layers: Layers of the net in their order
    :return: the convolutions; with their ReLUs they are the first ``2 * n`` layers
    """
    pairs = zip(layers[::2], layers[1::2], strict=False)
    return [convolution for convolution, _ in takewhile(_are_fusible, pairs)]  # type: ignore[misc]


def _are_fusible(pair: tuple[nn.Module, nn.Module]) -> bool:
    convolution, activation = pair
    if type(convolution) is not nn.Conv2d or type(activation) is not nn.ReLU:
        return False
    plain = convolution.padding_mode == "zeros" and isinstance(convolution.padding, tuple) and convolution.bias is not None
    return plain and not any(getattr(layer, hooks) for layer in pair for hooks in HOOKS)


class ConvReLUs(th.autograd.Function):
    """
    Several convolutions with a ReLU behind each. Outputs and gradients are bit for bit those of ``nn.Conv2d`` and ``nn.ReLU``
    under autocast, except that NaN becomes 0.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, layers: Sequence[nn.Conv2d], frames: th.Tensor, *parameters: th.Tensor
    ) -> th.Tensor:
        """
        :param layers: The convolutions, for their strides and paddings
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
        :param grad: Gradient of the last map, ``(n, C', H', W')`` bfloat16
        :return: gradients of the arguments of :meth:`forward`
        """
        n_layers = len(ctx.layers)
        maps, weights = ctx.saved_tensors[: n_layers + 1], ctx.saved_tensors[n_layers + 1 :]
        masked = th.empty_like(maps[-1])  # somebody else may read the gradient that was given
        grads: list[th.Tensor] = []
        for index in reversed(range(n_layers)):
            layer = ctx.layers[index]
            th.ops.aten.threshold_backward.grad_input(grad, maps[index + 1], 0, grad_input=masked)
            wanted = [index > 0 or ctx.needs_input_grad[1], True, True]
            geometry = layer.stride, layer.padding, layer.dilation, False, (0, 0), layer.groups
            grad, *own = th.ops.aten.convolution_backward(
                masked, maps[index], weights[index], [layer.out_channels], *geometry, wanted
            )
            grads = [*(each.float() for each in own), *grads]
            masked = grad  # in place from here on: nobody else has it
        return None, grad, *grads


def _maps(layers: Sequence[nn.Conv2d], frames: th.Tensor, reduced: Sequence[th.Tensor]) -> Iterator[th.Tensor]:
    """
    :param layers: The convolutions, for their strides and paddings
    :param frames: ``(n, C, H, W)`` bfloat16, channels last
    :param reduced: Weight and bias of each convolution, bfloat16
    :return: what the ReLU behind each of them gives
    """
    for layer, weight, bias in zip(layers, reduced[::2], reduced[1::2], strict=True):
        geometry = layer.padding, layer.stride, layer.dilation, layer.groups
        frames = th.ops.mkldnn._convolution_pointwise(frames, weight, bias, *geometry, "relu", [], "")
        yield frames


def convolve(layers: Sequence[nn.Conv2d], frames: th.Tensor) -> th.Tensor:
    """
    Compute what ``nn.Sequential(conv, nn.ReLU(), conv, nn.ReLU(), ...)`` does under autocast, on a CPU that can do so, see
    :func:`can_fuse`. A NaN is lost: :func:`poison` finds it.

    :param layers: The convolutions, see :func:`fusible`
    :param frames: ``(n, C, H, W)`` float32 or bfloat16
    :return: ``(n, C', H', W')`` bfloat16, channels last
    """
    frames = frames.to(th.bfloat16, memory_format=th.channels_last)
    parameters = _parameters(layers)
    if th.is_grad_enabled() and any(tensor.requires_grad for tensor in (frames, *parameters)):
        return ConvReLUs.apply(layers, frames, *parameters)
    for maps in _maps(layers, frames, [parameter.bfloat16() for parameter in parameters]):
        frames = maps  # the one before is free now
    return frames


@th.no_grad()
def poison(layers: Sequence[nn.Conv2d], frames: th.Tensor) -> th.Tensor:
    """
    Find numbers that are infinite or NaN, which oneDNN's ReLU would turn into 0. Adding the result to what comes out of a net
    makes NaN of it, as the layers one by one do.

    :param layers: The convolutions
    :param frames: What goes into them, ``(n, C, H, W)``; bfloat16 frames, which are made from uint8 images, are not searched
    :return: ``(n,)`` float32: NaN where the frame or any weight or bias is not finite, else 0
    """
    weights = th.stack([parameter.sum() for parameter in _parameters(layers)]).sum()
    sums = frames.sum(dim=(1, 2, 3)) if frames.dtype == th.float32 else th.zeros(len(frames))
    return (sums + weights) * 0


def _parameters(layers: Sequence[nn.Conv2d]) -> list[th.Tensor]:
    return [parameter for layer in layers for parameter in (layer.weight, layer.bias) if parameter is not None]
