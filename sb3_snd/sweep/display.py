"""Display a sweep: as a live table in a terminal, elsewhere as one line per change.

Knows the states of jobs and rich. Must not start anything.
"""

import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from sb3_snd.common.extras import require
from sb3_snd.sweep.job import Job, State
from sb3_snd.sweep.scheduler import TRIES

#: order in the table, which is cut off at the end of the terminal
ORDER: tuple[State, ...] = ("running", "stopping", "failed", "stopped", "waiting", "done")
COLORS = {"running": "cyan", "stopping": "yellow", "failed": "red", "stopped": "yellow", "waiting": "dim", "done": "green"}


@contextlib.contextmanager
def live_display(jobs: Sequence[Job]) -> Iterator[Callable[[], None]]:
    """
    Display the states of jobs within this context.

    :param jobs: Jobs of the sweep
    :return: context manager that yields a function to call after each change
    """
    if not sys.stdout.isatty():
        seen: dict[str, str] = {}
        yield lambda: print_changes(jobs, seen)
        print(summary(jobs))
        return
    live = require("rich.live", "sweep").Live(auto_refresh=False)
    with live:
        yield lambda: live.update(make_table(jobs), refresh=True)


def describe(job: Job) -> str:
    """
    Describe the state of a job.

    :param job: A job
    :return: state, and which try failed if one did
    """
    failed = job.tries - (job.state in ("running", "stopping", "stopped", "done"))
    if job.state == "failed":
        return f"failed {job.tries} times"
    return f"{job.state}, try {failed} of {TRIES} failed" if failed > 0 else job.state


def print_changes(jobs: Sequence[Job], seen: dict[str, str]) -> None:
    """
    Print one line for each job whose state has changed.

    :param jobs: Jobs of the sweep
    :param seen: Job -> last known state; updated
    """
    for job in jobs:
        name, state = str(job), describe(job)
        if seen.get(name) != state and (name in seen or job.state != "waiting"):
            reason = f" ({job.reason})" if job.state in ("waiting", "failed") else ""
            print(f"{name}: {state}{reason}", flush=True)
        seen[name] = state


def summary(jobs: Sequence[Job]) -> str:
    """
    Count the jobs in each state.

    :param jobs: Jobs of the sweep
    :return: one line of text
    """
    counts = Counter(job.state for job in jobs)
    return f"{len(jobs)} runs: " + ", ".join(f"{counts[state]} {state}" for state in ORDER if counts[state])


def make_table(jobs: Sequence[Job]) -> Any:
    """
    Make the live table.

    :param jobs: Jobs of the sweep
    :return: rich's table, with running jobs first
    """
    table = require("rich.table", "sweep").Table(caption=summary(jobs), caption_justify="left")
    for name in ("algo", "environment", "seed", "state"):
        table.add_column(name)
    for name in ("steps", "of", "steps/s", "mean reward"):
        table.add_column(name, justify="right")
    for job in sorted(jobs, key=lambda job: ORDER.index(job.state)):
        progress = job.progress
        cells = [f"{progress.n_steps:,}" if progress else "–", f"{job.n_steps:,}"]
        cells.append(f"{progress.steps_per_s:,.0f}" if progress and job.state == "running" else "–")
        cells.append("–" if progress is None or progress.mean_reward is None else f"{progress.mean_reward:.2f}")
        state = f"[{COLORS[job.state]}]{describe(job)}"
        table.add_row(job.algo, job.env_id, str(job.seed), state, *cells)
    return table
