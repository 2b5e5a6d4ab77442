"""
Steps per second and memory of PPOSND with each intrinsic reward, beside the same without one: in MiniGrid's DoorKey, or on
images of Montezuma's Revenge.

``python benchmarks/rewards.py [--env atari] [--rewards e3b vic*e3b ...]`` ends in a Markdown table. It only measures: nothing
here makes anything faster.
"""

import argparse
import functools
import statistics
import sys
from typing import Any

from schedule_clock import PPO_UPDATE, ROLLOUT, SND_UPDATE, Clock
from small_tasks import SEED, Contender
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecEnv
from throughput import Runs, Worker, measure_speed

from sb3_snd import PPOSND
from sb3_snd.envs import MiniGridMap, MiniGridWrapper, make_atari_env, require_package
from sb3_snd.policies import CnnPolicy, GridPolicy
from sb3_snd.rewards import REWARDS

ALONE = "none"
MAP = "counts of a map"
PRODUCTS = ("vic*counts", "vic*e3b", "vic*ngu")
TASKS = {"minigrid": "MiniGrid-DoorKey-8x8-v0", "atari": "MontezumaRevengeNoFrameskip-v4"}


class RewardContender(Contender):
    """
    PPOSND with a reward, timed as :class:`Contender` is.

    :param args: Of the command line
    :param reward: Name of a reward, ``lifelong*episodic``, :data:`MAP` or :data:`ALONE`
    """

    def __init__(self, args: argparse.Namespace, reward: str) -> None:
        snd, _, episodic = reward.partition("*")
        kwargs: dict[str, Any] = {name: getattr(args, name) for name in ("n_steps", "batch_size", "n_epochs")}
        kwargs.update(
            snd=None if snd == ALONE else "counts" if snd == MAP else snd, normalize_advantage=True, precision="auto"
        )
        kwargs.update(snd_kwargs={"place": True} if snd == MAP else {}, episodic=episodic or None, device="cpu", seed=SEED)
        policy = GridPolicy if args.env == "minigrid" else CnnPolicy
        self.callback = None
        self.model = PPOSND(policy, self._make_env(args, snd == MAP), **kwargs)
        self.model.set_logger(Logger(folder=None, output_formats=[]))
        self.iterations = args.iterations
        self.clock = Clock(self.model.device)
        self.clock.wrap(self.model, "collect_rollouts", ROLLOUT)
        self.clock.wrap(self.model, "train", PPO_UPDATE)
        if self.model.snd is not None and self.model.snd.trainer is not None:
            self.clock.wrap(self.model.snd.trainer, "train_on_rollout", SND_UPDATE)

    @staticmethod
    def _make_env(args: argparse.Namespace, mapped: bool) -> VecEnv:
        require_package(TASKS[args.env])
        if args.env == "atari":
            return make_atari_env(TASKS["atari"], args.n_envs, seed=SEED)

        def wrap(env: Any) -> Any:
            return MiniGridWrapper(MiniGridMap(env) if mapped else env)

        return make_vec_env(TASKS["minigrid"], args.n_envs, seed=SEED, wrapper_class=wrap)


def table(runs: Runs, peaks: dict[str, dict[str, int]], size: int) -> str:
    """
    :param runs: Seconds by phase of each iteration, by reward
    :param peaks: Peaks of memory in bytes, by reward
    :param size: Transitions in a rollout
    :return: a Markdown table of medians; the ratio to no reward is taken within each round
    """
    lines = ["| reward | steps/s | of PPO's alone, median (least to largest) | peak memory, MB, beyond PPO's alone |"]
    lines.append("|---" + "|---:" * 3 + "|")
    wholes = {name: [sum(seconds.values()) for seconds in run] for name, run in runs.items()}
    for name in runs:
        ratios = [alone / own for alone, own in zip(wholes[ALONE], wholes[name], strict=True)]
        beyond = (peaks[name]["host"] - peaks[ALONE]["host"]) / 1e6
        cells = [name, f"{size / statistics.median(wholes[name]):.0f}"]
        cells += [f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})", f"{beyond:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """
    :param argv: The command line
    :return: its options
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", choices=[*TASKS], default="minigrid")
    parser.add_argument("--rewards", nargs="+", default=["vic", "rnd", *REWARDS, MAP, *PRODUCTS])
    parser.add_argument("--n-envs", type=int, default=16)
    parser.add_argument("--n-steps", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--n-epochs", type=int, default=4)
    parser.add_argument("--iterations", type=int, default=2, help="counted iterations of each in a round")
    parser.add_argument("--rounds", type=int, default=3, help="every second one goes in reverse order")
    parser.add_argument("--threads", type=int, help="PyTorch's threads; by default as many as it chooses")
    parser.set_defaults(keep_freed_memory=False)  # an option of throughput.py
    args = parser.parse_args(argv)
    for name in ("iterations", "rounds"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be 1 at least.")
    if args.env == "atari" and MAP in args.rewards:
        args.rewards.remove(MAP)  # there is no map of Montezuma's Revenge
    return args


def main(argv: list[str]) -> None:
    """
    Measure and print the table.

    :param argv: The command line
    """
    args = parse_arguments(argv)
    contenders = {name: functools.partial(RewardContender, reward=name) for name in (ALONE, *args.rewards)}
    workers = {name: Worker(name, args, contenders) for name in contenders}
    *_, runs = measure_speed(workers, args.rounds)
    peaks = {name: worker.close() for name, worker in workers.items()}
    print("\n" + table(runs, peaks, args.n_envs * args.n_steps))


if __name__ == "__main__":
    main(sys.argv[1:])
