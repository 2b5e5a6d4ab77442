"""Running statistics, augmentations and the pure losses, against closed forms."""

import math

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.running_mean_std import RunningMeanStd as SB3RunningMeanStd

from sb3_snd.common.running_stats import RunningMeanStd
from sb3_snd.common.type_aliases import Transitions
from sb3_snd.targets.augmentations import add_noise, blur, drop_tiles
from sb3_snd.targets.base import masked_mse
from sb3_snd.targets.bt import BTTarget, barlow_terms
from sb3_snd.targets.std import SpatialInfoNCE, STDTarget, infonce, logit_norm
from sb3_snd.targets.v import contrastive_loss, draw_pairs
from sb3_snd.targets.vic import VICTarget, spread_terms
from sb3_snd.targets.vinv import VINVTarget

pytestmark = pytest.mark.numbers


def test_running_mean_std_is_sb3s():
    rng = np.random.default_rng(0)
    ours, stock = RunningMeanStd((3,)), SB3RunningMeanStd(shape=(3,))
    for n in (1, 8, 5):
        batch = rng.normal(5, 3, (n, 3)).astype(np.float32)
        ours.update(th.as_tensor(batch))
        stock.update(batch)
    np.testing.assert_allclose(ours.mean, stock.mean, rtol=1e-4)
    np.testing.assert_allclose(ours.var, stock.var, rtol=1e-4)
    assert set(ours.state_dict()) == {"mean", "var", "count"}


def test_running_mean_std_of_images_is_sb3s():
    rng = np.random.default_rng(0)
    ours, stock = RunningMeanStd((1, 4, 5)), SB3RunningMeanStd(shape=(1, 4, 5))
    for n in (1, 8, 5):
        batch = rng.normal(5, 3, (n, 1, 4, 5)).astype(np.float32)
        ours.update(th.as_tensor(batch))
        stock.update(batch)
    np.testing.assert_allclose(ours.mean, stock.mean, rtol=1e-4)
    np.testing.assert_allclose(ours.var, stock.var, rtol=1e-4)


def test_a_batch_counts_once():
    stats = RunningMeanStd((1,), count=1.0, count_batches=True)
    stats.update(th.tensor([[3.0], [6.0]]))
    stats.update(th.tensor([[9.0]] * 7))
    assert stats.mean.item() == pytest.approx((0 + 4.5 + 9) / 3)


def test_normalize_by_hand():
    stats = RunningMeanStd((2,))
    stats.mean.copy_(th.tensor([1.0, 2.0]))
    stats.var.copy_(th.tensor([4.0, 9.0]))
    out = stats.normalize(th.tensor([[3.0, -1.0], [101.0, -100.0]]), clip=5)
    np.testing.assert_allclose(out, [[1, -1], [5, -5]], rtol=1e-5)


def test_dropped_tiles():
    th.manual_seed(0)
    sizes, share, changed = set(), [], []
    for _ in range(40):
        frames = th.ones(64, 3, 96, 96)
        out = drop_tiles(frames)
        assert set(out.unique().tolist()) <= {0.0, 1.0}
        assert th.equal(out[:, 0], out[:, 2])  # all channels of a tile
        changed.append((out == 0).any(dim=(1, 2, 3)).float().mean())
        share.append(1 - out.mean())
        # the smallest run of zeros is the size of the tile, as a neighbour is seldom dropped too
        runs = out[:, 0, 0] == 0
        edges = th.diff(runs.int(), dim=1)
        starts, ends = (edges == 1).nonzero(), (edges == -1).nonzero()
        by_row = {int(r): int(c) for r, c in starts}
        lengths = [int(c) - by_row[int(r)] for r, c in ends if int(r) in by_row and int(c) > by_row[int(r)]]
        sizes.add(min(lengths, default=0))
    assert {1, 2, 4, 8, 12, 16} <= sizes
    assert np.mean(share) == pytest.approx(0.05, abs=0.01)  # 10 % of the tiles of half the samples
    assert np.mean(changed) == pytest.approx(0.5, abs=0.06)


