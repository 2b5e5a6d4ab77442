"""
``sb3-snd evidence``: train the runs of a queue, one after the other, each with the command that a user would
type, ``sb3-snd train --resume``, at the lowest priority. The queue of this package has the paper's curves, which
take days on two cores. To continue an interrupted queue, use the same command again: SIGTERM and Ctrl-C are
passed on to the run, which saves a checkpoint. The log files of finished runs are kept in --out, with a report
on all of them.
"""

import argparse
import contextlib
import csv
import datetime
import fcntl
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sb3_snd.common.extras import require
from sb3_snd.evidence.pack import keep_model, machine, n_steps_of, pack, whole_lines
from sb3_snd.evidence.points import is_done, n_steps_kept, status, write_report
from sb3_snd.evidence.stages import QUEUE, Stage, read_queue
from sb3_snd.runs.checkpoint_files import list_checkpoints
from sb3_snd.runs.stop_request import StopRequest
from sb3_snd.sweep.job import last_line

POLL = 1.0  # seconds between two looks at a run
ENDED = (0, 128 + signal.SIGTERM)  # exit codes of a run that was asked to end
SHOWN = {"steps": "time/total_timesteps", "steps/s": "time/fps", "score": "rollout/ep_rew_mean"}
SHOWN |= {"novelty": "rollout/novelty_mean", "places": "exploration/places"}


