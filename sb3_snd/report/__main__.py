"""
``sb3-snd report logs/ --out report/``: draw learning curves and the paper's two tables for all runs
in the Zoo's log folders, next to the published results.
"""

import argparse
import sys
from pathlib import Path

from sb3_snd.common.extras import require
from sb3_snd.report import figures, tables
from sb3_snd.report.html import write_html
from sb3_snd.report.markdown import picture
from sb3_snd.report.read_logs import Column, RunSummary, Skipped, find_folders, read_runs


def report(logs: list[Path], out: Path, n_jobs: int | None = None) -> Path:
    """
    Write a report on all runs in log folders.

    :param logs: Log folders, searched recursively
    :param out: Folder for ``report.md``, the same as one page in ``report.html``, pictures (PNG and SVG) and tables (CSV)
    :param n_jobs: Number of processes that read runs; as many as there are cores by default
    :return: path of the report
    :raises ImportError: if a package is missing; the message names the extra
    :raises ValueError: if no run can be read
    """
    require("matplotlib", "plots")
    tqdm = require("tqdm", "plots").tqdm
    folders = find_folders(logs)
    if not folders:
        raise ValueError(
            f"There is no monitor file in {', '.join(map(str, logs))}: give the folder that sb3-snd train -f wrote to."
        )
    found = list(tqdm(read_runs(folders, n_jobs), total=len(folders), unit="run", desc="reading"))
    runs = [entry for entry in found if isinstance(entry, RunSummary)]
    skipped = [entry for entry in found if isinstance(entry, Skipped)]
    if not runs:
        raise ValueError(f"No run could be read; the first of {len(skipped)}: {skipped[0].folder}: {skipped[0].reason}.")
    out.mkdir(parents=True, exist_ok=True)
    groups = tables.group(runs)
    rows = tables.rows(groups)
    tables.write_csv(out / "scores.csv", rows)
    lines = ["# Report", "", tables.markdown(rows, skipped, [run for run in runs if run.remark]), "", "## Learning curves", ""]
    points: dict[Column, list[dict[str, object]]] = {column: [] for column in Column}
    for env_id, algos in tqdm(groups.items(), unit="environment", desc="drawing"):
        for column, drawn in points.items():
            drawn += figures.draw(env_id, algos, column, out)
            lines.append(picture(f"{figures.LABELS[column]} in {env_id}", f"{figures.stem(env_id, column)}.png"))
        places = figures.draw_places(env_id, algos, out)
        lines += [picture(f"distinct places seen in {env_id}", f"{places}.png")] if places else []
    lines += [
        "",
        "Mean over runs and, for up to ten models, a band of one standard deviation; dashed: published, read off the"
        " paper's figure to ±0.3.",
    ]
    for column, drawn in points.items():
        tables.write_csv(out / f"curves_{column.name.lower()}.csv", drawn)
    path = out / "report.md"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_html(path, out / "report.html")
    return path


def main(argv: list[str] | None = None) -> None:
    """
    Run the command.

    :param argv: Arguments of the command line
    """
    parser = argparse.ArgumentParser("sb3-snd report", description=__doc__)
    parser.add_argument("logs", nargs="+", type=Path, help="log folders of the RL Zoo: algo key / environment / run")
    parser.add_argument("--out", type=Path, default=Path("report"))
    parser.add_argument("--jobs", type=int, help="number of processes that read runs (default: number of cores)")
    args = parser.parse_args(argv)
    try:
        path = report(args.logs, args.out, args.jobs)
    except (ImportError, ValueError) as error:
        sys.exit(f"sb3-snd report: {error}")
    print(f"report: {path}, {path.with_suffix('.html')}")


if __name__ == "__main__":
    main()
