"""
``sb3-snd sweep --algos ppo_rnd ppo_snd_vic --envs procgen-jumper-v0 --seeds 9``: run
``sb3-snd train`` once per algorithm, environment and seed, on this machine or a Ray cluster, with as many runs
in parallel as cores and GPUs allow. Failed runs are retried from their last checkpoint. To resume an interrupted
sweep, use the same command again.
"""

import argparse
import functools
import sys
from collections.abc import Sequence
from pathlib import Path

from sb3_snd.common.extras import require
from sb3_snd.sweep.display import live_display
from sb3_snd.sweep.job import Job, train_command
from sb3_snd.sweep.scheduler import Resources, Scheduler, check_resources, ray_session


def sweep(
    jobs: Sequence[Job],
    resources: Resources,
    save_freq: int,
    train_args: list[str],
    address: str | None = None,
) -> int:
    """
    Execute all jobs of a sweep.

    :param jobs: Jobs from :func:`~sb3_snd.sweep.plan.plan`
    :param resources: Resources that each run needs
    :param save_freq: Number of steps between checkpoints
    :param train_args: Additional arguments for ``sb3-snd train``
    :param address: Address of a Ray cluster; None for this machine only
    :return: exit code: 0 if all runs are done, 1 if some failed, 130 if the sweep was interrupted
    :raises ValueError: if there is no cluster, or no machine has the resources
    """
    command = functools.partial(train_command, n_threads=resources.n_cpus, save_freq=save_freq, train_args=train_args)
    with ray_session(address):
        check_resources(resources)
        scheduler = Scheduler(jobs, command, resources)
        with live_display(jobs) as show:
            scheduler.execute(show)
    return conclude(jobs, scheduler.interrupted)


def conclude(jobs: Sequence[Job], interrupted: bool) -> int:
    """
    Print the result of the sweep and how to continue.

    :param jobs: Jobs of the sweep
    :param interrupted: Whether the sweep was interrupted
    :return: exit code
    """
    failed = [job for job in jobs if job.state == "failed"]
    for job in failed:
        print(f"{job} failed {job.tries} times: {job.reason}")
    if interrupted:
        print("Interrupted: the same command continues each run from its last checkpoint.")
        return 130
    if failed:
        print("The same command retries the failed runs.")
        return 1
    print(f"Read them with: sb3-snd report {jobs[0].logs}")
    return 0


def main(argv: list[str] | None = None) -> None:
    """
    Run the command.

    :param argv: Arguments of the command line
    """
    argv = sys.argv[1:] if argv is None else argv
    end = argv.index("--") if "--" in argv else len(argv)
    parser = argparse.ArgumentParser(
        "sb3-snd sweep", description=__doc__, epilog="Arguments after -- are passed on to sb3-snd train."
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
    resources = Resources(args.cpus_per_run, args.gpus_per_run)
    try:
        if resources.n_cpus < 1 or not 0 <= resources.n_gpus <= 1:
            asked = f"--cpus-per-run {resources.n_cpus} --gpus-per-run {resources.n_gpus:g}"
            raise ValueError(f"{asked}: a run needs at least 1 core, and 0 to 1 GPU.")
        if args.save_freq < 1:
            raise ValueError(f"--save-freq {args.save_freq} must be >= 1: without checkpoints runs cannot be resumed.")
        for module, extra in (("ray", "sweep"), ("rich", "sweep"), ("rl_zoo3", "zoo")):
            require(module, extra)
        from sb3_snd.sweep.plan import plan

        train_args = argv[end + 1 :]
        jobs = plan(args.algos, args.envs, args.seeds, args.n_timesteps, args.log_folder, train_args)
        code = sweep(jobs, resources, args.save_freq, train_args, args.address)
    except (ImportError, ValueError) as error:
        sys.exit(f"sb3-snd sweep: {error}")
    except KeyboardInterrupt:  # raised before the first run starts
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    main()
