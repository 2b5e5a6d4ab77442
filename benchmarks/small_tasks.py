"""
Steps per second on a small task, MountainCarContinuous, where Python and small kernels cost more than arithmetic: PPOSND with
SND-VIC, with SND-STD and without SND, and stock PPO with the wrapper and its callback, beside stock PPO alone.

``python benchmarks/small_tasks.py`` ends in a Markdown table. It only measures: nothing here makes anything faster.
"""

import argparse
import functools
import statistics
import sys
from typing import Any

from schedule_clock import PPO_UPDATE, ROLLOUT, SND_UPDATE, Clock
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import Logger
from throughput import Runs, Worker, measure_speed

from sb3_snd import PPOSND, SNDCallback, VecIntrinsicReward

ENV_ID = "MountainCarContinuous-v0"
SEED = 0
STOCK = "stock PPO"


class Contender:
    """
    An algorithm on the small task. Iterations run within ``learn``; what it does around them, such as its log, is not timed.

    :param args: Of the command line
    :param snd: Target of SND; None: there is none
    :param model_class: What is trained; with ``PPO`` and a target, novelty comes from the wrapper and its callback
    """

    recorded: dict[str, bool] = {}

    def __init__(self, args: argparse.Namespace, snd: str | None = None, model_class: type[PPO] = PPOSND) -> None:
        env = make_vec_env(ENV_ID, args.n_envs, seed=SEED)
        kwargs: dict[str, Any] = {name: getattr(args, name) for name in ("n_steps", "batch_size", "n_epochs")}
        kwargs.update(device="cpu", seed=SEED)
        self.callback = None
        if model_class is PPOSND:
            kwargs.update(snd=snd, normalize_advantage=True)
            if snd is not None:
                kwargs.update(snd_kwargs=dict(norm_reward=True))
        elif snd is not None:
            env = VecIntrinsicReward(env, snd, dict(norm_reward=True), device="cpu")
            self.callback = SNDCallback()
        self.model = model_class("MlpPolicy", env, **kwargs)
        self.model.set_logger(Logger(folder=None, output_formats=[]))
        self.iterations = args.iterations
        self.clock = Clock(self.model.device)
        self.clock.wrap(self.model, "collect_rollouts", ROLLOUT)
        self.clock.wrap(self.model, "train", PPO_UPDATE)
        if snd is not None:
            nets: Any = self.model.snd if isinstance(self.model, PPOSND) else env.snd  # type: ignore[attr-defined]
            self.clock.wrap(nets.trainer, "train_on_rollout", SND_UPDATE)

    def _learn(self, iterations: int) -> None:
        size = self.model.n_steps * self.model.n_envs
        self.model.learn(iterations * size, self.callback, reset_num_timesteps=False)

    def warm_up(self) -> None:
        """Two iterations that are not counted: the first updates allocate the optimisers' state."""
        self._learn(2)
        self.clock.pop()

    def measure(self) -> dict[str, float]:
        """
        :return: seconds of an iteration by phase, means over several
        """
        self._learn(self.iterations)
        return {phase: seconds / self.iterations for phase, seconds in self.clock.pop().items()}

    def close(self) -> None:
        """End the environments."""
        self.model.env.close()  # type: ignore[union-attr]


CONTENDERS: dict[str, Any] = {
    STOCK: functools.partial(Contender, model_class=PPO),
    "PPOSND, snd=None": Contender,
    "PPOSND, vic": functools.partial(Contender, snd="vic"),
    "PPOSND, std": functools.partial(Contender, snd="std"),
    "PPO + wrapper + callback, vic": functools.partial(Contender, snd="vic", model_class=PPO),
}


def table(runs: Runs, size: int) -> str:
    """
    :param runs: Seconds by phase of each iteration, by contender
    :param size: Transitions in a rollout
    :return: a Markdown table of medians; the ratio to stock PPO is taken within each round
    """
    lines = ["| | steps/s | of stock PPO's, median (least to largest) | rollout, ms | PPO update, ms | SND update, ms |"]
    lines.append("|---" + "|---:" * 5 + "|")
    wholes = {name: [sum(seconds.values()) for seconds in run] for name, run in runs.items()}
    for name, run in runs.items():
        ratios = [stock / own for stock, own in zip(wholes[STOCK], wholes[name], strict=True)]
        cells = [name, f"{size / statistics.median(wholes[name]):.0f}"]
        cells.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
        for phase in (ROLLOUT, PPO_UPDATE, SND_UPDATE):
            cells.append(f"{1000 * statistics.median(seconds[phase] for seconds in run):.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """
    :param argv: The command line
    :return: its options
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n-envs", type=int, default=32)
    parser.add_argument("--n-steps", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--n-epochs", type=int, default=4)
    parser.add_argument("--iterations", type=int, default=4, help="counted iterations of each in a round")
    parser.add_argument("--rounds", type=int, default=5, help="every second one goes in reverse order")
    parser.add_argument("--threads", type=int, help="PyTorch's threads; by default as many as it chooses")
    parser.set_defaults(keep_freed_memory=False)  # an option of throughput.py
    args = parser.parse_args(argv)
    for name in ("iterations", "rounds"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be 1 at least.")
    return args


def main(argv: list[str]) -> None:
    """
    Measure and print the table.

    :param argv: The command line
    """
    args = parse_arguments(argv)
    workers = {name: Worker(name, args, CONTENDERS) for name in CONTENDERS}
    *_, runs = measure_speed(workers, args.rounds)
    for worker in workers.values():
        worker.close()
    print("\n" + table(runs, args.n_envs * args.n_steps))


if __name__ == "__main__":
    main(sys.argv[1:])
