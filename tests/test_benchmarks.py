"""The benchmarks run, and what they print is what they measured; how fast anything is, no test says."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(autouse=True)
def beside_each_other(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)


def load(name):
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(name, *arguments):
    command = [sys.executable, BENCHMARKS / f"{name}.py", *arguments]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True)


@pytest.mark.slow
def test_throughput(tmp_path):
    sizes = ["--n-envs", 4, "--n-steps", 8, "--batch-size", 16, "--n-epochs", 1, "--frame-size", 40, "--device", "cpu"]
    result = run("throughput", "--algo", "ppo_snd_std", *sizes, "--rounds", 2, "--json", tmp_path / "out.json")
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "out.json").read_text())
    assert {name: report["settings"][name] for name in ("n_envs", "n_steps", "batch_size", "n_epochs", "algo")} == {
        "n_envs": 4,
        "n_steps": 8,
        "batch_size": 16,
        "n_epochs": 1,
        "algo": "ppo_snd_std",
    }
    for name in ("ours", "naive", "stock"):
        runs = report["seconds_of_each_iteration"][name]
        assert len(runs) == 2 and report["peak_memory_bytes"][name]["host"] > 1e8
        novel = {phase: seconds > 0 for phase, seconds in runs[0].items() if phase in ("novelty", "SND update")}
        assert set(novel.values()) == {name != "stock"}
        assert all(run[phase] > 0 for run in runs for phase in ("inference", "PPO update", "stepping"))
        assert f"{report['summary'][name]['steps_per_s']:.0f}" in result.stdout
    assert "| median of an iteration | ours | naive | stock |" in result.stdout


def test_summary_by_hand():
    """Two rounds: 2 and 4 seconds against 6 and 10."""
    module = load("throughput")

    def iteration(seconds):
        return {**dict.fromkeys(module.PHASES, 0.0), "stepping": 0.5, "PPO update": seconds - 0.5}

    runs = {"ours": [iteration(2.0), iteration(4.0)], "naive": [iteration(6.0), iteration(10.0)]}
    summary = module.summarise(runs, 600)
    assert summary["ours"]["steps_per_s"] == 200.0 and summary["naive"]["steps_per_s"] == 75.0
    assert summary["naive"]["ours_is_faster"] == {"median": 2.75, "min": 2.5, "max": 3.0}
    table = module.table(summary, {"ours": {"host": 10**9}, "naive": {"host": 2 * 10**9}}).splitlines()
    assert "| ours is faster by | 1.00 (1.00 to 1.00) | 2.75 (2.50 to 3.00) |" in table
    assert "| peak memory, host, GB | 1.00 | 2.00 |" in table


def test_questions_by_hand():
    """Seconds of whole iterations 3, 2 and 1.5; rollouts 1 and 0.9."""
    module = load("throughput")

    def row(whole, rollout=0.0):
        return {"whole": whole, "phases": {"rollout": rollout}}

    summary = {"ours": row(3.0, 1.0), "emulators": row(1.5), "nets": row(2.0), "one-stream": row(2.0, 0.9)}
    assert module.questions(summary) == pytest.approx(
        {
            "whole loop against the larger of emulators and nets alone": 1.5,
            "whole loop against one stream without SND": 1.5,
            "share of the rollout that novelty adds": 0.1,
        }
    )
    assert module.questions({"ours": row(3.0), "naive": row(9.0)}) == {}


def test_what_goes_wrong_is_one_sentence():
    result = run("throughput", "--env", "Nowhere-v0", "--against", "--rounds", 1)
    assert result.returncode == 1
    assert "throughput.py: there is no environment Nowhere-v0." in result.stderr
    assert "Traceback" not in result.stderr
    assert "--rounds must be 1 at least." in run("throughput", "--rounds", 0).stderr


@pytest.mark.slow
def test_parts_alone_and_scaling(tmp_path):
    sizes = ["--n-steps", 4, "--batch-size", 16, "--n-epochs", 1, "--device", "cpu"]
    parts = ["emulators", "nets", "one-stream", "eager", "naive", "stock"]
    arguments = ["--n-envs", 4, "--frame-size", 40, "--rounds", 2, "--seconds", 0, "--coarse", "--against", *parts]
    result = run("throughput", "--algo", "ppo_snd_v", *sizes, *arguments, "--json", tmp_path / "out.json")
    assert result.returncode == 0, result.stderr
    report = json.loads((tmp_path / "out.json").read_text())
    runs = report["seconds_of_each_iteration"]
    assert {name: len(run) for name, run in runs.items()} == dict.fromkeys(["ours", *parts], 1)  # time was up
    assert report["settings"]["algo"] == "ppo_snd_v"
    trained = {name for name, (iteration,) in runs.items() if iteration["SND update"] > 0}
    assert trained == {"ours", "nets", "eager", "naive"}
    assert sum(runs["emulators"][0].values()) == runs["emulators"][0]["other"] > 0
    for name in ("ours", "nets", "one-stream", "eager", "naive", "stock"):
        assert runs[name][0]["rollout"] > 0 == runs[name][0]["novelty"] + runs[name][0]["inference"]
    assert len(report["questions"]) == 3 and report["recorded"] == {}
    sizes = [*sizes, "--algo", "ppo_rnd", "--frame-size", 40]
    result = run("scaling", "--rounds", 1, "--values", 4, 8, *sizes, "--json", tmp_path / "scaling.json")
    assert result.returncode == 0, result.stderr
    by_envs = json.loads((tmp_path / "scaling.json").read_text())["--n-envs"]
    assert list(by_envs) == ["4", "8"]
    for n_envs, row in by_envs.items():
        assert row["steps_per_s"] == pytest.approx(4 * int(n_envs) / row["seconds"])


@pytest.mark.slow
@pytest.mark.procgen  # ALE takes half a minute to make 128 emulators
def test_profile():
    sizes = ["--n-steps", 4, "--n-epochs", 1, "--rows", 30, "--device", "cpu"]
    result = run("profile_update", "--env", "procgen-jumper-v0", *sizes)
    assert result.returncode == 0, result.stderr
    head, _, *rows = result.stdout.splitlines()[-32:]
    assert head == "| operation | on | calls | ms | share |" and len(rows) == 30
    shares = [float(row.split("|")[5].strip(" %")) for row in rows]
    assert shares == sorted(shares, reverse=True) and 0 < shares[0] <= 100
    assert any("conv" in row for row in rows)  # whatever the processor's library calls it


@pytest.mark.slow
def test_small_tasks():
    sizes = ["--n-envs", 2, "--n-steps", 8, "--batch-size", 8, "--n-epochs", 1, "--iterations", 1]
    result = run("small_tasks", *sizes, "--rounds", 2)
    assert result.returncode == 0, result.stderr
    _, _, *rows = result.stdout.splitlines()[-7:]
    names = ["stock PPO", "PPOSND, snd=None", "PPOSND, vic", "PPOSND, std", "PPO + wrapper + callback, vic"]
    assert [row.split(" | ")[0].strip("| ") for row in rows] == names
    assert "| 1.00 (1.00 to 1.00) |" in rows[0]
    assert "--rounds must be 1 at least." in run("small_tasks", "--rounds", 0).stderr


def test_table_of_small_tasks_by_hand():
    """Two rounds: 0.1 and 0.2 seconds of stock PPO against 0.2 and 0.25."""
    module = load("small_tasks")

    def iteration(*seconds):
        return dict(zip((module.ROLLOUT, module.PPO_UPDATE, module.SND_UPDATE), seconds, strict=True))

    runs = {
        module.STOCK: [iteration(0.04, 0.06, 0.0), iteration(0.08, 0.12, 0.0)],
        "ours": [iteration(0.05, 0.1, 0.05), iteration(0.1, 0.1, 0.05)],
    }
    *_, stock, ours = module.table(runs, 60).splitlines()
    assert stock == "| stock PPO | 400 | 1.00 (1.00 to 1.00) | 60 | 90 | 0 |"
    assert ours == "| ours | 267 | 0.65 (0.50 to 0.80) | 75 | 100 | 50 |"


@pytest.mark.slow
def test_rewards():
    sizes = ["--n-envs", 2, "--n-steps", 8, "--batch-size", 8, "--n-epochs", 1, "--iterations", 1]
    result = run("rewards", *sizes, "--rounds", 2, "--rewards", "vic*e3b", "counts of a map")
    assert result.returncode == 0, result.stderr
    *_, alone, product, mapped = result.stdout.splitlines()
    assert [row.split(" | ")[0].strip("| ") for row in (alone, product, mapped)] == ["none", "vic*e3b", "counts of a map"]
    assert "| 1.00 (1.00 to 1.00) | 0 |" in alone
    assert "--rounds must be 1 at least." in run("rewards", "--rounds", 0).stderr


def test_table_of_rewards_by_hand():
    """Two rounds: 0.1 and 0.2 seconds without a reward against 0.2 and 0.25 with one, which takes 50 MB."""
    module = load("rewards")
    runs = {
        module.ALONE: [{module.ROLLOUT: 0.1}, {module.ROLLOUT: 0.2}],
        "e3b": [{module.ROLLOUT: 0.1, module.SND_UPDATE: 0.1}, {module.ROLLOUT: 0.2, module.SND_UPDATE: 0.05}],
    }
    peaks = {module.ALONE: {"host": 400_000_000}, "e3b": {"host": 450_000_000}}
    *_, alone, reward = module.table(runs, peaks, 60).splitlines()
    assert alone == "| none | 400 | 1.00 (1.00 to 1.00) | 0 |"
    assert reward == "| e3b | 267 | 0.65 (0.50 to 0.80) | 50 |"