def test_tile_sizes_divide_the_frame():
    th.manual_seed(0)
    for _ in range(20):
        assert drop_tiles(th.ones(2, 1, 37, 41)).shape == (2, 1, 37, 41)
        assert drop_tiles(th.ones(2, 5)).shape == (2, 5)


def test_noise():
    th.manual_seed(0)
    out = add_noise(th.zeros(4000, 10))
    touched = (out != 0).all(dim=1)
    assert th.equal(touched, (out != 0).any(dim=1))  # whole samples
    assert touched.float().mean().item() == pytest.approx(0.5, abs=0.03)
    noise = out[touched]
    assert 0.19 < noise.max() <= 0.2 and -0.2 <= noise.min() < -0.19
    assert noise.std().item() == pytest.approx(0.2 / math.sqrt(3), rel=0.02)


def test_blur_by_hand():
    """Five columns have the averages 1.5, 3.5 and 5. The centres of the columns lie at -0.2, 0.4, 1, 1.6 and 2.2 of these."""
    row = th.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    expected = th.tensor([1.5, 2.3, 3.5, 4.4, 5.0])
    frames = row.expand(2, 1, 4, 5)
    np.testing.assert_allclose(blur(frames), expected.expand(2, 1, 4, 5), rtol=1e-5)
    even = th.tensor([0.0, 0.0, 4.0, 4.0]).expand(1, 3, 4, 4)
    np.testing.assert_allclose(blur(even), th.tensor([0.0, 1.0, 3.0, 4.0]).expand(1, 3, 4, 4), rtol=1e-6)


def test_views_of_barlow_twins():
    """Noise of deviation 0.1; in images the average of four pixels has half of it. Grids and vectors are not blurred."""
    th.manual_seed(0)
    for shape, corner in [((1, 36, 36), 0.05), ((1, 7, 7), 0.1), ((5,), 0.1)]:
        target, frames = BTTarget(shape, features_dim=2, target_width=1, learner_width=1), th.zeros(3000, *shape)
        views = target.augment(frames)
        assert views.shape == frames.shape and not th.equal(views, target.augment(frames))
        first = views.flatten(1)[:, 0]
        assert first.mean().item() == pytest.approx(0.0, abs=4 * corner / 3000**0.5)
        assert first.std().item() == pytest.approx(corner, rel=0.06)


def test_barlow_terms_by_hand():
    z_a, z_b = th.tensor([[1.0, 2.0], [3.0, 0.0]]), th.tensor([[1.0, 1.0], [1.0, 0.0]])
    invariance, redundancy = barlow_terms(z_a, z_b)  # second moments ((2, 0.5), (1, 1))
    assert invariance.item() == pytest.approx(1.0)
    assert redundancy.item() == pytest.approx(0.5**2 + 1)


def test_vic_penalises_the_mean_only_if_asked():
    """Adding c to all features changes no term of VICReg. The squared mean grows from m² to (m + c)²."""
    th.manual_seed(0)
    frames = th.randn(9, 5, dtype=th.double)
    batch = Transitions(frames, th.arange(1, 9), 8, frames.__getitem__)
    target = VICTarget((5,), features_dim=4, mean_coef=0.5).double()
    learner, shift = target.make_learner().double(), th.tensor([3.0, 0.0, -2.0, 0.0], dtype=th.double)
    means = target(batch.states).detach().numpy().mean(axis=0)
    before = target.loss(batch, learner)
    with th.no_grad():
        target.encoder[-1].bias += shift
    after = target.loss(batch, learner)
    for name in ("invariance", "variance", "covariance"):
        assert after[name].item() == pytest.approx(before[name].item(), abs=1e-12)
    for terms, expected in [(before, (means**2).mean()), (after, ((means + shift.numpy()) ** 2).mean())]:
        assert terms["mean"].item() == pytest.approx(expected)
        vicreg = terms["invariance"] + terms["variance"] + terms["covariance"] / 25
        assert terms["target"].item() == pytest.approx(vicreg.item() + 0.5 * expected)
        assert terms["loss"].item() == pytest.approx((terms["distill"] + terms["target"]).item())
    target.mean_coef = 0.0
    terms = target.loss(batch, learner)
    assert "mean" not in terms and terms["target"].item() == pytest.approx(vicreg.item())


