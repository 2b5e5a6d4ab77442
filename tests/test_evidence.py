"""The queue of long runs: its order, what it takes up, what it keeps of a run, and what published points make of it."""

import argparse
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch as th
import yaml

from sb3_snd import PPOSND
from sb3_snd.evidence.__main__ import keep
from sb3_snd.evidence.pack import LIMIT, find_commit, keep_model, pack
from sb3_snd.evidence.points import Judgement, judge, runs_table, verdicts, write_report
from sb3_snd.evidence.stages import QUEUE, Stage, read_queue
from sb3_snd.report import published
from sb3_snd.report.read_logs import RunSummary, read_run

ROOT = Path(__file__).parent.parent
ENV = "procgen-jumper-v0"
SMALL = ["n_envs:4", "n_steps:16", "batch_size:32", "n_epochs:1", "callback:'sb3_snd.ExplorationLogger'"]


def rows(path):
    with open(path) as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


def start(folder, queue, *more):
    (folder / "queue.yml").write_text(yaml.safe_dump(queue))
    options = [folder / "queue.yml", "-f", folder / "logs", "--out", folder / "out", *more]
    command = [sys.executable, "-W", "ignore", "-m", "sb3_snd", "evidence", *options]
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(list(map(str, command)), env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process):
    stdout, stderr = process.communicate(timeout=300)
    assert "Traceback" not in stderr, stderr
    return process.returncode, stdout, stderr


def steps_of(folder):
    found = [int(row["time/total_timesteps"]) for path in folder.glob("progress.csv") for row in rows(path)]
    return max(found, default=0)


@pytest.mark.slow
def test_the_queue_goes_on_where_it_was_stopped(tmp_path):
    """A short run, then one of hours: it is stopped by SIGTERM, shortened, and goes on; the first one is left alone."""
    short = {"env": "DeepSea-v0", "algo": "ppo_snd_v", "seed": 1, "steps": 128, "params": SMALL, "points": {0.000128: 0.9}}
    long = {**short, "seed": 2, "steps": 10**8, "points": {}}
    process = start(tmp_path, [short, long])
    first, second = (tmp_path / "logs" / "ppo_snd_v" / f"DeepSea-v0_{number}" for number in (1, 2))
    end = time.time() + 200
    while steps_of(second) < 640 and time.time() < end and process.poll() is None:
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    code, stdout, stderr = finish(process)
    assert code == 143, stderr
    (last,) = [int(path.stem.split("_")[2]) for path in second.glob("rl_model_*_steps.zip")]
    assert last == steps_of(second) >= 640 and steps_of(first) == 128
    log = (tmp_path / "logs" / "evidence.log").read_text().splitlines()
    assert log == stdout.splitlines()[-len(log) :]
    assert f"ppo_snd_v DeepSea-v0 seed 2: steps {last:,}, steps/s " in log[-2] and log[-1].endswith("call this again to go on")
    kept = tmp_path / "out" / "runs" / "ppo_snd_v"
    assert [path.name for path in kept.iterdir()] == ["DeepSea-v0_1"]
    before = {path: path.read_bytes() for path in (kept / "DeepSea-v0_1").iterdir()}
    names = ["monitor.csv", "places.txt", "progress.csv", "run.json"]
    assert sorted(path.name for path in before) == names
    assert before[kept / "DeepSea-v0_1" / "monitor.csv"] == (first / "monitor.csv").read_bytes()
    places = int(rows(first / "progress.csv")[-1]["exploration/places"])
    assert len(before[kept / "DeepSea-v0_1" / "places.txt"].splitlines()) == places > 10

    queue = [short, {**long, "steps": last + 64}]
    code, stdout, _ = finish(start(tmp_path, queue, "--status"))
    status = stdout.splitlines()
    assert status[0].startswith("1. ppo_snd_v DeepSea-v0 seed 1: 128 of 128 steps, done; mean reward now ") and code == 0
    assert ": missed" in status[0] and f"seed 2: {last:,} of {last + 64:,} steps, under way" in status[1]
    code, _, stderr = finish(start(tmp_path, queue))
    assert code == 0, stderr
    assert steps_of(second) == last + 64 and PPOSND.load(second / "DeepSea-v0.zip", device="cpu").num_timesteps == last + 64
    assert {path: path.read_bytes() for path in (kept / "DeepSea-v0_1").iterdir()} == before
    facts = json.loads((kept / "DeepSea-v0_2" / "run.json").read_text())
    assert facts["finished"] and (facts["steps"], facts["goal"]) == (last + 64, last + 64)
    assert [session["from"] for session in facts["sessions"]] == [0, last]
    assert (
        f"--algo ppo_snd_v --env DeepSea-v0 --seed 2 -n {last + 64} --save-freq 100000 --resume"
        in facts["sessions"][1]["command"]
    )
    assert "| `ppo_snd_v` | 2 |" in (tmp_path / "out" / "report" / "report.md").read_text()
    assert finish(start(tmp_path, queue))[1] == ""  # all is done


