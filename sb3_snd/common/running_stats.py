"""Running mean and variance as registered buffers, so that a ``state_dict`` holds them and they move with the
device.

Knows only numbers, not where they come from.
"""

import torch as th
from torch import nn


class RunningMeanStd(nn.Module):
    """
    Running mean and variance by the parallel update of Chan et al. (1979), as in SB3's ``RunningMeanStd``.

    Statistics of images are float32. All others are float64, as in SB3, so that the squares of large numbers
    stay finite.

    :param shape: Shape of one sample
    :param count: Weight of the initial values, mean 0 and variance 1
    :param count_batches: Whether a batch weighs 1, whatever its size, instead of its number of samples
    :param max_count: Largest weight of the past, so that old samples are forgotten; None means no limit
    """

    mean: th.Tensor
    var: th.Tensor
    count: th.Tensor

    def __init__(
        self,
        shape: tuple[int, ...],
        count: float = 1e-4,
        count_batches: bool = False,
        max_count: float | None = None,
    ) -> None:
        super().__init__()
        self.count_batches = count_batches
        self.max_count = max_count
        dtype = th.float32 if len(shape) == 3 else th.float64
        self.register_buffer("mean", th.zeros(shape, dtype=dtype))
        self.register_buffer("var", th.ones(shape, dtype=dtype))
        self.register_buffer("count", th.tensor(count, dtype=th.float64))

    @th.no_grad()
    def update(self, batch: th.Tensor) -> None:
        """
        Update the statistics with a batch.

        :param batch: ``(n, *shape)`` float32
        """
        weight = 1 if self.count_batches else len(batch)
        batch = batch.to(self.mean.dtype)
        if batch.ndim > 2:  # images, for which var_mean along the batch takes five times as long on a CPU
            batch_mean = batch.mean(dim=0)
            batch_var = (batch - batch_mean).square_().mean(dim=0)
        else:
            batch_var, batch_mean = th.var_mean(batch, dim=0, correction=0)
        # In place, since setting a module's attribute takes longer
        mean, count = self.mean, self.count.add_(weight)
        share = count.reciprocal().mul_(weight).to(batch.dtype)
        rest = 1 - share
        delta = batch_mean - mean
        # Weighted sum instead of a correction by a difference: a small variance must survive the initial 1
        self.var.mul_(rest).addcmul_(share, batch_var.addcmul_(delta * rest, delta))
        mean.addcmul_(share, delta)
        if self.max_count is not None:
            count.clamp_(max=self.max_count)

    def normalize(self, batch: th.Tensor, clip: float) -> th.Tensor:
        """
        Normalise a batch by the running mean and standard deviation.

        :param batch: ``(n, *shape)`` float32
        :param clip: Largest absolute value of the result
        :return: ``(n, *shape)`` float32 in units of the standard deviation
        """
        return ((batch - self.mean) / th.sqrt(self.var + 1e-8)).clamp(-clip, clip).to(batch.dtype)
