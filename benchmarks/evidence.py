"""
Trains the paper's curves as far as the time goes: the runs of a queue (`evidence.yml`), one after the other, each by the
command that a user would type, `train.py --resume`, at the lowest priority. Called again it goes on where it stopped. SIGTERM
and Ctrl-C are passed on: the run saves, and both end. Finished runs are kept in `results/paper`, and a report on all of them
is made anew:

    make evidence
    python benchmarks/evidence.py --status     # how far each run is
    python benchmarks/evidence.py --pack       # keep what unfinished runs have so far, too
    python benchmarks/evidence.py --device cuda
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

from evidence_pack import keep_model, machine, n_steps_of, pack, whole_lines
from evidence_points import is_done, n_steps_kept, status, write_report
from evidence_queue import Stage, read_queue

from sb3_snd.common.extras import require_or_exit
from sb3_snd.runs.checkpoint_files import list_checkpoints
from sb3_snd.runs.stop_request import StopRequest
from sb3_snd.sweep.job import last_line

ROOT = Path(__file__).parent.parent
POLL = 1.0  # seconds
ENDED = (0, 128 + signal.SIGTERM)  # exit codes of a run that somebody asked to end
SHOWN = {"steps": "time/total_timesteps", "steps/s": "time/fps", "score": "rollout/ep_rew_mean"}
SHOWN |= {"novelty": "rollout/novelty_mean", "places": "exploration/places"}


class Log:
    """
    One line a rollout, and whatever else happens.

    :param path: File that is appended to
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def say(self, text: str) -> None:
        """
        :param text: A line
        """
        line = f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d %H:%M:%S} {text}"
        print(line, flush=True)
        with open(self.path, "a") as file:
            file.write(line + "\n")


def rollouts(folder: Path) -> Iterator[tuple[int, str]]:
    """
    :param folder: Of a run
    :return: steps and a line on each rollout in its log
    """
    try:
        rows = csv.DictReader(whole_lines(folder / "progress.csv").decode().splitlines())
    except OSError:  # it has not begun
        return
    for row in rows:
        values = {name: row[key] for name, key in SHOWN.items() if row.get(key)}
        if {"steps", "steps/s"} <= set(values):  # an evaluation's line has no speed
            yield int(values["steps"]), ", ".join(f"{name} {float(value):,.6g}" for name, value in values.items())


def train(stage: Stage, args: argparse.Namespace, log: Log, stop: StopRequest) -> int:
    """
    :param stage: The run and its steps
    :param args: Of the command line
    :param log: Gets a line a rollout
    :param stop: Is passed on
    :return: the exit code of ``train.py``
    :raises ValueError: if another process trains the run
    """
    with open(stage.output(args.logs), "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # lasts as long as the process that has it as its output
        except BlockingIOError:
            raise ValueError(f"{stage} is being trained by another process: end that one with SIGTERM first.") from None
        steps = next((int(path.stem.split("_")[2]) for path in list_checkpoints(stage.folder(args.logs))), 0)
        command, where = stage.command(args.logs, args.device), machine(args.device)
        began = f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d %H:%M}"
        with open(args.logs / "sessions.jsonl", "a") as sessions:
            typed = " ".join(["python", *(f'"{part}"' if "'" in part else part for part in command)])
            entry = {"run": stage.run, "from": steps, "began": began, **where, "command": typed}
            sessions.write(json.dumps(entry) + "\n")
        log.say(f"{stage}: from step {steps:,} to {stage.steps:,}, computed by commit {where['commit']}")
        program = ["nice", "-n", "19", sys.executable, str(ROOT / command[0]), *command[1:]]
        # Ctrl-C is for this process, which passes it on
        pipes: Any = dict(stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
        process = subprocess.Popen(program, **pipes)
        with contextlib.suppress(OSError):  # Linux may share the processor among sessions first, whatever their nice value
            Path(f"/proc/{process.pid}/autogroup").write_text("19")
    shown, asked = n_steps_of(stage.folder(args.logs)), False
    while process.returncode is None:
        if stop.received is not None and not asked:
            process.send_signal(stop.received)
            asked = True
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(POLL)
        lines = list(rollouts(stage.folder(args.logs)))
        for steps, line in lines:
            if steps > shown:
                log.say(f"{stage}: {line}")
        shown = lines[-1][0] if lines else 0  # fewer than before where the run cut off what came after its checkpoint
    return int(process.returncode)


def sessions_of(stage: Stage, logs: Path) -> list[dict[str, Any]]:
    """:return: what is known of the processes that computed the run; those of which no step is left are not among them"""
    path = logs / "sessions.jsonl"
    entries = map(json.loads, path.read_text().splitlines()) if path.exists() else ()
    mine = [{"from": 0, "commit": "not recorded"}, *(entry for entry in entries if entry.pop("run") == stage.run)]
    ends = [entry["from"] for entry in mine[1:]] + [n_steps_of(stage.folder(logs))]
    return [entry for index, entry in enumerate(mine) if entry["from"] < min(ends[index:])]


def keep(stage: Stage, queue: list[Stage], args: argparse.Namespace) -> None:
    """
    :param stage: A run of which CSV files go to where they are kept
    :param queue: All stages, the run's own among them
    :param args: Of the command line
    """
    mine = [other for other in queue if other.run == stage.run]
    goal, points = max(other.steps for other in mine), [1e6 * point for other in mine for point in other.points]
    folder = stage.folder(args.logs)
    facts = {"environment": stage.env, "algo": stage.algo, "seed": stage.seed, "goal": goal}
    facts |= {"finished": n_steps_of(folder) >= goal, "sessions": sessions_of(stage, args.logs)}
    pack(folder, args.out / "runs" / stage.run, facts, points)


def work(queue: list[Stage], args: argparse.Namespace) -> int:
    """
    :param queue: All stages
    :param args: Of the command line
    :return: exit code: 0 when all is done, 1 if a run failed, 143 after SIGTERM
    """
    args.logs.mkdir(parents=True, exist_ok=True)
    log, failed = Log(args.logs / "evidence.log"), False
    with StopRequest() as stop:
        for stage in queue:
            if is_done(stage, args.logs, args.out):
                if n_steps_kept(stage, args.out) < stage.steps:  # it ended while nobody kept it
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queue", type=Path, default=Path(__file__).with_suffix(".yml"))
    parser.add_argument("-f", "--logs", type=Path, default=Path(".evidence"), help="log folder of the runs")
    parser.add_argument("--out", type=Path, default=Path("results/paper"), help="where they are kept; what is there is done")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--status", action="store_true")
    parser.add_argument("--pack", action="store_true")
    parser.add_argument("--model", type=Path, help="keep this model of a run in OUT/models, without its optimisers' states")
    args = parser.parse_args()
    require_or_exit("yaml", "zoo")
    try:
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
    except ValueError as error:
        sys.exit(f"evidence.py: {error}")


if __name__ == "__main__":
    main()
