"""What all schedules share. Knows how a model is built and timed, but not in which order anything is done."""

import argparse
import sys
from pathlib import Path
from typing import Any

from schedule_clock import INFERENCE, OTHER, ROLLOUT, STEPPING, Clock
from schedule_env import NOT_OF_THE_MODEL, StillEnv, make_env, read_entry
from stable_baselines3 import PPO
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from sb3_snd import PPOSND, SND


class Schedule:
    """
    Base class of all schedules, with environments, a model of the YAML entry, and a clock.

    :param args: Arguments of the command line
    :param algo: Algo key of the entry
    :param model_class: Class of the model
    :param still: Whether to use environments that cost nothing
    :param hyperparams: Arguments of the model that replace those of the entry and of the command line
    """

    def __init__(
        self, args: argparse.Namespace, algo: str, model_class: type[PPO] = PPOSND, still: bool = False, **hyperparams: Any
    ) -> None:
        entry = read_entry(algo, args.env)
        names = ("n_steps", "batch_size", "n_epochs")
        asked = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
        kwargs = {name: value for name, value in {**entry, **asked}.items() if name not in NOT_OF_THE_MODEL}
        env_kwargs = {} if args.frame_size is None else dict(frame_size=args.frame_size)
        env = make_env(entry, args.env, args.n_envs or entry["n_envs"], args.seed, **env_kwargs)
        self.env: VecEnv = StillEnv(env, args.seed) if still else env  # without intrinsic reward
        try:
            self.model = model_class(env=self.env, seed=args.seed, device=args.device, **{**kwargs, **hyperparams})
        except ValueError as error:
            sys.exit(f"{Path(sys.argv[0]).name}: {error}")
        self.model.set_logger(Logger(folder=None, output_formats=[]))
        self.snd: SND | None = getattr(self.model, "snd", None)
        self.clock = Clock(self.model.device)
        if args.coarse:
            self.clock.wrap(self.model, "collect_rollouts", ROLLOUT)
            return
        innermost = self.env
        while isinstance(innermost, VecEnvWrapper):
            innermost = innermost.venv
        for method in ("step_async", "step_wait"):
            self.clock.wrap(innermost, method, STEPPING)
        if isinstance(self.model, PPOSND):  # its forward pass may be recorded, and a recording cannot wait
            self.clock.wrap(self.model._actor, "act", INFERENCE)
        else:
            self.clock.wrap(self.model.policy, "forward", INFERENCE)
        self.clock.wrap(self.model.policy, "predict_values", INFERENCE)

    def iterate(self) -> None:
        """Collect one rollout and do the updates that follow it."""
        raise NotImplementedError

    @property
    def recorded(self) -> dict[str, bool]:
        """Return, for each part that ``cuda_graphs`` may record, whether it is recorded."""
        parts = {
            "acting": getattr(getattr(self.model, "_actor", None), "replay", None),
            "PPO update": getattr(getattr(self.model, "_update", None), "_step", None),
            "SND update": getattr(self.snd and self.snd.trainer, "_replay", None),
        }
        return {name: replay.is_recorded for name, replay in parts.items() if replay is not None}

    def measure(self) -> dict[str, float]:
        """
        Time one iteration.

        :return: seconds by phase
        """
        with self.clock.phase(OTHER):
            self.iterate()
        return self.clock.pop()

    def warm_up(self) -> None:
        """Do one iteration that is not counted, with a single epoch."""
        n_epochs, self.model.n_epochs = self.model.n_epochs, 1
        self.measure()
        self.model.n_epochs = n_epochs

    def close(self) -> None:
        """Close the environments."""
        self.env.close()
