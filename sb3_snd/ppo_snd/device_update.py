"""PPO's update on the device. The host only draws the minibatch order, and reads all log values once at the
end. If the update is not recorded as a CUDA graph, the host also checks the norm of each gradient.

Knows SB3's PPO and the two-stream buffer, but not SND.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.utils import explained_variance
from torch.nn import functional as F

from sb3_snd.common.check_nan import check_gradients, check_terms
from sb3_snd.common.cuda_graphs import (
    Replay,
    Tensors,
    optimizer_state,
    recorded_updates,
    unchecked_distributions,
)
from sb3_snd.common.preprocessing import map_obs
from sb3_snd.ppo_snd.buffers import StreamRolloutBuffer

TERMS = ("entropy_loss", "policy_gradient_loss", "value_loss", "approx_kl", "clip_fraction", "loss")
READ = (*TERMS, "gradient_norm")  # gradient_norm is not logged


class DeviceUpdate:
    """
    Counterpart of ``PPO.train`` for a ``StreamRolloutBuffer``.

    It follows SB3's text (MIT). It is written anew because SB3's version reads five numbers from the device
    for each minibatch, uploads each minibatch separately, and does not return the norm of the gradient that
    it computes. Minibatches for the same NumPy seed, loss and log are those of SB3, but there is no early
    stopping by ``target_kl``. With one stream and without recording, the nets equal those of SB3 bit for bit.

    :param model: Model whose policy, optimiser, buffer and schedules are used as they are when :meth:`train`
        is called
    :param records: Whether to record the step, if the device and the optimiser support it
    """

    def __init__(self, model: PPO, records: bool) -> None:
        self.model = model
        #: rows are those of the buffer's store, step * n_envs + environment
        self._data: dict[str, th.Tensor] = {}
        # A recording reads the clip ranges from the device; otherwise they are Python numbers, as in SB3
        self._clip_range: Any = th.zeros((), device=model.device) if records else 0.0
        self._clip_range_vf: Any = th.zeros((), device=model.device) if records else 0.0
        self._rates = [th.zeros((), device=model.device) for _ in model.policy.optimizer.param_groups]
        self._step = Replay(self.minibatch, self._state) if records else None

    @property
    def _buffer(self) -> StreamRolloutBuffer:
        buffer = self.model.rollout_buffer
        assert isinstance(buffer, StreamRolloutBuffer)
        return buffer

    def _state(self) -> Iterator[Any]:
        model = self.model
        yield from (model.ent_coef, model.vf_coef, model.max_grad_norm, model.normalize_advantage)
        yield model.clip_range_vf is None
        yield from (self._clip_range, self._clip_range_vf, *self._data.values())
        yield from self._buffer.memory()
        yield from self.model.policy.buffers()
        yield from optimizer_state(self.model.policy.optimizer)

    def _load(self) -> None:
        """Upload the rollout's numbers at once. The frames are already on the device."""
        buffer = self._buffer
        size = buffer.buffer_size * buffer.n_envs
        arrays = {
            "actions": buffer.actions.astype(np.float32, copy=False),
            "values": buffer.values,
            "log_probs": buffer.log_probs,
            "advantages": buffer.advantages @ buffer.coefs,
            "returns": buffer.returns,
        }
        for name, array in arrays.items():
            values = th.as_tensor(array).reshape(size, *array.shape[2:])
            if name in self._data:
                self._data[name].copy_(values)
            else:
                self._data[name] = values.to(self.model.device, copy=True)

    def _epochs(self) -> list[Tensors]:
        """Return the rows of each minibatch for each epoch, the same as those of the buffer's own ``get``."""
        size = self._buffer.buffer_size * self._buffer.n_envs
        rows = np.stack([self._buffer.rows(np.random.permutation(size)) for _ in range(self.model.n_epochs)])
        batch_size = min(self.model.batch_size, size)
        return [epoch.split(batch_size) for epoch in th.as_tensor(rows, device=self.model.device)]

    def minibatch(self, rows: th.Tensor) -> Tensors:
        """
        Update the policy with one minibatch.

        :param rows: Rows of the buffer's store, ``(B,)`` int64
        :return: values of ``READ``, ``(7,)`` float32
        """
        model, policy = self.model, self.model.policy
        observations = map_obs(lambda store: store.read(rows), self._buffer.store)
        batch = {name: values[rows] for name, values in self._data.items()}
        actions = batch["actions"]
        if isinstance(model.action_space, spaces.Discrete):
            actions = actions.long().flatten()
        with unchecked_distributions():
            values, log_prob, entropy = policy.evaluate_actions(observations, actions)
        advantages = batch["advantages"]
        if model.normalize_advantage and len(advantages) > 1:
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)

        log_ratio = log_prob - batch["log_probs"]
        ratio = log_ratio.exp()
        clipped = ratio.clamp(1 - self._clip_range, 1 + self._clip_range)
        policy_loss = -th.min(advantages * ratio, advantages * clipped).mean()
        values, old_values, returns = values.flatten(), batch["values"].flatten(), batch["returns"].flatten()
        if model.clip_range_vf is not None:
            values = old_values + (values - old_values).clamp(-self._clip_range_vf, self._clip_range_vf)
        value_loss = F.mse_loss(values, returns)
        entropy_loss = log_prob.mean() if entropy is None else -entropy.mean()
        loss = policy_loss + model.ent_coef * entropy_loss + model.vf_coef * value_loss

        with th.no_grad():
            approx_kl = ((ratio - 1) - log_ratio).mean()
            clip_fraction = ((ratio - 1).abs() > self._clip_range).float().mean()
            terms = th.stack((entropy_loss, policy_loss, value_loss, approx_kl, clip_fraction, loss))

        policy.optimizer.zero_grad()
        loss.backward()
        norm = th.nn.utils.clip_grad_norm_(policy.parameters(), model.max_grad_norm)
        named_terms = dict(zip(TERMS, terms, strict=True)) if self._step else None
        check_gradients(policy, "PPO", norm=norm, terms=named_terms)
        policy.optimizer.step()
        # The policy's last distribution would keep this step's gradient graph alive during the next step
        policy.action_dist.__dict__.pop("distribution", None)
        return (th.cat((terms, norm.view(1))),)

    def train(self) -> None:
        """Run all epochs over the rollout in the buffer, and log what ``PPO.train`` logs."""
        model, optimizer, logger = self.model, self.model.policy.optimizer, self.model.logger
        model.policy.set_training_mode(True)
        model._update_learning_rate(optimizer)
        clip_range = model.clip_range(model._current_progress_remaining)  # type: ignore[operator]
        clip_range_vf = 0.0
        if model.clip_range_vf is not None:
            clip_range_vf = model.clip_range_vf(model._current_progress_remaining)  # type: ignore[operator]
        if self._step is None:
            self._clip_range, self._clip_range_vf = clip_range, clip_range_vf
        else:
            self._clip_range.fill_(clip_range)
            self._clip_range_vf.fill_(clip_range_vf)
        self._load()

        terms = []
        plain = contextlib.nullcontext(self.minibatch)
        with plain if self._step is None else recorded_updates(self._step, optimizer, self._rates) as step:
            for epoch in self._epochs():
                terms.append(th.stack([step(rows)[0] for rows in epoch]))
                model._n_updates += 1
        table = th.stack(terms).cpu().numpy().astype(np.float64)  # (n_epochs, minibatches, 7)
        for row in table.reshape(-1, len(READ)):
            check_terms(dict(zip(READ, row, strict=True)), "PPO", poisoned=True)

        for name, column in zip(TERMS, table.transpose(2, 0, 1)[:-1], strict=True):
            if name == "loss":
                value = column[-1, -1]
            elif name == "approx_kl":
                value = column[-1].mean()
            else:
                value = column.mean()
            logger.record(f"train/{name}", float(value))
        variance = explained_variance(self._buffer.values.flatten(), self._buffer.returns.flatten())
        logger.record("train/explained_variance", variance)
        if hasattr(model.policy, "log_std"):
            logger.record("train/std", model.policy.log_std.exp().mean().item())
        logger.record("train/n_updates", model._n_updates, exclude="tensorboard")
        logger.record("train/clip_range", clip_range)
        if model.clip_range_vf is not None:
            logger.record("train/clip_range_vf", clip_range_vf)


def train_as_sb3(model: PPO) -> None:
    """
    Run SB3's own PPO update, with a check of the gradients before each step of the optimiser.

    :param model: The model
    """
    check = model.policy.optimizer.register_step_pre_hook(lambda *_: check_gradients(model.policy, "PPO"))
    try:
        PPO.train(model)
    finally:
        check.remove()
