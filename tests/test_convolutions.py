"""Convolutions with their activations: the numbers of the layers one by one, and NaN is still seen."""

import math
import os

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from torch import nn

from sb3_snd import SND
from sb3_snd.common import convolutions
from sb3_snd.common.check_nan import NonFiniteError
from sb3_snd.common.precision import Encoder, set_precision
from sb3_snd.common.torch_layers import encoder, snd_convs
from sb3_snd.targets import TARGETS

SHAPE = (3, 36, 36)
FLOATS = spaces.Box(0.0, 1.0, SHAPE, np.float32)
ROUNDING = 2.0**-7  # of one bfloat16 number


def make(fused, activation=nn.ReLU):
    th.manual_seed(0)
    net = encoder(SHAPE, snd_convs(8), 16, activation)
    set_precision(net, "bfloat16")
    if not fused:
        net.fused = False
    return net


def gradients(net, frames):
    net.zero_grad()
    features = net(frames)
    (features * th.linspace(-1, 1, features.numel()).view_as(features)).sum().backward()
    return features.detach(), [parameter.grad for parameter in net.parameters()]


def near(actual, expected):
    """Relative to the largest number, as a sum of many rounded numbers is not exact relative to itself."""
    return (actual - expected).abs().max() <= 4 * ROUNDING * expected.abs().max()


@pytest.mark.numbers
@pytest.mark.parametrize("activation", (nn.ReLU, nn.ELU))
def test_values_and_gradients_are_those_of_the_layers_one_by_one(activation):
    frames = th.rand(5, *SHAPE, requires_grad=True)
    (values, grads), (expected, expected_grads) = (gradients(make(fused, activation), frames) for fused in (True, False))
    frames_grad = frames.grad.clone()
    frames.grad = None
    gradients(make(False, activation), frames)
    assert near(frames_grad, 2 * frames.grad)  # of both calls above
    assert near(values, expected) and expected.abs().max() > 0
    for grad, other in zip(grads, expected_grads, strict=True):
        assert grad.dtype == th.float32 and near(grad, other) and other.abs().max() > 0
    with th.no_grad():
        assert near(make(True, activation)(frames), expected)


@pytest.mark.numbers
def test_a_slice_gives_the_map_and_the_rest_takes_it():
    net, frames = make(True), th.rand(2, *SHAPE)
    maps = net[:6](frames)
    assert maps.shape == (2, 64, 5, 5) and maps.dtype == th.float32 and (maps >= 0).all()
    assert near(net[6:](maps).detach(), net(frames).detach())


@pytest.mark.parametrize(
    "activation, outputs, slopes",
    [
        (nn.ReLU(), [3, 0, 1, 0], [1, 0, 1, 0]),
        (nn.ELU(), [3, math.expm1(-5), 1, 0], [1, math.exp(-5), 1, 1]),
        (nn.ELU(alpha=2.0), [3, 2 * math.expm1(-5), 1, 0], [1, 2 * math.exp(-5), 1, 2]),
    ],
)
def test_by_hand(activation, outputs, slopes):
    """One weight of 2 and a bias of 1: the activation of 2 x + 1, and its slope times 2."""
    net = Encoder(nn.Conv2d(1, 1, 1), activation)
    with th.no_grad():
        net[0].weight.fill_(2), net[0].bias.fill_(1)
    set_precision(net, "bfloat16")
    frames = th.tensor([1.0, -3.0, 0.0, -0.5]).view(1, 1, 2, 2).requires_grad_()
    maps = net(frames)
    maps.sum().backward()
    rounding = dict(rel=ROUNDING, abs=ROUNDING)  # the slope of an ELU is taken from its rounded output
    assert maps.flatten().tolist() == pytest.approx(outputs, **rounding)
    assert frames.grad.flatten().tolist() == pytest.approx([2 * slope for slope in slopes], **rounding)
    weight_grad = sum(slope * x for slope, x in zip(slopes, (1, -3, 0, -0.5), strict=True))
    assert net[0].weight.grad.item() == pytest.approx(weight_grad, **rounding)
    assert net[0].bias.grad.item() == pytest.approx(sum(slopes), rel=2 * ROUNDING)


def test_the_gradient_that_is_given_is_not_written_to_and_the_graph_can_be_kept():
    net = make(True)
    given = th.ones(2, 8, 5, 5, dtype=th.bfloat16).to(memory_format=th.channels_last)
    layers = convolutions.fusible([*net])
    convs = [convolution for convolution, _ in layers]
    maps = convolutions.convolve(layers, th.rand(2, *SHAPE)) if net.fused else net[:8](th.rand(2, *SHAPE)).bfloat16()
    maps.backward(given, retain_graph=True)
    once = [conv.weight.grad.clone() for conv in convs]
    maps.backward(given)
    assert (given == 1).all()
    assert all(near(conv.weight.grad, 2 * grad) for conv, grad in zip(convs, once, strict=True))


