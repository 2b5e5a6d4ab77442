"""Conformance test for custom target models. It checks what training relies on, with one message for each
point.

Knows the interface of ``Target``, but not the models behind it.
"""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from torch import nn

from sb3_snd.common.type_aliases import Transitions
from sb3_snd.targets.base import Target

BATCH = 8
STEPS = 2
FRAME_SHAPES = ((1, 36, 40), (5,))  # one image and one vector


def check_target(
    target_class: type[Target],
    frame_shapes: Sequence[tuple[int, ...]] = FRAME_SHAPES,
    action_space: spaces.Space | None = None,
    **target_kwargs: Any,
) -> None:
    """
    Test a target model as training would use it.

    - Shapes are right, and the loss has all its terms.
    - Gradients do not cross between target and learner.
    - Training stays finite, even on constant input.
    - The ``state_dict`` holds everything.

    :param target_class: The class to check
    :param frame_shapes: Shapes of the frames to test, ``(C, H, W)`` or ``(D,)``; omit those that the class
        does not support
    :param action_space: Space of the actions, for targets that read them; three discrete actions by default
    :param target_kwargs: Further arguments of the class
    :raises TypeError: if it is not a subclass of ``Target``
    :raises ValueError: at the first point that fails, with a sentence that names it
    """
    if not (isinstance(target_class, type) and issubclass(target_class, Target)):
        raise TypeError(f"{target_class!r} is not a subclass of sb3_snd.targets.Target.")
    actions = None
    if target_class.reads_actions:
        space = copy.deepcopy(action_space or spaces.Discrete(3))
        space.seed(0)
        actions = th.as_tensor(np.stack([space.sample() for _ in range(BATCH)]))
        target_kwargs = {"action_space": space, **target_kwargs}
    with th.random.fork_rng(devices=[]):
        for shape in frame_shapes:
            th.manual_seed(0)
            target = target_class(shape, **target_kwargs)
            learner = target.make_learner()
            _check_shapes(target, learner)
            _check_loss(target, learner, actions)
            _check_isolation(target, learner, actions)
            _check_training(target, learner, actions)
            other = target_class(shape, **target_kwargs)
            other_learner = other.make_learner()
            other_learner.load_state_dict(learner.state_dict())
            _check_state(target, other, learner, other_learner, actions)


def _require(holds: Any, target: Target, sentence: str) -> None:
    if not holds:
        raise ValueError(f"{type(target).__name__} with frames of shape {target.frame_shape}: {sentence}.")


def _transitions(target: Target, frames: th.Tensor, actions: th.Tensor | None) -> Transitions:
    """Return a minibatch of all frames except the last, each followed by the next one."""
    frames = target.preprocess(frames)
    n = len(frames) - 1
    return Transitions(frames, th.arange(1, n + 1), n, frames[:n].__getitem__, actions)


def _random(target: Target, n: int = BATCH + 1) -> th.Tensor:
    return th.rand(n, *target.frame_shape)


def _check_shapes(target: Target, learner: nn.Module) -> None:
    frames = _random(target, 4)
    target.update_statistics(frames)
    seen = target.preprocess(frames)
    _require(seen.shape == frames.shape, target, f"preprocess made {tuple(seen.shape)} of {tuple(frames.shape)}")
    for name, net in (("forward", target), ("the learner", learner)):
        shape = tuple(net(seen).shape)
        _require(
            shape == (4, target.features_dim),
            target,
            f"{name} gave {shape}, not (n, features_dim) = (4, {target.features_dim})",
        )
    novelty = target.novelty(learner(seen), target(seen))
    _require(novelty.shape == (4,), target, f"novelty gave {tuple(novelty.shape)}, not (n,) = (4,)")
    _require(th.isfinite(novelty).all() and (novelty >= 0).all(), target, "novelty must be finite and >= 0 everywhere")
    in_parts = th.cat([target.novelty(learner(part), target(part)) for part in seen.split(2)])
    _require(
        th.allclose(novelty, in_parts, rtol=1e-3, atol=1e-5),
        target,
        "the novelty of a frame depends on the other frames of its batch",
    )


def _check_loss(target: Target, learner: nn.Module, actions: th.Tensor | None) -> None:
    terms = target.loss(_transitions(target, _random(target), actions), learner)
    missing = sorted({"loss", "distill", "features"} - set(terms))
    _require(not missing, target, f"loss gave no {missing and missing[0]!r}")
    shape = tuple(terms["features"].shape)
    _require(
        shape == (BATCH, target.features_dim), target, f"the loss's 'features' are {shape}, not {(BATCH, target.features_dim)}"
    )
    for name, term in terms.items():
        if name != "features":
            _require(isinstance(term, th.Tensor) and term.ndim == 0, target, f"the loss's term {name!r} is not a scalar")
            _require(th.isfinite(term), target, f"the loss's term {name!r} is not finite")
    _require(terms["loss"].requires_grad, target, "'loss' has no gradient")


def _gradients(net: nn.Module, term: th.Tensor) -> bool:
    """Return whether a term has a non-zero gradient in any parameter of a net."""
    parameters = [parameter for parameter in net.parameters() if parameter.requires_grad]
    if not (term.requires_grad and parameters):
        return False
    gradients = th.autograd.grad(term, parameters, retain_graph=True, allow_unused=True)
    return any(gradient is not None and bool(gradient.any()) for gradient in gradients)


def _check_isolation(target: Target, learner: nn.Module, actions: th.Tensor | None) -> None:
    terms = target.loss(_transitions(target, _random(target), actions), learner)
    _require(_gradients(learner, terms["distill"]), target, "'distill' does not train the learner")
    _require(_gradients(learner, terms["loss"]), target, "'loss', which is minimised, does not train the learner")
    _require(not _gradients(target, terms["distill"]), target, "'distill' reaches the target's weights: detach its features")
    if "target" in terms:
        _require(_gradients(target, terms["target"]), target, "'target' does not train the target")
        _require(not _gradients(learner, terms["target"]), target, "'target' reaches the learner's weights")


def _check_training(target: Target, learner: nn.Module, actions: th.Tensor | None) -> None:
    """
    Run a few updates on random and on constant frames, which a loss that divides by their spread would not
    survive.
    """
    parameters = [*target.parameters(), *learner.parameters()]
    parameters = [parameter for parameter in parameters if parameter.requires_grad]
    optimizer = th.optim.Adam(parameters, lr=1e-4)
    inputs = {
        "random": _random(target),
        "constant": th.full((BATCH + 1, *target.frame_shape), 0.5),
        "all zero": th.zeros(BATCH + 1, *target.frame_shape),
    }
    for name, frames in inputs.items():
        for _ in range(STEPS):
            target.update_statistics(frames)
            loss = target.loss(_transitions(target, frames, actions), learner)["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        finite = all(bool(th.isfinite(parameter).all()) for parameter in parameters)
        _require(finite, target, f"training on {name} frames gave weights that are not finite")


def _check_state(
    target: Target,
    other: Target,
    learner: nn.Module,
    other_learner: nn.Module,
    actions: th.Tensor | None,
) -> None:
    other.load_state_dict(target.state_dict())
    frames = _random(target)
    values = []
    for net, predictor in ((target, learner), (other, other_learner)):
        seen = net.preprocess(frames)
        th.manual_seed(1)
        with th.no_grad():
            loss = net.loss(_transitions(net, frames, actions), predictor)["loss"]
            values.append((net.novelty(predictor(seen), net(seen)), loss))
    for name, before, after in zip(("novelty", "the loss"), *values, strict=True):
        _require(th.equal(before, after), target, f"{name} differs after a round trip through state_dict")