class Log:
    """
    Print lines with a time stamp and append them to a file.

    :param path: Path of the file
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def say(self, text: str) -> None:
        """
        Log a line.

        :param text: The line
        """
        line = f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d %H:%M:%S} {text}"
        print(line, flush=True)
        with open(self.path, "a") as file:
            file.write(line + "\n")


def rollouts(folder: Path) -> Iterator[tuple[int, str]]:
    """
    Read the rollouts in a run's log.

    :param folder: Folder of the run
    :return: number of steps and a line for each rollout
    """
    try:
        rows = csv.DictReader(whole_lines(folder / "progress.csv").decode().splitlines())
    except OSError:  # the run has not begun
        return
    for row in rows:
        values = {name: row[key] for name, key in SHOWN.items() if row.get(key)}
        if {"steps", "steps/s"} <= set(values):  # the line of an evaluation has no speed
            yield int(values["steps"]), ", ".join(f"{name} {float(value):,.6g}" for name, value in values.items())


def train(stage: Stage, args: argparse.Namespace, log: Log, stop: StopRequest) -> int:
    """
    Train a run in a process of its own, up to the steps of a stage.

    :param stage: The run and its steps
    :param args: Arguments of the command line
    :param log: Log that gets one line per rollout
    :param stop: Request to end, which is passed on to the run
    :return: exit code of the run
    :raises ValueError: if another process trains the run
    """
    with open(stage.output(args.logs), "ab") as file:
        try:
            # The lock lasts as long as a process has the file as its output
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{stage} is being trained by another process: end that one with SIGTERM first.") from None
        steps = next((int(path.stem.split("_")[2]) for path in list_checkpoints(stage.folder(args.logs))), 0)
        arguments, where = stage.arguments(args.logs, args.device), machine(args.device)
        began = f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d %H:%M}"
        with open(args.logs / "sessions.jsonl", "a") as sessions:
            typed = " ".join(["sb3-snd", *(f'"{part}"' if "'" in part else part for part in arguments)])
            entry = {"run": stage.run, "from": steps, "began": began, **where, "command": typed}
            sessions.write(json.dumps(entry) + "\n")
        log.say(f"{stage}: from step {steps:,} to {stage.steps:,}, computed by commit {where['commit']}")
        program = ["nice", "-n", "19", sys.executable, "-m", "sb3_snd", *arguments]
        # Ctrl-C is for this process, which passes it on
        pipes: Any = dict(stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
        process = subprocess.Popen(program, **pipes)
        # Linux may first share the processor among sessions, whatever their nice value
        with contextlib.suppress(OSError):
            Path(f"/proc/{process.pid}/autogroup").write_text("19")
    follow(process, stage, args.logs, log, stop)
    return int(process.returncode)


def follow(process: subprocess.Popen[bytes], stage: Stage, logs: Path, log: Log, stop: StopRequest) -> None:
    """
    Wait for a run to end, log its rollouts, and pass on a request to end.

    :param process: Process of the run
    :param stage: The run and its steps
    :param logs: Log folder of the runs
    :param log: Log that gets one line per rollout
    :param stop: Request to end
    """
    shown, asked = n_steps_of(stage.folder(logs)), False
    while process.returncode is None:
        if stop.received is not None and not asked:
            process.send_signal(stop.received)
            asked = True
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(POLL)
        lines = list(rollouts(stage.folder(logs)))
        for steps, line in lines:
            if steps > shown:
                log.say(f"{stage}: {line}")
        # Fewer than before if the run cut off the lines after its checkpoint
        shown = lines[-1][0] if lines else 0


def sessions_of(stage: Stage, logs: Path) -> list[dict[str, Any]]:
    """
    Read which processes computed a run.

    :param stage: The run
    :param logs: Log folder of the runs
    :return: what is known of each process; processes of which no step is left are omitted
    """
    path = logs / "sessions.jsonl"
    entries = map(json.loads, path.read_text().splitlines()) if path.exists() else ()
    mine = [{"from": 0, "commit": "not recorded"}, *(entry for entry in entries if entry.pop("run") == stage.run)]
    ends = [entry["from"] for entry in mine[1:]] + [n_steps_of(stage.folder(logs))]
    return [entry for index, entry in enumerate(mine) if entry["from"] < min(ends[index:])]


def keep(stage: Stage, queue: list[Stage], args: argparse.Namespace) -> None:
    """
    Keep the log files of a run.

    :param stage: The run
    :param queue: All stages, including all those of the run
    :param args: Arguments of the command line
    """
    mine = [other for other in queue if other.run == stage.run]
    goal, points = max(other.steps for other in mine), [1e6 * point for other in mine for point in other.points]
    folder = stage.folder(args.logs)
    facts = {"environment": stage.env, "algo": stage.algo, "seed": stage.seed, "goal": goal}
    facts |= {"finished": n_steps_of(folder) >= goal, "sessions": sessions_of(stage, args.logs)}
    pack(folder, args.out / "runs" / stage.run, facts, points)


def work(queue: list[Stage], args: argparse.Namespace) -> int:
    """
    Train all runs of a queue that are not done.

    :param queue: All stages
    :param args: Arguments of the command line
    :return: exit code: 0 if all runs are done, 1 if some failed, 143 after SIGTERM
    """
    args.logs.mkdir(parents=True, exist_ok=True)
    log, failed = Log(args.logs / "evidence.log"), False
    with StopRequest() as stop:
        for stage in queue:
            if is_done(stage, args.logs, args.out):
                if n_steps_kept(stage, args.out) < stage.steps:  # the run ended after this process did
                    keep(stage, queue, args)
                    write_report(queue, args.out)
                continue
            code = train(stage, args, log, stop)
            if stop.received is not None or (code in ENDED and not is_done(stage, args.logs, args.out)):
                log.say(f"{stage}: put aside, call this again to go on")
                return 0 if stop.received == signal.SIGINT else 128 + signal.SIGTERM
            if code != 0:
                failed = True
                log.say(f"{stage}: failed with exit code {code}: {last_line(stage.output(args.logs))}")
                continue
            log.say(f"{stage}: has its {stage.steps:,} steps")
            keep(stage, queue, args)
            write_report(queue, args.out)
    return int(failed)


def main(argv: list[str] | None = None) -> None:
    """
    Run the command.

    :param argv: Arguments of the command line
    """
    parser = argparse.ArgumentParser("sb3-snd evidence", description=__doc__)
    parser.add_argument("queue", nargs="?", type=Path, default=QUEUE, help="YAML file (default: the paper's curves)")
    parser.add_argument("-f", "--logs", type=Path, default=Path(".evidence"), help="log folder of the runs")
    parser.add_argument("--out", type=Path, default=Path("results/paper"), help="folder of what is kept, which counts as done")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--status", action="store_true", help="only print how far each run is, and which points it meets")
    parser.add_argument("--pack", action="store_true", help="only keep what there is, of unfinished runs, too")
    parser.add_argument("--model", type=Path, help="only keep this model of a run in OUT/models, without optimiser states")
    args = parser.parse_args(argv)
    try:
        require("yaml", "zoo")
        queue = read_queue(args.queue)
        if args.status:
            print(status(queue, args.logs, args.out))
        elif args.model is not None:
            print(keep_model(args.model, args.out / "models"))
        elif args.pack:
            for stage in {stage.run: stage for stage in queue}.values():
                if n_steps_of(stage.folder(args.logs)) > 0:
                    keep(stage, queue, args)
            write_report(queue, args.out)
        else:
            sys.exit(work(queue, args))
    except (ImportError, ValueError) as error:
        sys.exit(f"sb3-snd evidence: {error}")


if __name__ == "__main__":
    main()
