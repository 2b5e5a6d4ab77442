"""Every number of SND's nets and losses against those measured on the authors' released program."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from sb3_snd import SND
from sb3_snd.targets.v import Pairs

pytestmark = pytest.mark.numbers

GOLDEN = Path(__file__).parent / "golden"
EPS = np.finfo(np.float32).eps
RTOL = 1e-4
WIDTHS = {
    "atari": {"vic": {}, "std": {}, "v": {}, "rnd": {}, "bt": {}},
    "procgen": {
        "vic": {"target_width": 64},
        "std": {"target_width": 64, "learner_width": 64},
        "v": {},
        "rnd": {},
        "bt": {"target_width": 64},
    },
}
NAMES = {"vic": "snd_vic", "std": "snd_std", "v": "snd_v", "rnd": "rnd", "bt": "bt"}


def fill_weights(parameters, shapes, seed):
    """The golden files' weights: RandomState(seed * 1000 + i).standard_normal(shape) * scale."""
    parameters = list(parameters)
    assert [list(parameter.shape) for parameter in parameters] == [shape for _, shape in shapes]
    for i, (parameter, (_, shape)) in enumerate(zip(parameters, shapes, strict=True)):
        scale = 1 / np.sqrt(np.prod(shape[1:])) if len(shape) > 1 else 0.05
        weights = np.random.RandomState(seed * 1000 + i).standard_normal(shape) * scale
        parameter.data.copy_(th.as_tensor(weights.astype(np.float32)))


@pytest.fixture(scope="module", params=[(game, target) for game in WIDTHS for target in NAMES], ids="-".join)
def case(request):
    game, target = request.param
    golden = np.load(GOLDEN / f"{game}_{NAMES[target]}.npz")
    space = spaces.Box(0, 255, golden["obs"].shape[1:], np.uint8)
    snd = SND(space, target, eta=1.0, device="cpu", **WIDTHS[game][target])
    params = json.loads(str(golden["params"]))
    fill_weights(snd.target.parameters(), params["target"], params["seed_target"])
    fill_weights(snd.learner.parameters(), params["learner"], params["seed_learner"])
    if target == "rnd":
        frames = th.as_tensor(golden["obs"][:, -golden["obs_mean"].shape[0] :]).float() / 255
        for k in range(3):
            snd.target.update_statistics(frames.roll(k, dims=0) * (1 - k / 10))
    return target, snd, golden


def loss_terms(target, snd, golden):
    draws = {}
    if "uniform" in golden:
        draws["uniform"] = th.as_tensor(golden["uniform"])
    if target == "v":
        draws["pairs"] = Pairs(*(th.as_tensor(golden[key]) for key in ("index_a", "index_b", "far")))
    if target == "bt":  # without augmentation
        draws["views"] = (snd.prepare(golden["obs"]),) * 2
    return snd.loss(snd.transitions(golden["obs"], golden["next_obs"]), **draws)


def test_running_mean(case):
    target, snd, golden = case
    if target == "rnd":
        np.testing.assert_allclose(snd.target.frame_stats.mean, golden["obs_mean"], rtol=RTOL, atol=1e-6)
    else:
        assert "obs_mean" not in golden


def test_features_and_novelty(case):
    _, snd, golden = case
    frames = snd.prepare(golden["obs"])
    with th.no_grad():
        for net, name in ((snd.target, "features_target"), (snd.learner, "features_learner")):
            rounding = 128 * EPS * np.abs(golden[name]).max()  # of a sum of thousands, where it comes out near 0
            np.testing.assert_allclose(net(frames), golden[name], rtol=RTOL, atol=rounding)
    np.testing.assert_allclose(snd.novelty(golden["obs"]), golden["novelty"], rtol=RTOL)
    np.testing.assert_allclose(snd.scale(snd.novelty(golden["obs"])), np.clip(golden["novelty"], 0, 1), rtol=RTOL)


def test_loss_terms(case):
    terms = loss_terms(*case)
    golden = case[-1]
    keys = [key for key in golden.files if key.startswith("loss_")]
    for key in keys:
        name = {"loss_total": "loss"}.get(key, key.removeprefix("loss_"))
        np.testing.assert_allclose(terms[name].item(), golden[key], rtol=RTOL, err_msg=key)
    assert {"loss_total", "loss_distill"} <= set(keys)


def test_gradients(case, monkeypatch):
    """
    In float64: where a ReLU's input is 0 but for rounding, float32 opens it on one processor and closes it on another.
    The golden gradients are rounded to the precision of their net's whole gradient; one of them is pure rounding.
    """
    target, snd, golden = case
    snd = copy.deepcopy(snd).double()
    read = snd.prepare
    monkeypatch.setattr(snd, "prepare", lambda obs: read(obs).double())
    loss_terms(target, snd, golden)["loss"].backward()
    nets = [list(net.parameters()) for net in (snd.target, snd.learner)]
    norms = np.array([golden[key] for key in golden.files if key.startswith("grad_norm_")])
    assert sum(map(len, nets)) == len(norms)
    totals = [np.linalg.norm(part) for part in np.split(norms, [len(nets[0])])]
    totals = np.repeat(totals, [len(net) for net in nets])
    for i, parameter in enumerate(nets[0] + nets[1]):
        grad = th.zeros_like(parameter) if parameter.grad is None else parameter.grad
        norm, head, rounding = norms[i], golden[f"grad_head_{i}"], EPS * totals[i]
        np.testing.assert_allclose(grad.norm().item(), norm, rtol=RTOL, atol=rounding, err_msg=f"norm {i}")
        rounding += RTOL * np.abs(head).max()
        np.testing.assert_allclose(grad.flatten()[: len(head)], head, rtol=RTOL, atol=rounding, err_msg=f"head {i}")