@pytest.mark.slow
def test_a_folder_that_was_begun_by_hand_is_taken_over(tmp_path):
    """With the user's own command; what is unfinished is kept on request, and called so."""
    command = ["--algo", "ppo", "--env", "DeepSea-v0", "--seed", 5, "-n", 64, "-f", tmp_path / "logs", "--save-freq", 64]
    command = [sys.executable, ROOT / "train.py", *command, "--resume", "-params", *SMALL]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    stage = {"env": "DeepSea-v0", "algo": "ppo", "seed": 5, "steps": 128, "params": SMALL}
    code, _, stderr = finish(start(tmp_path, [stage], "--pack"))
    assert code == 0, stderr
    kept = tmp_path / "out" / "runs" / "ppo" / "DeepSea-v0_5"
    facts = json.loads((kept / "run.json").read_text())
    assert (facts["steps"], facts["goal"], facts["finished"]) == (64, 128, False)
    assert facts["sessions"] == [{"from": 0, "commit": "not recorded"}]
    assert "*unfinished*" in (tmp_path / "out" / "points.md").read_text()
    code, stdout, stderr = finish(start(tmp_path, [stage]))
    assert code == 0 and "ppo DeepSea-v0 seed 5: from step 64 to 128" in stdout, stderr
    facts = json.loads((kept / "run.json").read_text())
    assert facts["finished"] and [session["from"] for session in facts["sessions"]] == [0, 64]
    assert [path.name for path in (tmp_path / "logs" / "ppo").iterdir()] == ["DeepSea-v0_1"]


@pytest.mark.slow
def test_a_run_that_fails_is_named_and_the_next_one_begins(tmp_path):
    stage = {"env": "DeepSea-v0", "algo": "ppo", "seed": 0, "steps": 64, "params": [*SMALL, "gamma:7"]}
    code, stdout, _ = finish(start(tmp_path, [stage, {**stage, "params": SMALL, "seed": 1}]))
    assert code == 1
    assert "seed 0: failed with exit code 1: sb3-snd train: gamma" in stdout and "seed 1: has its 64 steps" in stdout


@pytest.mark.parametrize("text", ["", "- {env: a}", "- {env: a, algo: b, seed: 1, steps: 2, step: 3}", "- 7", "[", "7"])
def test_what_is_no_queue_is_one_sentence(text, tmp_path):
    (tmp_path / "queue.yml").write_text(text)
    with pytest.raises(
        ValueError, match=r"queue.yml is no queue .*: give a YAML file whose lines have env, algo, seed, steps"
    ):
        read_queue(tmp_path / "queue.yml")


def test_the_queue_of_the_paper():
    """Its order, the command of a run, and that its points are those of the paper's figure, where that has them."""
    queue = read_queue(QUEUE)
    first = [(stage.algo, stage.env.removesuffix("NoFrameskip-v4"), stage.steps / 1e6) for stage in queue[:10]]
    assert first == [
        ("ppo_snd_std", ENV, 1.785856),
        ("ppo_snd", "MontezumaRevenge", 2),
        ("ppo_snd_vic", ENV, 6),
        ("ppo_baseline", ENV, 3),
        ("ppo_rnd", ENV, 3),
        ("ppo_baseline", "MontezumaRevenge", 1),
        ("ppo_snd_v", ENV, 5),
        ("ppo_snd_v", "procgen-coinrun-v0", 4),
        ("ppo_snd_vic", "PrivateEye", 2),
        ("ppo_baseline", "PrivateEye", 2),
    ]
    command = "train --algo ppo_snd --env MontezumaRevengeNoFrameskip-v4 --seed 1 -n 2000000 --save-freq 100000 --resume"
    expected = f"{command} -f .evidence -params callback:'sb3_snd.ExplorationLogger'"
    assert " ".join(queue[1].arguments(Path(".evidence"), "auto")) == expected
    assert "--device cuda" in " ".join(queue[1].arguments(Path(".evidence"), "cuda"))
    for stage in queue:
        params = {other.params for other in queue if other.run == stage.run}
        assert len(params) == 1 and max(stage.points, default=0) * 1e6 <= stage.steps
        for point, reward in stage.points.items():
            paper = published.curve_at(stage.algo, stage.env, 1e6 * point)
            assert (reward == 0) if paper is None else reward == pytest.approx(paper, abs=0.1)


