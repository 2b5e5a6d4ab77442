"""
What the benchmarks compare on the same emulators: the package, its parts alone, the naive schedule and stock PPO.

Models are built from the entries of ``hyperparams/`` without the RL Zoo, so that a bare host can run this.
"""

import argparse
import tempfile
from typing import Any

import numpy as np
import torch as th
from schedule_base import Schedule
from schedule_clock import NOVELTY, PPO_UPDATE, SND_UPDATE
from schedule_naive import NaiveSchedule, make_plain
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticCnnPolicy

from sb3_snd.common.memory import keep_freed_memory
from sb3_snd.common.precision import resolve_precision
from sb3_snd.ppo_snd.policies import SNDTrunk
from sb3_snd.runs.monitor import StreamMonitor
from sb3_snd.zoo import algo_keys

ALGO_KEYS = tuple(key for key in algo_keys.ALGO_KEYS if key != "ppo_baseline")  # models with a bonus


class PackageSchedule(Schedule):
    """
    The package as it is used: the model's own rollout and update, with the callback that writes the log.

    The emulators run in threads of their own while novelty is computed. The phase "stepping" is the time spent
    on sending actions and waiting for results. It lacks the part of the emulators' work that novelty hides.

    :param args: Arguments of the command line
    :param hyperparams: Arguments of the model that replace those of the entry and of the command line
    """

    def __init__(self, args: argparse.Namespace, **hyperparams: Any) -> None:
        asked = {"precision": args.precision or "auto", "cuda_graphs": args.cuda_graphs}
        super().__init__(args, args.algo, **{**asked, **hyperparams})
        if self.model.device.type == "cpu":
            keep_freed_memory()  # as learn() does
        if self.snd is not None:
            for method in ("observe", "novelty") if not args.coarse else ():
                self.clock.wrap(self.snd, method, NOVELTY)
            self.clock.wrap(self.snd.trainer, "train_on_rollout", SND_UPDATE)
        self.start_callback(args)

    def start_callback(self, args: argparse.Namespace) -> None:
        """
        Start the log that ``train.py`` also writes, in a temporary folder.

        :param args: Arguments of the command line
        """
        self.folder = tempfile.TemporaryDirectory()
        callback: list[BaseCallback] = [StreamMonitor(self.folder.name, args.env)]
        _, self.callback = self.model._setup_learn(10**9, callback)
        self.callback.on_training_start(locals(), globals())

    def iterate(self) -> None:
        """See :meth:`Schedule.iterate`. ``PPOSND.train`` includes the SND update."""
        model = self.model
        assert model.env is not None
        model.collect_rollouts(model.env, self.callback, model.rollout_buffer, model.n_steps)
        with self.clock.phase(PPO_UPDATE):
            model.train()

    def warm_up(self) -> None:
        """See :meth:`Schedule.warm_up`. On a GPU, continue until everything is recorded."""
        super().warm_up()
        if self.model.device.type == "cuda":
            super().warm_up()

    def close(self) -> None:
        """Close the log and the environments."""
        self.callback.on_training_end()
        self.folder.cleanup()
        super().close()


class EagerSchedule(PackageSchedule):
    """
    The package without ``cuda_graphs``.

    :param args: Arguments of the command line
    """

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__(args, cuda_graphs=False)


class OneStreamSchedule(PackageSchedule):
    """
    The package without SND: one stream, with the number format and settings of the others.

    :param args: Arguments of the command line
    """

    def __init__(self, args: argparse.Namespace) -> None:
        device = th.device("cuda" if args.device == "auto" and th.cuda.is_available() else args.device.replace("auto", "cpu"))
        precision = resolve_precision(args.precision or "auto", device)
        super().__init__(args, snd=None, precision=precision)


class StillSchedule(PackageSchedule):
    """
    The package on environments that cost nothing: only the work of the nets and of Python.

    :param args: Arguments of the command line
    """

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__(args, still=True)


class EmulatorSchedule(Schedule):
    """
    The emulators alone, with random actions.

    :param args: Arguments of the command line
    """

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__(args, args.algo)
        self.env.reset()
        self.random = np.random.default_rng(args.seed)

    def iterate(self) -> None:
        """Do as many steps as a rollout has."""
        for _ in range(self.model.n_steps):
            self.env.step(self.random.integers(self.env.action_space.n, size=self.env.num_envs))  # type: ignore[attr-defined]


class PlainTrunk(SNDTrunk):
    """The package's trunk without what makes it faster, as a user of stock PPO would have written it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        make_plain(self)


class StockSchedule(PackageSchedule):
    """
    PPO of Stable-Baselines3 with its ``CnnPolicy``, buffer and optimiser: one stream, no novelty. Trunk,
    sizes, emulators and log are those of the others.

    :param args: Arguments of the command line
    """

    def __init__(self, args: argparse.Namespace) -> None:
        policy_kwargs = dict(features_extractor_class=PlainTrunk, net_arch=dict(pi=[512], vf=[512]))
        Schedule.__init__(self, args, "ppo", PPO, policy=ActorCriticCnnPolicy, policy_kwargs=policy_kwargs)
        self.start_callback(args)


SCHEDULES: dict[str, Any] = {
    "ours": PackageSchedule,
    "naive": NaiveSchedule,
    "stock": StockSchedule,
    "eager": EagerSchedule,
    "one-stream": OneStreamSchedule,
    "emulators": EmulatorSchedule,
    "nets": StillSchedule,
}
