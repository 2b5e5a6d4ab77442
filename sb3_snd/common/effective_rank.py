"""Properties of a feature space: spectrum and effective rank of features.

Knows only numbers, not which net they come from.
"""

import torch as th


def spectrum(features: th.Tensor) -> th.Tensor:
    """
    Compute the squared singular values of the centred features, which are ``n`` times their variances along
    the principal axes.

    :param features: ``(n, D)`` float32
    :return: ``(min(n, D),)`` float64, descending
    """
    assert features.ndim == 2, features.shape
    centred = features.double() - features.double().mean(dim=0)
    return th.linalg.svdvals(centred).square()


def effective_rank(spectrum: th.Tensor) -> float:
    """
    Compute how many directions the features take. This is the exponential of the entropy of the singular
    values, normalised to the sum 1 (Roy and Vetterli, The effective rank, EUSIPCO 2007, eq. 1 to 3). It is D
    if all singular values are equal.

    :param spectrum: Squared singular values, ``(k,)``
    :return: a number between 1 and k, or 0 if all values are 0 because all features are the same
    """
    values = spectrum.double().sqrt()
    total = values.sum()
    if total == 0:
        return 0.0
    share = values / total
    return float(th.special.entr(share).sum().exp())
