"""Training that is compared where each processor, and each order of a sum, rounds its own way."""

import torch as th

EPS = th.finfo(th.float32).eps


def calm(optimizer):
    """Adam divides by a gradient's size, and so makes whole steps of a gradient that is pure rounding; now it does not."""
    for group in optimizer.param_groups:
        group["eps"] = 1e-3


def copies(net):
    """:return: all parameters as they are now"""
    return [parameter.detach().clone() for parameter in net.parameters()]


def assert_same(before, one, other):
    """
    Two trainings with calm optimisers from the same beginning. What differs is at most a thousandth of each tensor's way
    and rounding: each step rounds a weight to its own precision, and its gradient to that of the whole gradient.
    """
    ways = [(end - start).double().norm() for start, end in zip(before, one, strict=True)]
    whole = th.stack(ways).norm()
    assert whole > 0
    for way, a, b in zip(ways, one, other, strict=True):
        limit = 1e-3 * way + 16 * EPS * (whole + a.double().norm())
        assert (a - b).double().norm() <= limit  # NaN is not