@pytest.mark.parametrize("fused", (True, False))
@pytest.mark.parametrize("value", (np.nan, -np.nan, np.inf))
def test_what_is_not_finite_does_not_vanish_in_a_relu(fused, value):
    for layer in (0, 2, 6):
        for name in ("weight", "bias"):
            net = make(fused)
            with th.no_grad():
                getattr(net[layer], name)[0] = value
                features = net(th.rand(2, *SHAPE))
            assert not features.isfinite().all(), (layer, name)
    frames = th.rand(3, *SHAPE)
    frames[1, 2, 4, 5] = value
    features = make(fused)(frames)
    assert [bool(row.isfinite().all()) for row in features] == [True, False, True]


@pytest.mark.parametrize("fused", (True, False))
@pytest.mark.parametrize("target", TARGETS)
def test_a_target_sees_it_too(target, fused):
    snd = SND(FLOATS, target, device="cpu", precision="bfloat16", action_space=spaces.Discrete(2))
    for net in snd.modules():
        if isinstance(net, Encoder) and not fused:
            net.fused = False
    frames = np.random.default_rng(0).random((4, *SHAPE), np.float32)
    broken = frames.copy()
    broken[2, 0, 3, 3] = np.nan
    assert snd.novelty(broken).isnan().tolist() == [False, False, True, False]
    with th.no_grad():
        snd.learner[0].weight[0] = np.nan
    with pytest.raises(NonFiniteError):
        snd.trainer.train_on_batch(snd.transitions(frames, frames, th.zeros(4, dtype=th.long)))


def test_where_it_is_used():
    net = make(True)
    widths = [(convolution.in_channels, convolution.out_channels) for convolution, _ in convolutions.fusible([*net])]
    assert widths == [(3, 32), (32, 64), (64, 64), (64, 8)]
    assert net[:6].fused == net.fused and not SND(FLOATS, device="cpu").target.encoder.fused
    set_precision(net, "float32")
    assert not net.fused
    # oneDNN does without bfloat16 where it is told so
    assert convolutions.can_fuse() or "ONEDNN_MAX_CPU_ISA" in os.environ or not th.cpu._is_avx512_bf16_supported()


@pytest.mark.parametrize(
    "layers, n_convs",
    [
        ([nn.Conv2d(1, 1, 1), nn.ELU(0.5), nn.Conv2d(1, 1, 1), nn.Tanh()], 1),
        ([nn.Conv2d(1, 1, 1), nn.ReLU(), nn.Flatten()], 1),
        ([nn.Conv2d(1, 1, 1, bias=False), nn.ReLU()], 0),
        ([nn.Conv2d(1, 1, 1, padding="same"), nn.ReLU()], 0),
        ([nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"), nn.ReLU()], 0),
        ([type("Own", (nn.Conv2d,), {})(1, 1, 1), nn.ReLU()], 0),
        ([nn.Conv2d(1, 1, 1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(1, 1, 1), nn.ReLU()], 1),
        ([nn.Linear(1, 1), nn.ReLU()], 0),
        ([nn.Conv2d(1, 1, 1)], 0),
        ([], 0),
    ],
)
def test_what_can_be_fused(layers, n_convs):
    assert convolutions.fusible(layers) == list(zip(layers[::2], layers[1::2], strict=False))[:n_convs]


def test_hooks_are_called():
    net, seen = make(True), []
    net[3].register_forward_hook(lambda *call: seen.append(call[2].shape[1]))
    net[4].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].dtype))
    net(th.rand(1, *SHAPE))
    assert seen == [64, th.bfloat16]


@pytest.mark.parametrize("error", (AttributeError, RuntimeError, TypeError))
def test_without_the_operator(monkeypatch, error):
    def missing(*_):
        raise error("no such operator")

    monkeypatch.setattr(convolutions, "_maps", missing)
    convolutions.can_fuse.cache_clear()
    try:
        net = make(True)
        assert not net.fused and net.reduced
        snd = SND(FLOATS, device="cpu", precision="bfloat16")
        frames = np.random.default_rng(0).random((4, *SHAPE), np.float32)
        assert np.isfinite(snd.trainer.train_on_batch(snd.transitions(frames, frames, th.zeros(4, dtype=th.long)))["loss"])
    finally:
        monkeypatch.undo()
        convolutions.can_fuse.cache_clear()


def test_an_operator_that_computes_something_else_is_not_used(monkeypatch):
    monkeypatch.setattr(convolutions, "_maps", lambda _layers, frames, _reduced: [frames])
    convolutions.can_fuse.cache_clear()
    assert not convolutions.can_fuse()
    convolutions.can_fuse.cache_clear()
