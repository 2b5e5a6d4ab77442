"""The naive schedule: the same nets, losses and environments without anything that makes them faster."""

import argparse
import contextlib
import sys
from typing import Any

import numpy as np
import torch as th
from gymnasium.spaces import Box
from schedule_base import Schedule
from schedule_clock import INFERENCE, NOVELTY, PPO_UPDATE, ROLLOUT, SND_UPDATE
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBufferSamples
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.vec_env import VecNormalize

from sb3_snd import SND
from sb3_snd.common.type_aliases import Transitions
from sb3_snd.ppo_snd.buffers import StreamRolloutBuffer
from sb3_snd.ppo_snd.frame_stacks import FrameStore
from sb3_snd.targets.std import STDTarget, infonce


def make_plain(net: th.nn.Module) -> None:
    """
    Stop activations from overwriting their inputs.

    :param net: Any network
    """
    for module in net.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]


def plain_contrast(predictions: tuple[th.Tensor, th.Tensor], features: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """
    Compute what ``STDTarget.contrast`` computes, by the formula, with all logits at once.

    :param predictions: ``(P, B, L)`` each
    :param features: ``(P, B, L)``
    :return: sum of both cross-entropies, and of both mean norms of the logits
    """
    logits = [part @ features.transpose(1, 2) for part in predictions]  # (P, B, B) each
    norm = logits[0].norm(dim=(1, 2)).mean() + logits[1].norm(dim=(1, 2)).mean()
    return infonce(logits[0]) + infonce(logits[1]), norm


class NaiveBuffer(StreamRolloutBuffer):
    """Buffer of s_t and s_{t+1} as float32 in host memory. Each minibatch is copied, then moved to the device."""

    def reset(self) -> None:
        """Allocate the memory once, and empty the buffer."""
        if not hasattr(self, "successors"):
            self.successors = self._make_store(self.observation_space, 1)
        super().reset()

    def _make_store(self, space: Any, n_stack: int) -> FrameStore:
        return FrameStore(self.buffer_size, self.n_envs, space.shape, th.float32, "cpu")

    def set_stack(self, n_stack: int) -> None:
        """Do nothing, because stacks are stored as they are."""

    def _get_samples(self, batch_inds: np.ndarray, env: VecNormalize | None = None) -> RolloutBufferSamples:
        samples = super()._get_samples(batch_inds, env)
        return samples._replace(observations=samples.observations.to(self.device))


class NaiveSchedule(Schedule):
    """
    The same nets, losses and environments in the order of the reference program: one thing after the other, in
    float32 and contiguous layout, with PyTorch's plain Adam. Every feature is computed again wherever it is needed.

    :param args: Arguments of the command line
    """

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__(args, args.algo, rollout_buffer_class=NaiveBuffer, precision="float32")
        if not args.coarse:
            self.clock.wrap(self.model.policy, "forward", INFERENCE)
        space = self.env.observation_space
        if not (isinstance(space, Box) and is_image_space(space) and is_image_space_channels_first(space)):
            sys.exit(f"The naive schedule reads images, channels first, not {space}: use --against stock.")
        self.model.policy.normalize_images = False  # what it stores lies in [0, 1] already
        if self.snd is not None and isinstance(self.snd.target, STDTarget):
            self.snd.target.contrast = plain_contrast  # type: ignore[method-assign]
        optimizers = [self.model.policy.optimizer]
        make_plain(self.model.policy)
        if self.snd is not None:
            make_plain(self.snd)
            optimizers.append(self.snd.trainer.optimizer)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["fused"] = None
        self.coarse = args.coarse
        self.state = self._to_state(self.env.reset())
        self.episode_starts = np.ones(self.env.num_envs, dtype=bool)

    def _to_state(self, obs: Any) -> th.Tensor:
        """
        Convert observations and move them to the device.

        :param obs: ``(n_envs, C, H, W)`` uint8
        :return: the same as float32 in [0, 1]
        """
        return th.as_tensor(obs.astype(np.float32) / 255.0).to(self.model.device)

    def _newest(self, states: th.Tensor) -> th.Tensor:
        """
        Extract the newest frames.

        :param states: ``(n, C, H, W)`` float32
        :return: ``(n, c, H, W)``
        """
        assert self.snd is not None
        return states[:, -self.snd.frame_shape[0] :]

    def iterate(self) -> None:
        """See :meth:`Schedule.iterate`."""
        with self.clock.phase(ROLLOUT) if self.coarse else contextlib.nullcontext():
            self.collect()
        with self.clock.phase(PPO_UPDATE):
            PPO.train(self.model)
        if self.snd is not None:
            with self.clock.phase(SND_UPDATE):
                self.train_snd(self.snd)

    def collect(self) -> None:
        """Collect one rollout: policy, emulators, novelty and storage, one by one; then compute GAE."""
        policy, buffer = self.model.policy, self.model.rollout_buffer
        assert isinstance(buffer, NaiveBuffer)
        policy.set_training_mode(False)
        buffer.reset()
        for _ in range(self.model.n_steps):
            with th.no_grad():
                actions, values, log_probs = policy(self.state)
            actions = actions.cpu().numpy()
            obs, extrinsic, dones, _ = self.env.step(actions)
            rewards = [extrinsic] if self.snd is None else [extrinsic, self.intrinsic_reward(self.snd)]
            next_state = self._to_state(obs)  # of the next episode where one ended, as in the reference
            buffer.successors.store(buffer.pos, next_state)
            buffer.add(self.state, actions, np.stack(rewards, axis=1), self.episode_starts, values, log_probs)
            self.state, self.episode_starts = next_state, dones
        with th.no_grad():
            values = policy.predict_values(self.state)
        buffer.compute_returns_and_advantage(last_values=values, dones=self.episode_starts)

    @th.no_grad()
    def intrinsic_reward(self, snd: SND) -> np.ndarray:
        """
        Compute the target once for the log, then learner and target twice, for the reward and for the log.

        :param snd: ``SND`` with the nets
        :return: ``(n_envs,)`` float32
        """
        with contextlib.nullcontext() if self.coarse else self.clock.phase(NOVELTY):
            newest = self._newest(self.state)
            snd.target.update_statistics(newest)
            frames = snd.target.preprocess(newest)
            snd.target(frames).norm(dim=1).mean().item()
            snd.target.novelty(snd.learner(frames), snd.target(frames)).mean().item()
            return snd.scale(snd.target.novelty(snd.learner(frames), snd.target(frames))).cpu().numpy()

    def train_snd(self, snd: SND) -> None:
        """
        Do one pass over the rollout. For each minibatch compute target(s_t) twice, target(s_{t+1}) once if the
        loss needs it, and the learner once.

        :param snd: ``SND`` with the nets
        """
        buffer = self.model.rollout_buffer
        assert isinstance(buffer, NaiveBuffer)
        states, successors = buffer.store, buffer.successors
        size = buffer.buffer_size * buffer.n_envs

        def load(memory: FrameStore, rows: th.Tensor) -> th.Tensor:
            return snd.target.preprocess(self._newest(memory.read(rows).to(self.model.device)))

        for rows in th.arange(size).split(snd.trainer.minibatch_size(size)):
            frames, next_frames = load(states, rows), load(successors, rows)  # (B, c, H, W) each
            with th.no_grad():
                snd.target(frames)  # for distillation; the loss computes it once more
            next_index = th.arange(len(rows), 2 * len(rows), device=self.model.device)
            both = th.cat([frames, next_frames])
            batch = Transitions(both, next_index, size, lambda chosen: load(states, chosen))
            terms = snd.target.loss(batch, snd.learner)
            snd.trainer.optimizer.zero_grad()
            terms["loss"].backward()
            snd.trainer.optimizer.step()
