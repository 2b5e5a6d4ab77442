"""Spectra whose values are known by hand."""

import math

import pytest
import torch as th

from sb3_snd.common.effective_rank import effective_rank, spectrum

pytestmark = pytest.mark.numbers


def test_spectrum_by_hand():
    """Around the mean (10, 20): twice ±3 along the first axis, twice ±1 along the second; 9 + 9 and 1 + 1."""
    features = th.tensor([[13.0, 20.0], [7.0, 20.0], [10.0, 21.0], [10.0, 19.0]])
    th.testing.assert_close(spectrum(features), th.tensor([18.0, 2.0], dtype=th.float64))


def test_spectrum_has_as_many_values_as_there_are_states_or_features():
    assert spectrum(th.rand(3, 7)).shape == (3,) and spectrum(th.rand(7, 3)).shape == (3,)


@pytest.mark.parametrize(
    ("squares", "rank"),
    [
        ([4.0, 4.0, 4.0], 3.0),
        ([5.0, 0.0, 0.0], 1.0),
        ([0.0, 0.0], 0.0),
        ([9.0, 1.0], math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))),  # singular values 3 and 1
    ],
)
def test_effective_rank_by_hand(squares, rank):
    assert effective_rank(th.tensor(squares)) == pytest.approx(rank)
