"""``RewardTrainer``: optimiser, epochs, minibatches and recorded updates of a reward's nets.

Knows rollouts and a reward's loss, but no environment, algorithm or logger.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch as th
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import FloatSchedule, update_learning_rate

from sb3_snd.common.check_nan import check_gradients, check_terms, gradient_norm
from sb3_snd.common.cuda_graphs import Replay, Tensors, optimizer_state, recorded_updates, unchecked_distributions
from sb3_snd.common.precision import match_layout
from sb3_snd.common.preprocessing import map_obs
from sb3_snd.common.type_aliases import Transitions
from sb3_snd.rewards.rollout import Rollout, check_rollout, divide, successor_index

if TYPE_CHECKING:
    from sb3_snd.rewards.base import IntrinsicReward

MINIBATCH = 512  # minibatch size in the paper
LEAST_DIVISOR = 64  # smallest minibatch size that is tried to divide a rollout into equal parts
GRADIENT_NORM = "gradient_norm"  # a term that every update returns, but that is not logged
# Extra rows for terminal frames in fixed-shape minibatches: max(SPARE_FRAMES, batch_size // 16)
SPARE_FRAMES = 16


class RewardTrainer:
    """
    Train the nets of an intrinsic reward with one fused Adam.

    :param reward: The reward, whose nets are complete and on their device
    :raises ValueError: if it has no parameter to train
    """

    def __init__(self, reward: "IntrinsicReward") -> None:
        self.reward = reward
        trained = [parameter for parameter in reward.parameters() if parameter.requires_grad]
        rate = FloatSchedule(reward.init_kwargs["learning_rate"])(1.0)
        self.optimizer = th.optim.Adam(trained, lr=rate, fused=True)
        self.optimizer.register_load_state_dict_post_hook(match_layout)
        self.optimizer.register_load_state_dict_post_hook(lambda _: self._use_learning_rate())
        #: whether all minibatches have the same shape and updates are recorded, if the device supports that
        self.fixed_shapes = False
        self._replay: Replay | None = None
        self._rates: list[th.Tensor] = []
        #: states from which a loss may draw
        self._pool: tuple[int, Callable[[th.Tensor], th.Tensor]] | None = None
        self._observations: list[th.Tensor] = []  # tensors that hold these states
        self._names: list[str] = []  # names of the loss terms

    def configure(self, learning_rate: float | Schedule, batch_size: int | None, n_epochs: int) -> None:
        """
        Apply settings.

        :param learning_rate: Learning rate, or a function of the remaining training progress
        :param batch_size: Transitions per minibatch, or None for :meth:`minibatch_size` to choose
        :param n_epochs: Number of passes over each rollout
        """
        self.learning_rate, self.batch_size, self.n_epochs = learning_rate, batch_size, n_epochs
        self._progress_remaining = 1.0
        self._use_learning_rate()

    def _use_learning_rate(self) -> None:
        update_learning_rate(self.optimizer, FloatSchedule(self.learning_rate)(self._progress_remaining))

    def set_progress(self, progress_remaining: float) -> None:
        """
        Update the learning rate from its schedule. A constant stays as it is.

        :param progress_remaining: Remaining training progress, from 1 to 0
        """
        self._progress_remaining = progress_remaining
        if callable(self.learning_rate):
            self._use_learning_rate()

    def minibatch_size(self, size: int) -> int:
        """
        Choose the size of a rollout's minibatches.

        :param size: Transitions in a rollout
        :return: number of transitions in each of its minibatches except the last
        :raises ValueError: if the rollout has only one transition
        """
        check_rollout(size)
        largest = min(MINIBATCH, size)
        divisors = (n for n in range(largest, min(LEAST_DIVISOR, largest) - 1, -1) if size % n == 0)
        return self.batch_size or next(divisors, largest)

    def minibatches(self, rollout: Rollout) -> Iterator[Transitions]:
        """
        Iterate over consecutive transitions in time order. The states of one step are the successors of the
        step before, so ``B`` transitions of ``N`` environments need only ``B + N`` frames, plus one for each
        episode that ended among them; see :func:`~sb3_snd.rewards.rollout.successor_index`.

        :param rollout: ``T`` steps of ``N`` environments
        :return: ``T * N / batch_size`` minibatches, rounded up
        :raises ValueError: if the rollout has only one transition
        """
        select, device = self.reward.select, self.reward.device
        observations = self.reward.reader.entry(rollout.observations)
        n_steps, n_envs = next(iter(_leaves(observations))).shape[:2]
        size = n_steps * n_envs
        rows = map_obs(lambda entry: entry.reshape(size, *entry.shape[2:]), observations)  # row t * N + n
        last_frames = select(rollout.last_observation)
        bounds, ends = divide(size, self.minibatch_size(size)), rollout.ends
        first_ends = np.searchsorted(ends, bounds)  # (n_minibatches + 1,)
        terminal_frames = self._terminal_frames(rollout) if len(ends) > 0 else last_frames[:0]
        index = th.as_tensor(successor_index(n_envs, bounds, ends), device=device)
        ended = th.zeros(size, dtype=th.bool)
        ended[ends] = True
        ended = ended.to(device)
        actions = None
        if rollout.actions is not None and self.reward.trains_on_actions:
            actions = th.as_tensor(rollout.actions)
            actions = (actions.float() if actions.is_floating_point() else actions).to(device).flatten(0, 1)

        def take(entry: Any, chosen: th.Tensor) -> Any:
            return entry[chosen.cpu().numpy()] if isinstance(entry, np.ndarray) else entry[chosen.to(entry.device)]

        def states(chosen: th.Tensor) -> th.Tensor:
            return self.reward.prepare(select(map_obs(lambda entry: take(entry, chosen), rows)))

        for number, (start, stop) in enumerate(itertools.pairwise(bounds.tolist())):
            parts = [select(map_obs(lambda entry, a=start, b=stop: entry[a : b + n_envs], rows))]
            parts.append(last_frames[: max(0, stop + n_envs - size)])
            parts.append(terminal_frames[first_ends[number] : first_ends[number + 1]])
            if self.fixed_shapes:  # pad with frames that no transition uses
                spare = max(SPARE_FRAMES, (stop - start) // 16) - len(parts[-1])
                parts.append(last_frames[:1].expand(max(0, spare), *last_frames.shape[1:]))
            frames = self.reward.prepare(th.cat([part for part in parts if len(part) > 0]))
            taken = None if actions is None else actions[start:stop]
            yield Transitions(frames, index[start:stop], size, states, taken, ended[start:stop])

    def _terminal_frames(self, rollout: Rollout) -> th.Tensor:
        entry = self.reward.reader.entry
        observations = [entry(rollout.terminal_observations[row]) for row in rollout.ends]
        return self.reward.select(map_obs(lambda *each: th.stack([*map(th.as_tensor, each)]), *observations))

    def train_on_rollout(self, rollout: Rollout) -> dict[str, float]:
        """
        Train the nets with ``n_epochs`` passes over a rollout.

        :param rollout: ``T`` steps of ``N`` environments
        :return: mean over the minibatches of each loss term
        :raises ValueError: if the rollout has only one transition
        """
        leaves = _leaves(self.reward.reader.entry(rollout.observations))
        self._observations = [entry for entry in leaves if isinstance(entry, th.Tensor)]
        batches = itertools.chain.from_iterable(self.minibatches(rollout) for _ in range(self.n_epochs))
        if not self.fixed_shapes:
            return self._train(batches, self._update)
        if self._replay is None:
            self._rates = [th.zeros((), device=self.reward.device) for _ in self.optimizer.param_groups]
            self._replay = Replay(self._update, self._state)
        with recorded_updates(self._replay, self.optimizer, self._rates) as update, unchecked_distributions():
            return self._train(batches, update)

    def train_on_batch(self, batch: Transitions) -> dict[str, float]:
        """
        Train the nets with one update, for algorithms that keep no rollout.

        :param batch: Result of :meth:`.IntrinsicReward.transitions`
        :return: each loss term
        """
        return self._train([batch], self._update)

    def _train(self, batches: Iterable[Transitions], update: Callable[..., Tensors]) -> dict[str, float]:
        total, n_batches = th.zeros((), device=self.reward.device), 0
        for batch in batches:
            self._pool = batch.pool_size, batch.pool
            assert batch.ends is not None
            actions = () if batch.actions is None else (batch.actions,)
            (terms,) = update(batch.frames, batch.next_index, batch.ends, *actions)
            total = total + terms  # stays on the device, so that the host need not wait
            n_batches += 1
        self._pool, self._observations = None, []
        self.optimizer.zero_grad()  # frees their memory for other uses
        means = dict(zip(self._names, (total / n_batches).tolist(), strict=True))
        check_terms(means, type(self.reward).__name__, poisoned=True)
        del means[GRADIENT_NORM]
        return means

    def _update(
        self,
        frames: th.Tensor,
        next_index: th.Tensor,
        ends: th.Tensor,
        actions: th.Tensor | None = None,
    ) -> Tensors:
        """
        Train the nets on one minibatch. A recording takes only tensors as arguments, so the states from which
        the loss may draw come from an attribute.

        :return: all terms of the loss and the norm of its gradient, ``(n_terms + 1,)``
        """
        assert self._pool is not None
        terms = self.reward.loss(Transitions(frames, next_index, *self._pool, actions, ends))
        self.optimizer.zero_grad()
        terms["loss"].backward()
        terms = {name: term.detach() for name, term in terms.items()}
        norm = gradient_norm(self.reward)
        check_gradients(self.reward, type(self.reward).__name__, terms, norm)
        self.optimizer.step()
        self._names = [*terms, GRADIENT_NORM]
        return (th.stack([*terms.values(), norm]),)

    def _state(self) -> Iterator[Any]:
        yield from self._observations
        yield from self.reward.parameters()
        saved = self.reward.state_dict()  # what belongs to the environments changes its place, and no update reads it
        yield from (buffer for name, buffer in self.reward.named_buffers() if name in saved)
        yield from optimizer_state(self.optimizer)


def _leaves(observations: Any) -> list[Any]:
    """Return the arrays or tensors of observations, which may be a dict of them."""
    return list(observations.values()) if isinstance(observations, dict) else [observations]