def write_run(folder, episodes, total, header="r,l,t,r_ext,r_int"):
    """Episodes of (score, length, learner's reward)."""
    folder.mkdir(parents=True)
    lines = [
        f"{score},{length},{index * 0.25:.6f},{reward},0.123456" for index, (score, length, reward) in enumerate(episodes)
    ]
    (folder / "monitor.csv").write_text('#{"t_start": 0.0, "env_id": "x"}\n' + "\n".join([header, *lines]) + "\n")
    logged = "time/iterations,time/time_elapsed,time/total_timesteps,exploration/places\n"
    (folder / "progress.csv").write_text(logged + f"1,1800,{total // 2},3\n1,1800,{total},4\n")
    return folder


def test_judged_by_hand(tmp_path):
    """Episodes of 40,000 steps: of the 100,000 before 200,000 those that end at 120,000, 160,000 and 200,000 count."""
    rewards = [9.0, 9.0, 1.0, 2.0, 6.0, 9.0]
    folder = write_run(tmp_path / "run", [(100 * reward, 40_000, reward) for reward in rewards], 240_000)
    assert judge(folder, 200_000) == Judgement(3.0, 3, 100_000)
    assert judge(folder, 180_000) == Judgement(1.5, 2, 100_000)  # of 120,000 and 160,000; 80,000 does not belong to it
    assert judge(folder, 240_001) is None
    seldom = write_run(tmp_path / "seldom", [(0.0, 50_000, 7.0), (0.0, 300_000, 1.0), (0.0, 400_000, 3.0)], 760_000)
    assert judge(seldom, 750_000) == Judgement(3.0, 1, 100_000)
    assert judge(seldom, 700_000) == Judgement(1.0, 1, 400_000)  # none ended in 100,000 or 200,000 steps before
    assert judge(seldom, 40_000) is None
    assert judge(tmp_path / "nowhere", 1) is None


@pytest.mark.parametrize(
    ("env_id", "reward", "verdict"),
    [
        (ENV, 6.6, "met"),
        (ENV, 6.59, "missed"),
        ("MontezumaRevengeNoFrameskip-v4", 3.8, "met"),
        ("MontezumaRevengeNoFrameskip-v4", 3.79, "missed"),
    ],
)
def test_a_point_is_met_or_missed(env_id, reward, verdict, tmp_path):
    """Published 7.6: one less suffices in Procgen, half of it in Atari."""
    stage = Stage(env_id, "ppo_snd_std", 1, 1_000_000, points={0.2: 7.6, 0.5: 8.0})
    folder = write_run(tmp_path / "runs" / stage.run, [(0.0, 1000, reward)] * 201, 201_000)
    ours = f"{reward:.2f} (100 episodes of 100,000 steps)"
    expected = [(0.2, 7.6, ours, verdict), (0.5, 8.0, "–", "not there yet")]
    assert list(verdicts(stage, folder)) == expected
    (folder / "run.json").write_text(
        json.dumps({"steps": 201000, "goal": 10**6, "finished": False, "hours": 1, "sessions": []})
    )
    write_report([stage], tmp_path)
    table = (tmp_path / "points.md").read_text()
    assert f"| {env_id} | `ppo_snd_std` | 1 | 0.2 | 7.6 | {ours} | {verdict} |" in table
    assert f"| `{stage.run}` | 0.201, *unfinished*, of 1 | 1.0 |" in table


