"""Display a sweep: as a live table in a terminal, elsewhere as one line per change.

Knows the states of runs and rich. Must not start anything.
"""

import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from sb3_snd.common.extras import require
from sb3_snd.sweep.scheduler import TRIES, Status

ORDER = ("running", "stopping", "failed", "stopped", "waiting", "done")  # the table is cut off at the end of the terminal
COLORS = {"running": "cyan", "stopping": "yellow", "failed": "red", "stopped": "yellow", "waiting": "dim", "done": "green"}


@contextlib.contextmanager
def shown(statuses: Sequence[Status]) -> Iterator[Callable[[], None]]:
    """
    Display the states of runs within this context.

    :param statuses: Runs of the sweep
    :return: context manager that yields a function to call after each change
    """
    if not sys.stdout.isatty():
        seen: dict[str, str] = {}
        yield lambda: print_changes(statuses, seen)
        print(summary(statuses))
        return
    live = require("rich.live", "sweep").Live(auto_refresh=False)
    with live:
        yield lambda: live.update(make_table(statuses), refresh=True)


def describe(status: Status) -> str:
    """
    Describe the state of a run.

    :param status: Status of a run
    :return: state, and which try failed if one did
    """
    failed = status.tries - (status.state in ("running", "stopping", "stopped", "done"))
    if status.state == "failed":
        return f"failed {status.tries} times"
    return f"{status.state}, try {failed} of {TRIES} failed" if failed > 0 else status.state


def print_changes(statuses: Sequence[Status], seen: dict[str, str]) -> None:
    """
    Print one line for each run whose state has changed.

    :param statuses: Runs of the sweep
    :param seen: Run -> last known state; updated
    """
    for status in statuses:
        name, state = str(status.run), describe(status)
        if seen.get(name) != state and (name in seen or status.state != "waiting"):
            reason = f" ({status.reason})" if status.state in ("waiting", "failed") else ""
            print(f"{name}: {state}{reason}", flush=True)
        seen[name] = state


def summary(statuses: Sequence[Status]) -> str:
    """
    Count the runs in each state.

    :param statuses: Runs of the sweep
    :return: one line of text
    """
    counts = Counter(status.state for status in statuses)
    return f"{len(statuses)} runs: " + ", ".join(f"{counts[state]} {state}" for state in ORDER if counts[state])


def make_table(statuses: Sequence[Status]) -> Any:
    """
    Make the live table.

    :param statuses: Runs of the sweep
    :return: rich's table, with running runs first
    """
    table = require("rich.table", "sweep").Table(caption=summary(statuses), caption_justify="left")
    for name in ("algo", "environment", "seed", "state"):
        table.add_column(name)
    for name in ("steps", "of", "steps/s", "mean reward"):
        table.add_column(name, justify="right")
    for status in sorted(statuses, key=lambda status: ORDER.index(status.state)):
        run, progress = status.run, status.progress
        cells = [f"{progress.n_steps:,}" if progress else "–", f"{run.n_steps:,}"]
        cells.append(f"{progress.steps_per_s:,.0f}" if progress and status.state == "running" else "–")
        cells.append("–" if progress is None or progress.mean_reward is None else f"{progress.mean_reward:.2f}")
        state = f"[{COLORS[status.state]}]{describe(status)}"
        table.add_row(run.algo, run.env_id, str(run.seed), state, *cells)
    return table
