"""
``python -m sb3_snd.sweep --algos ppo_rnd ppo_snd_vic --envs procgen-jumper-v0 --seeds 9``: run ``train.py``
once per algorithm, environment and seed, on this machine or a Ray cluster, with as many runs in parallel as
cores and GPUs allow. Failed runs are retried from their last checkpoint. To resume an interrupted sweep, use
the same command again.
"""

import argparse
import functools
import sys
from collections.abc import Sequence
from pathlib import Path

from sb3_snd.common.extras import require
from sb3_snd.sweep.display import shown
from sb3_snd.sweep.runs import Run, train_command
from sb3_snd.sweep.scheduler import Scheduler, Share, Status, check_share, connected


def sweep(runs: Sequence[Run], share: Share, save_freq: int, further: list[str], address: str | None = None) -> int:
    """
    Execute all runs of a sweep.

    :param runs: Runs from :func:`~sb3_snd.sweep.plan.plan`
    :param share: Resources that each run needs
    :param save_freq: Number of steps between checkpoints
    :param further: Additional arguments for ``train.py``
    :param address: Address of a Ray cluster; None for this machine only
    :return: exit code: 0 if all runs are done, 1 if some failed, 130 if the sweep was interrupted
    :raises ValueError: if there is no cluster, or no machine has the resources
    """
    command = functools.partial(train_command, n_threads=share.n_cpus, save_freq=save_freq, further=further)
    statuses = [Status(run) for run in runs]
    with connected(address):
        check_share(share)
        scheduler = Scheduler(statuses, command, share)
        with shown(statuses) as show:
            scheduler.execute(show)
    return conclude(statuses, scheduler.interrupted)


def conclude(statuses: Sequence[Status], interrupted: bool) -> int:
    """
    Print the result of the sweep and how to continue.

    :param statuses: Runs of the sweep
    :param interrupted: Whether the sweep was interrupted
    :return: exit code
    """
    failed = [status for status in statuses if status.state == "failed"]
    for status in failed:
        print(f"{status.run} failed {status.tries} times: {status.reason}")
    if interrupted:
        print("Interrupted: the same command continues each run from its last checkpoint.")
        return 130
    if failed:
        print("The same command retries the failed runs.")
        return 1
    print(f"Read them with: python -m sb3_snd.report {statuses[0].run.logs}")
    return 0


def main(argv: list[str] | None = None) -> None:
    """
    Run the command.

    :param argv: Arguments of the command line
    """
    argv = sys.argv[1:] if argv is None else argv
    end = argv.index("--") if "--" in argv else len(argv)
    parser = argparse.ArgumentParser(
        "python -m sb3_snd.sweep", description=__doc__, epilog="Arguments after -- are passed on to train.py."
    )
    parser.add_argument("--algos", nargs="+", required=True, help="algo keys")
    parser.add_argument("--envs", nargs="+", required=True, help="environment ids")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds, which are 0, 1, 2, ...")
    parser.add_argument("-n", "--n-timesteps", type=int, help="number of steps of each run (default: that of the YAML entry)")
    parser.add_argument(
        "-f", "--log-folder", type=Path, default=Path("logs"), help="on a cluster, a folder shared by all machines"
    )
    parser.add_argument("--cpus-per-run", type=int, default=1, help="number of cores per run, and of PyTorch's threads")
    parser.add_argument("--gpus-per-run", type=float, default=0.0, help="0.25: four runs share a GPU; 0: no GPU is used")
    parser.add_argument("--save-freq", type=int, default=100_000, help="number of steps between two checkpoints of a run")
    parser.add_argument(
        "--address", help="address of a Ray cluster, or auto for that of this machine (default: this machine only)"
    )
    args = parser.parse_args(argv[:end])
    share = Share(args.cpus_per_run, args.gpus_per_run)
    try:
        if share.n_cpus < 1 or not 0 <= share.n_gpus <= 1:
            raise ValueError(
                f"--cpus-per-run {share.n_cpus} --gpus-per-run {share.n_gpus:g}: a run needs at least 1 core, and 0 to 1 GPU."
            )
        if args.save_freq < 1:
            raise ValueError(f"--save-freq {args.save_freq} must be >= 1: without checkpoints runs cannot be resumed.")
        for module, extra in (("ray", "sweep"), ("rich", "sweep"), ("rl_zoo3", "zoo")):
            require(module, extra)
        from sb3_snd.sweep.plan import plan

        further = argv[end + 1 :]
        runs = plan(args.algos, args.envs, args.seeds, args.n_timesteps, args.log_folder, further)
        code = sweep(runs, share, args.save_freq, further, args.address)
    except (ImportError, ValueError) as error:
        sys.exit(f"sb3_snd.sweep: {error}")
    except KeyboardInterrupt:  # raised before the first run starts
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    main()