def test_thinned_files_say_the_same(tmp_path):
    """Two megabytes of episodes become less than one; means, steps, the best score and the judged means stay."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(20, 60, 60_000)
    rewards = np.round(rng.uniform(0, 10, 60_000), 6)
    scores = 10 * rewards
    scores[12_345] = 1234.5
    episodes = list(zip(scores, lengths, rewards, strict=True))
    total = int(lengths.sum())
    folder = write_run(tmp_path / "logs" / "ppo" / "Some-v0_1", episodes, total)
    with open(folder / "progress.csv", "a") as file:
        file.writelines(f"{index},{index},{total + index},5\n" for index in range(2, 60_000))
        file.write("7,7,7")  # it is being written
    assert (folder / "monitor.csv").stat().st_size > 2 * LIMIT and (folder / "progress.csv").stat().st_size > LIMIT
    target = tmp_path / "runs" / "ppo" / "Some-v0_3"
    points = [1e6, 1.5e6]
    pack(folder, target, {"seed": 3}, points)
    assert all(path.stat().st_size <= LIMIT for path in target.iterdir())
    before, after = read_run(folder), read_run(target)
    assert isinstance(after, RunSummary) and (after.n_steps, after.n_episodes) == (before.n_steps, 60_000) == (total, 60_000)
    assert after.highest_score == 1234.5
    assert after.mean_reward == pytest.approx(rewards.mean(), abs=1e-6)
    assert after.mean_score == pytest.approx(scores.mean(), abs=1e-6)
    steps = lengths.cumsum()
    for point in points:
        within = (steps > point - 100_000) & (steps <= point)
        ours = judge(target, point)
        assert ours.mean == pytest.approx(rewards[within].mean(), abs=1e-6)  # six digits are written
        assert (ours.n_episodes, ours.window) == (within.sum(), 100_000)
    facts = json.loads((target / "run.json").read_text())
    assert (facts["seed"], facts["steps"], facts["episodes_per_line"]) == (3, total + 59_999, 4)
    assert facts["hours"] == round((1800 + 59_999) / 3600, 2)  # the second process goes on counting rollouts
    last = rows(target / "progress.csv")[-1]
    assert last["time/total_timesteps"] == str(total + 59_999)


def test_processes_that_computed_a_run(tmp_path):
    """One began by hand; of the second no step is left; of the third a checkpoint was lost; two share a commit."""
    stage = Stage(ENV, "ppo", 3, 400)
    folder = write_run(tmp_path / "ppo" / f"{ENV}_1", [(0.0, 10, 1.0)] * 40, 400)
    (folder / ENV).mkdir()
    (folder / ENV / "args.yml").write_text("seed: 3\n")
    begun = [(100, "a"), (100, "b"), (300, "c"), (200, "d"), (250, "d")]
    lines = [{"run": stage.run, "from": steps, "commit": commit, "processor": "P"} for steps, commit in begun]
    lines.append({"run": "other", "from": 0, "commit": "e", "processor": "Q"})
    (tmp_path / "sessions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    keep(stage, [stage], argparse.Namespace(logs=tmp_path, out=tmp_path / "out"))
    facts = json.loads((tmp_path / "out" / "runs" / stage.run / "run.json").read_text())
    known = [(session["from"], session["commit"]) for session in facts["sessions"]]
    assert known == [(0, "not recorded"), (100, "b"), (200, "d"), (250, "d")]
    row = f"| `{stage.run}` | 0.0004 | 1.0 | P | not recorded from 0, b from 100, d from 200 |"
    assert runs_table(tmp_path / "out" / "runs")[-1] == row


def test_a_wheel_tells_its_version_instead_of_a_commit(tmp_path):
    """Also where it is installed into a folder below another repository, which ignores it."""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    source = tmp_path / "pack.py"
    source.write_text("")
    version = (ROOT / "sb3_snd" / "version.txt").read_text().strip()
    assert find_commit(source) == find_commit(tmp_path / "missing" / "pack.py") == f"version {version}"
    results = tmp_path / "results" / "points.md"
    results.parent.mkdir()
    results.write_text("")
    subprocess.run([*git, "add", "pack.py", "results"], check=True)
    subprocess.run([*git, "commit", "--quiet", "-m", "one"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    commit = find_commit(source)
    assert len(commit) >= 7 and head.startswith(commit)
    results.write_text("packed")  # by the queue, before its next run
    assert find_commit(source) == commit
    source.write_text("changed")
    assert find_commit(source) == f"{commit}-dirty"


def test_what_is_kept_makes_the_same_report(tmp_path):
    """Of the committed log files: the tables are those that are committed."""
    paper = ROOT / "results" / "paper"
    shutil.copytree(paper / "runs", tmp_path / "runs")
    write_report(read_queue(QUEUE), tmp_path)
    for name in ("points.md", "report/report.md"):
        assert (tmp_path / name).read_text() == (paper / name).read_text(), name
    for name in ("scores.csv", "curves_reward.csv", "curves_score.csv"):
        numbers = ([row.values() for row in rows(folder / "report" / name)] for folder in (tmp_path, paper))
        for ours, kept in zip(*numbers, strict=True):
            for mine, other in zip(ours, kept, strict=True):  # a mean of a million doubles in another order: 1e6 * 2^-53
                assert mine == other or float(mine) == pytest.approx(float(other), rel=1e-9, abs=1e-9)
    assert all(path.stat().st_size <= 1_000_000 for path in (paper / "runs").rglob("*.*"))


def test_kept_models_can_be_loaded():
    """What a clone holds to be played: less than 20 MB, laid out as the Zoo finds it."""
    paths = sorted((ROOT / "results" / "paper" / "models").glob("*/*/*.zip"))
    assert len(paths) >= 2 and sum(path.stat().st_size for path in paths) < 20e6
    for path in paths:
        model = PPOSND.load(path, device="cpu")
        assert th.isfinite(model.snd.novelty(np.stack([model.observation_space.sample()]))).all()
        assert (path.parent / path.stem / "config.yml").is_file() and (path.parent / path.stem / "args.yml").is_file()


def test_fewer_steps_never_replace_more(tmp_path):
    long = write_run(tmp_path / "long", [(0.0, 10, 1.0)] * 8, 80)
    short = write_run(tmp_path / "short", [(0.0, 10, 2.0)] * 4, 40)
    pack(long, tmp_path / "kept", {}, [])
    pack(short, tmp_path / "kept", {}, [])
    assert (tmp_path / "kept" / "monitor.csv").read_bytes() == (long / "monitor.csv").read_bytes()
    facts = json.loads((tmp_path / "kept" / "run.json").read_text())
    assert facts == {"steps": 80, "hours": 1.0, "episodes_per_line": 1}


def test_a_kept_model_acts_the_same_and_learns_on(tmp_path):
    """Half its size at most; weights are rounded to 16 bits, whose relative error is 2^-11; optimisers begin anew."""
    run = tmp_path / "logs" / "ppo_snd_v" / "DeepSea-v0_1"
    (run / "DeepSea-v0").mkdir(parents=True)
    (run / "DeepSea-v0" / "args.yml").write_text("seed: 1\n")
    model = PPOSND("MlpPolicy", gym.make("DeepSea-v0"), n_steps=64, batch_size=32, n_epochs=1, snd="v", seed=1, device="cpu")
    model.learn(128)
    model.save(run / "DeepSea-v0.zip")
    path = keep_model(run / "DeepSea-v0.zip", tmp_path / "models")
    assert path == tmp_path / "models" / "ppo_snd_v" / "DeepSea-v0_1" / "DeepSea-v0.zip"
    assert (path.parent / "DeepSea-v0" / "args.yml").is_file()
    assert path.stat().st_size < (run / "DeepSea-v0.zip").stat().st_size / 4
    kept = PPOSND.load(path, env=gym.make("DeepSea-v0"), device="cpu")
    for mine, other in zip(model.policy.parameters(), kept.policy.parameters(), strict=True):
        assert other.dtype == th.float32 and th.allclose(mine, other, rtol=2**-11, atol=2**-25)
    for mine, other in zip(model.snd.buffers(), kept.snd.buffers(), strict=True):
        assert th.equal(mine, other)
    assert kept.policy.optimizer.state_dict()["state"] == {} == kept.snd.trainer.optimizer.state_dict()["state"]
    before = kept.policy.action_net.weight.detach().clone()
    kept.learn(64, reset_num_timesteps=False)
    assert kept.num_timesteps == 192 and not th.equal(kept.policy.action_net.weight, before)