def test_vinv_is_vic_and_an_inverse_model():
    """Its loss beside SND-VIC's of the same nets, and the cross-entropy by numpy. All gradients reach the target."""
    th.manual_seed(0)
    vinv, vic = VINVTarget((5,), spaces.Discrete(3), features_dim=4).double(), VICTarget((5,), features_dim=4).double()
    vic.encoder.load_state_dict(vinv.encoder.state_dict())
    learner = vinv.make_learner().double()
    frames, actions = th.randn(9, 5, dtype=th.double), th.tensor([0, 1, 2, 2, 1, 0, 1, 1])
    batch = Transitions(frames, th.arange(1, 9), 8, frames.__getitem__, actions)
    terms, expected = vinv.loss(batch, learner), vic.loss(batch, learner)
    pairs = th.cat([*batch.split(vinv(frames))], dim=1).detach().numpy()
    for layer in (vinv.inverse[0], vinv.inverse[2], vinv.inverse[4]):
        weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
        hidden = pairs @ weight.T + bias
        pairs = np.maximum(hidden, 0)
    inverse = np.mean(np.log(np.exp(hidden).sum(axis=1)) - hidden[np.arange(8), actions])
    assert terms["inverse"].item() == pytest.approx(inverse)
    assert terms["target"].item() == pytest.approx(expected["target"].item() + 0.5 * inverse)
    assert terms["loss"].item() == pytest.approx(expected["loss"].item() + 0.5 * inverse)
    assert terms["distill"].item() == pytest.approx(expected["distill"].item())
    (gradient,) = th.autograd.grad(terms["inverse"], vinv.encoder[0].weight)
    assert gradient.abs().max() > 0
    assert [layer.out_features for layer in vinv.inverse if isinstance(layer, th.nn.Linear)] == [4, 2, 3]


def test_pairs():
    th.manual_seed(0)
    pairs = draw_pairs(8000, 1000, th.device("cpu"))
    same = pairs.first == pairs.second
    assert same[pairs.far == 0].all()
    assert same[pairs.far == 1].float().mean() < 0.01
    assert pairs.far.mean().item() == pytest.approx(0.5, abs=0.02)
    assert pairs.second.min() >= 0 and pairs.second.max() <= 999


def test_contrastive_loss_by_hand():
    z_a, z_b = th.tensor([[1.0, 1.0], [0.0, 2.0]]), th.tensor([[1.0, 1.0], [0.0, 0.0]])
    # distances 0 and 2; labels 1 and 0
    assert contrastive_loss(z_a, z_b, th.tensor([1.0, 0.0])).item() == pytest.approx((1 + 4) / 2)
    # mean squares 150 and 100: 50 above the limit
    z = th.full((1, 3), math.sqrt(150.0)), th.full((1, 3), 10.0)
    distance = (math.sqrt(150.0) - 10) ** 2
    assert contrastive_loss(*z, th.tensor([0.0])).item() == pytest.approx(distance**2 + 50, rel=1e-5)


def test_variance_and_covariance_by_hand():
    features = th.tensor([[0.0, 0.0], [0.5, 0.1]])  # variances 0.125 and 0.005
    expected = (2 - math.sqrt(0.1251) - math.sqrt(0.0051)) / 2
    variance, covariance = spread_terms(features)
    assert variance.item() == pytest.approx(expected, rel=1e-5)
    # covariance 0.025, on both sides of the diagonal, over D = 2
    assert covariance.item() == pytest.approx(2 * 0.025**2 / 2, rel=1e-5)


