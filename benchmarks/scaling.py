"""
Time and memory of the package against the number of environments and the size of the frames.

``python benchmarks/scaling.py`` runs one process for each size; options that it does not know go to ``throughput.py``.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from throughput import Worker, parse_arguments

N_ENVS = (32, 64, 128, 256, 512)
FRAME_SIZES = (64, 84, 96, 128)


def measure(argv: list[str], rounds: int) -> dict[str, float]:
    """
    :param argv: Command line of ``throughput.py``
    :param rounds: Iterations that count
    :return: median seconds of an iteration, steps per second, and peaks of memory in bytes
    """
    worker = Worker("ours", parse_arguments(argv))
    whole = statistics.median(sum(worker.measure().values()) for _ in range(rounds))
    sizes = worker.about["sizes"]
    return {"seconds": whole, "steps_per_s": sizes["n_steps"] * sizes["n_envs"] / whole, **worker.close()}


def main() -> None:
    """Measure, print two tables, write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--values", type=int, nargs="+", help="numbers of environments, instead of both tables")
    parser.add_argument("--json", type=Path, help="file to write all numbers to")
    args, rest = parser.parse_known_args()
    rest = ["--n-steps", "16", "--n-epochs", "1", *rest]
    results: dict[str, Any] = {}
    tables = [("--n-envs", args.values)] if args.values else [("--n-envs", N_ENVS), ("--frame-size", FRAME_SIZES)]
    for option, values in tables:
        rows = results[option] = {value: measure([*rest, option, str(value)], args.rounds) for value in values}
        kinds = list(rows[values[0]])[2:]
        heads = [option, "s an iteration", "steps/s", *(f"peak memory, {kind}, GB" for kind in kinds)]
        print(f"\n| {' | '.join(heads)} |\n|{'---:|' * len(heads)}")
        for value, row in rows.items():
            cells = [f"{value}", f"{row['seconds']:.1f}", f"{row['steps_per_s']:.0f}"]
            cells += [f"{row[kind] / 1e9:.2f}" for kind in kinds]
            print(f"| {' | '.join(cells)} |", flush=True)
    if args.json is not None:
        args.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