def test_infonce_softmax_runs_over_the_second_axis():
    logits = th.tensor([[[1.0, 3.0], [0.0, 2.0]]])  # one position; columns (1, 0) and (3, 2)
    expected = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(1))) / 2
    assert infonce(logits).item() == pytest.approx(expected, rel=1e-5)


def test_masked_mse_by_hand():
    prediction, features = th.tensor([[1.0, 2.0]]), th.tensor([[0.0, 5.0]])
    assert masked_mse(prediction, features, th.tensor([[False, True]])).item() == 9.0
    assert masked_mse(prediction, features, th.zeros(1, 2, dtype=th.bool)).item() == 0.0


@pytest.mark.parametrize("block", [1, 3, 5])
def test_contrast_in_blocks_and_at_once(monkeypatch, block):
    """Five positions, of which ``block`` are computed at a time: both sums, and a gradient of both together."""
    monkeypatch.setattr("sb3_snd.targets.std.CACHED_LOGITS", block * 2 * 4**2)
    generator = th.Generator().manual_seed(0)
    first, second, columns = inputs = [th.randn(5, 4, 3, generator=generator, requires_grad=True) for _ in range(3)]
    logits = [anchors @ columns.transpose(1, 2) for anchors in (first, second)]
    plain = sum(map(infonce, logits)), sum(each.norm(dim=(1, 2)).mean() for each in logits)
    ours = STDTarget((3,)).contrast((first, second), columns)
    for got, expected in zip(ours, plain, strict=True):
        assert got.item() == pytest.approx(expected.item(), rel=1e-5)
    gradients = (th.autograd.grad(3 * nce + 0.5 * norm, inputs) for nce, norm in (ours, plain))
    for got, expected in zip(*gradients, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)


def test_contrast_at_once_where_logits_are_0():
    anchors, columns = th.zeros(1, 4, 3, requires_grad=True), th.ones(1, 4, 3)
    (zero,) = th.autograd.grad(STDTarget((3,)).contrast((anchors, anchors), columns)[1], anchors)
    assert not zero.any()  # and not infinite


@pytest.mark.parametrize("block", [1, 3, 100])
def test_infonce_in_blocks_is_infonce(monkeypatch, block):
    """Value and gradients of both sets of logits, at 5 positions of which ``block`` are computed at a time."""
    monkeypatch.setattr("sb3_snd.targets.std.CACHED_LOGITS", block * 2 * 4**2)
    generator = th.Generator().manual_seed(0)
    first, second, columns = (th.randn(5, 4, 3, generator=generator, requires_grad=True) for _ in range(3))
    plain = infonce(first @ columns.transpose(1, 2)) + infonce(second @ columns.transpose(1, 2))
    blocks = SpatialInfoNCE.apply(th.cat([first, second], dim=1), columns)
    assert blocks.item() == pytest.approx(plain.item(), rel=1e-5)
    for expected, got in zip(
        th.autograd.grad(plain, (first, second, columns)), th.autograd.grad(3 * blocks, (first, second, columns)), strict=True
    ):
        np.testing.assert_allclose(got, 3 * expected, rtol=1e-4, atol=1e-6)


def test_logit_norm_is_that_of_the_logits():
    generator = th.Generator().manual_seed(0)
    anchors, columns = (th.randn(5, 4, 3, generator=generator, requires_grad=True) for _ in range(2))
    plain = (anchors @ columns.transpose(1, 2)).norm(dim=(1, 2)).mean()
    assert logit_norm(anchors, columns).item() == pytest.approx(plain.item(), rel=1e-5)
    for expected, got in zip(
        *(th.autograd.grad(value, (anchors, columns)) for value in (plain, logit_norm(anchors, columns))), strict=True
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)
    (zero,) = th.autograd.grad(logit_norm(anchors * 0, columns), anchors)
    assert not zero.any()  # and not infinite
