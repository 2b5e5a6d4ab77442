"""Sweeps: small processes in the place of training on a Ray cluster of two machines with one core each, and real runs."""

import csv
import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
import zipfile
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from stable_baselines3 import PPO
from stable_baselines3.common.logger import CSVOutputFormat

from sb3_snd.report.read_logs import RunSummary, find_folders, read_run
from sb3_snd.sweep import scheduler
from sb3_snd.sweep.__main__ import conclude, main
from sb3_snd.sweep.display import live_display, make_table
from sb3_snd.sweep.job import Job, Progress, is_finished, last_line, read_progress, train_command
from sb3_snd.sweep.process import TrainProcess
from sb3_snd.sweep.scheduler import Resources, Scheduler, check_resources, ray_session

ROOT = Path(__file__).parent.parent
N_STEPS = 12288

# Ray reads them once, when it is imported: a token of these tests instead of the user's, and as on a user's cluster
os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=uuid.uuid4().hex)
os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_memory_monitor_refresh_ms="0")


@pytest.fixture(scope="module")
def cluster():
    """:return: the address of two machines, as Ray sees it, with a core each"""
    import ray
    from ray.cluster_utils import Cluster

    node = dict(num_cpus=1, num_gpus=0, object_store_memory=scheduler.OBJECT_STORE, include_dashboard=False)
    machines = Cluster(initialize_head=True, head_node_args=node)
    machines.add_node(**node)
    yield machines.address
    ray.shutdown()
    machines.shutdown()


def jobs_of(logs, n_seeds):
    return [Job("ppo", "Some-v0", seed, 100, logs) for seed in range(n_seeds)]


def execute(address, jobs, code):
    """
    Runs whose process has ``here``, a folder of its own, ``common``, that of all, ``seed``, and ``count``, which says the how
    many-th try it is.
    """
    head = (
        "import os, signal, sys, time\nfrom pathlib import Path\n"
        "here, common, seed = Path(sys.argv[1]), Path(sys.argv[1]).parent, int(sys.argv[2])\n"
        "count = len(list(here.glob('try*'))) + 1\n(here / f'try{count}').touch()\n"
    )
    with ray_session(address), live_display(jobs) as show:
        sweep = Scheduler(jobs, lambda job: ["-c", head + code, str(job.root), str(job.seed)], Resources())
        sweep.execute(show)
    return sweep


def test_two_at_a_time_on_both_machines(cluster, tmp_path):
    """Seeds 0 and 1 each wait for the other, and each machine has one core. Ray may start seeds 2 and 3 before them."""
    code = (
        "deadline = time.time() + 100\n"
        "while seed < 2 and not (common / f'seed_{1 - seed}' / 'try1').exists():\n"
        "    if time.time() > deadline: sys.exit('alone')\n"
        "    time.sleep(0.02)\n"
    )
    jobs = jobs_of(tmp_path, 4)
    execute(cluster, jobs, code)
    assert [(job.state, job.tries) for job in jobs] == [("done", 1)] * 4


def test_a_killed_run_is_tried_again_and_a_hopeless_one_thrice(cluster, tmp_path, capsys):
    code = (
        "print('seed', seed, 'try', count, flush=True)\n"
        "if seed == 0 and count == 1: os.kill(os.getpid(), signal.SIGKILL)\n"
        "if seed == 1: sys.exit('hopeless')\n"
    )
    jobs = jobs_of(tmp_path, 2)
    sweep = execute(cluster, jobs, code)
    assert [(job.state, job.tries) for job in jobs] == [("done", 2), ("failed", 3)]
    assert jobs[0].log.read_text() == "seed 0 try 1\nseed 0 try 2\n"  # one file for all tries
    assert conclude(jobs, sweep.interrupted) == 1
    printed = capsys.readouterr().out
    assert f"ppo Some-v0 seed 0: waiting, try 1 of 3 failed (SIGKILL, see {jobs[0].log})" in printed
    assert "ppo Some-v0 seed 1: failed 3 times (exit code 1, 'hopeless'" in printed
    assert "2 runs: 1 failed, 1 done" in printed


def test_a_worker_that_dies_is_a_failed_try(cluster, tmp_path):
    """The process it leaves behind ends first, then the next try begins."""
    code = (
        "if count == 1:\n    os.kill(os.getppid(), signal.SIGKILL)\n    time.sleep(1)\n    (here / 'ended').touch()\n"
        "assert (here / 'ended').exists()\n"
    )
    (job,) = jobs = jobs_of(tmp_path, 1)
    execute(cluster, jobs, code)
    assert (job.state, job.tries) == ("done", 2) and "ActorDied" in job.reason


def test_finished_runs_are_left_alone(cluster, tmp_path, capsys):
    jobs = jobs_of(tmp_path, 2)
    jobs[0].folder.mkdir(parents=True)
    with zipfile.ZipFile(jobs[0].folder / "Some-v0.zip", "w") as archive:
        archive.writestr("data", '{"num_timesteps": 100}')
    sweep = execute(cluster, jobs, "")
    assert [(job.state, job.tries) for job in jobs] == [("done", 0), ("done", 1)]
    assert not (jobs[0].root / "try1").exists()
    assert conclude(jobs, sweep.interrupted) == 0
    assert capsys.readouterr().out.endswith(f"2 runs: 2 done\nRead them with: sb3-snd report {tmp_path}\n")


def test_no_machine_is_large_enough(cluster, tmp_path):
    with ray_session(cluster):
        check_resources(Resources(1, 0))
    command = ["--algos", "ppo", "--envs", "DeepSea-v0", "-f", str(tmp_path), "--address", cluster]
    for share in (["--cpus-per-run", "2"], ["--gpus-per-run", "0.5"]):
        with pytest.raises(SystemExit, match="is more than any machine has: 1 cores and 0 GPUs, 1 cores and 0 GPUs"):
            main([*command, *share])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(number, tmp_path):
    """Processes get SIGTERM and the time to save; what waits stays as it is."""
    code = (
        "import signal, sys, time\nfrom pathlib import Path\nhere = Path(sys.argv[1])\n"
        "def save(*_): time.sleep(0.5); (here / 'saved').touch(); sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, save)\n(here / 'began').touch()\ntime.sleep(100)\n"
    )
    script = (
        "import sb3_snd.sweep.__main__ as sweep, sb3_snd.sweep.scheduler as scheduler\n"
        "scheduler.available_cpus = lambda: 2\n"
        f"sweep.train_command = lambda job, **_: ['-c', {code!r}, str(job.root)]\n"
        f"sweep.main(['--algos', 'ppo', '--envs', 'DeepSea-v0', '--seeds', '40', '-f', {str(tmp_path)!r}])\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    deadline = time.time() + 60
    while len(list(tmp_path.glob("*/began"))) < 2 and time.time() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    began = [path.parent for path in tmp_path.glob("*/began")]
    assert len(began) >= 2 and all((folder / "saved").exists() for folder in began)
    assert printed.count(": stopping\n") == printed.count(": stopped\n") == len(began)
    assert f"40 runs: {len(began)} stopped, {40 - len(began)} waiting\nInterrupted: the same command continues" in printed


def start(code, log, n_threads=1, has_gpu=False):
    process = TrainProcess()
    process.start(["-c", code], log, log.parent, n_threads, has_gpu)
    return process


def test_environment_of_a_run(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_JOB_ID", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")  # as Ray sets it for a worker with a GPU
    code = "import os; print([os.environ.get(name) for name in ('RAY_JOB_ID', 'CUDA_VISIBLE_DEVICES', 'OMP_NUM_THREADS')])"
    assert start(code, tmp_path / "gpu" / "log", 4, True).wait() == 0
    assert (tmp_path / "gpu" / "log").read_text() == "[None, '5', '4']\n"
    assert start(code, tmp_path / "log").wait() == 0
    assert (tmp_path / "log").read_text() == "[None, '', '1']\n"


def test_one_process_a_run(tmp_path):
    """A second one waits for the first, and for what the first left behind."""
    log = tmp_path / "log"
    first = start("import time; time.sleep(0.7); print('first', flush=True)", log)
    start("print('second')", log).wait()
    assert first.wait() == 0 and log.read_text() == "first\nsecond\n"


def test_a_process_that_does_not_end_is_killed(tmp_path):
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(100)"
    process = start(code, tmp_path / "log")
    while not (tmp_path / "log").read_text():
        time.sleep(0.02)
    threading.Timer(0.1, process.stop, [0.3]).start()
    assert process.wait() == -signal.SIGKILL


def test_finished(tmp_path):
    """Against the zip that SB3 writes."""
    folder = tmp_path / "CartPole-v1_1"
    assert not is_finished(folder, 1)
    model = PPO("MlpPolicy", "CartPole-v1", n_steps=32, batch_size=32, n_epochs=1, device="cpu").learn(64)
    model.save(folder / "CartPole-v1.zip")
    assert is_finished(folder, 64) and not is_finished(folder, 65)
    whole = (folder / "CartPole-v1.zip").read_bytes()
    (folder / "CartPole-v1.zip").write_bytes(whole[: len(whole) // 2])
    assert not is_finished(folder, 64)


def test_progress(tmp_path):
    """Against the file that SB3 writes."""
    assert read_progress(tmp_path) is None
    writer = CSVOutputFormat(str(tmp_path / "progress.csv"))
    assert read_progress(tmp_path) is None
    row = {"time/fps": 99, "time/total_timesteps": 128}
    writer.write(row, {name: None for name in row})
    assert read_progress(tmp_path) == Progress(128, 99.0, None)
    for step in range(3000):  # longer than what is read of it
        more = {"time/fps": 98.5, "time/total_timesteps": 256 + step, "rollout/ep_rew_mean": -step / 2, "a/name": "x" * 50}
        writer.write(more, {name: None for name in more})
    writer.file.write("12,34")  # half a line
    writer.file.flush()
    assert read_progress(tmp_path) == Progress(3255, 98.5, -1499.5)
    writer.close()


def test_where_a_run_lies(tmp_path):
    """In the Zoo's folder, the highest where there are several."""
    job = Job("ppo", "ALE/Pong-v5", 3, 100, tmp_path)
    assert job.folder == tmp_path / "seed_3" / "ppo" / "ALE-Pong-v5_1"
    for name in ("ALE-Pong-v5_2", "ALE-Pong-v5_10", "ALE-Pong-v5_best", "ALE-Pong-v5_11_12"):
        (tmp_path / "seed_3" / "ppo" / name).mkdir(parents=True)
    assert job.folder.name == "ALE-Pong-v5_10" and job.log.parent == job.folder.parent
    command = " ".join(train_command(job, 4, 1000, ["--device", "cpu"]))
    assert command == (
        f"-m sb3_snd.zoo --algo ppo --env ALE/Pong-v5 --seed 3 -f {job.root} -n 100 --num-threads 4 --save-freq 1000"
        " --resume --device cpu"
    )


def test_table(tmp_path):
    states = [
        ("done", 1, "", Progress(100, 50.0, 7.0)),
        (),
        ("running", 2, "SIGKILL", Progress(1_000_000, 1234.5, None)),
        ("failed", 3, "exit code 1"),
    ]
    jobs = [Job("ppo", "Some-v0", seed, 100, tmp_path, *state) for seed, state in enumerate(states)]
    console = Console(file=io.StringIO(), width=120)
    console.print(make_table(jobs))
    table = console.file.getvalue()
    cells = [re.split(r"\s*│\s*", line.strip("│ \n")) for line in table.splitlines() if line.startswith("│")]
    assert cells == [
        ["ppo", "Some-v0", "2", "running, try 1 of 3 failed", "1,000,000", "100", "1,234", "–"],
        ["ppo", "Some-v0", "3", "failed 3 times", "–", "100", "–", "–"],
        ["ppo", "Some-v0", "1", "waiting", "–", "100", "–", "–"],
        ["ppo", "Some-v0", "0", "done", "100", "100", "–", "7.00"],
    ]
    assert "4 runs: 1 running, 1 failed, 1 waiting, 1 done" in table


def test_plan(tmp_path):
    """One seed after the other; steps from -n, or from the entry that train.py would take."""
    from sb3_snd.sweep.plan import plan

    jobs = plan(["ppo", "ppo_rnd", "ppo"], ["DeepSea-v0", "PongNoFrameskip-v4"], 2, None, tmp_path, [])
    names = [(job.algo, job.env_id, job.n_steps) for job in jobs if job.seed == 0]
    deep_sea, pong = ("DeepSea-v0", 100_000), ("PongNoFrameskip-v4", 128_000_000)
    assert names == [("ppo", *deep_sea), ("ppo_rnd", *deep_sea), ("ppo", *pong), ("ppo_rnd", *pong)]
    assert [job.seed for job in jobs] == [0] * 4 + [1] * 4
    assert {job.n_steps for job in plan(["ppo"], ["DeepSea-v0"], 1, 77, tmp_path, [])} == {77}
    assert plan(["a2c"], ["CartPole-v1"], 1, None, tmp_path, [])[0].n_steps == 500_000  # the Zoo's own
    (tmp_path / "mine.yml").write_text("Acrobot-v1: {n_timesteps: !!float 1e3}")
    train_args = ["--conf-file", str(tmp_path / "mine.yml"), "--device", "cpu"]
    assert plan(["ppo_snd"], ["Acrobot-v1"], 1, None, tmp_path, train_args)[0].n_steps == 1000


BAD = {
    "--algos nothing": "nothing is not an algo key whose runs can be resumed: choose from",
    "--algos dqn": "dqn is not an algo key whose runs can be resumed",
    "--envs Nowhere-v0": "Nowhere-v0 is not registered in Gymnasium",
    "--envs Acrobot-v1": "No hyperparameters for Acrobot-v1 in ppo_snd_vic.yml",
    "--seeds 0": "--seeds 0: the number of seeds must be >= 1",
    "-n 0": "-n 0: the number of steps must be >= 1",
    "--save-freq 0": "--save-freq 0 must be >= 1",
    "--cpus-per-run 0": "a run needs at least 1 core, and 0 to 1 GPU",
    "--gpus-per-run 2": "a run needs at least 1 core, and 0 to 1 GPU",
    "--address 127.0.0.1:1": "There is no Ray cluster at 127.0.0.1:1",
    "--address nowhere": "There is no Ray cluster at nowhere",
    "-- --seed 3": "--seed is not supported after --, because the sweep sets it for each run",
    "-- --conf-file nowhere.yml": "nowhere.yml cannot be read",
    "-- --gym-packages not_installed": "No module named 'not_installed'",
}


@pytest.mark.parametrize("arguments", BAD)
def test_bad_input_ends_in_one_sentence(arguments, tmp_path):
    command = ["--algos", "ppo_snd", "--envs", "DeepSea-v0", "-f", str(tmp_path / "logs")]
    with pytest.raises(SystemExit, match=re.escape(BAD[arguments])) as raised:
        main(command + arguments.split())
    assert str(raised.value).startswith("sb3-snd sweep: ") and "\n" not in str(raised.value)
    assert not list(tmp_path.glob("logs/*"))


def test_folder_and_extra(tmp_path, monkeypatch):
    command = ["--algos", "ppo_snd", "--envs", "DeepSea-v0", "-f", str(tmp_path / "file")]
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match=r"file cannot be written to .* choose another folder with -f"):
        main(command)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SystemExit, match=r'run `pip install "sb3-snd\[sweep\]"`'):
        main(command)


def kill_once(folder, text, killed, ended):
    """Kill the one process with this text in its command line, as soon as there is a checkpoint in the folder."""
    while not list(folder.glob("rl_model_*_steps.zip")):
        if ended.wait(0.01):
            return
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode().split("\0")
        except OSError:
            continue
        if "sb3_snd.zoo" in words and " ".join(words).find(text) >= 0:
            os.kill(int(path.parent.name), signal.SIGKILL)
            killed.append(words)


@pytest.mark.slow
def test_four_runs_of_train(cluster, tmp_path, capsys):
    """Two at a time; one is killed after its first checkpoint. All end, and the report reads them."""
    command = ["--algos", "ppo", "ppo_snd_vic", "--envs", "DeepSea-v0", "--seeds", "2", "-n", str(N_STEPS)]
    command += ["--save-freq", "4096", "-f", str(tmp_path), "--address", cluster, "--", "--device", "cpu"]
    folder, killed = tmp_path / "seed_1" / "ppo_snd_vic" / "DeepSea-v0_1", []
    text = f"--algo ppo_snd_vic --env DeepSea-v0 --seed 1 -f {tmp_path / 'seed_1'} "
    ended = threading.Event()
    killer = threading.Thread(target=kill_once, args=(folder, text, killed, ended))
    killer.start()
    with pytest.raises(SystemExit) as raised:
        main(command)
    ended.set()
    killer.join()
    printed = capsys.readouterr().out
    assert raised.value.code == 0 and "4 runs: 4 done" in printed and len(killed) == 1, printed
    assert printed.count("failed") == 3 and "ppo_snd_vic DeepSea-v0 seed 1: done, try 1 of 3 failed" in printed
    assert "--resume: continues at step" in (folder.parent / "DeepSea-v0.train.log").read_text()
    for seed in range(2):
        for algo in ("ppo", "ppo_snd_vic"):
            run = tmp_path / f"seed_{seed}" / algo / "DeepSea-v0_1"
            assert is_finished(run, N_STEPS) and [path.name for path in run.parent.glob("DeepSea-v0_*")] == [run.name]
            assert yaml.load((run / "DeepSea-v0" / "args.yml").read_text(), yaml.UnsafeLoader)["seed"] == seed
            with open(run / "progress.csv") as file:
                steps = [int(row["time/total_timesteps"]) for row in csv.DictReader(file)]
            assert steps == sorted(set(steps)) and steps[-1] == N_STEPS
    reported = [read_run(run) for run in find_folders([tmp_path])]
    assert [type(run) for run in reported] == [RunSummary] * 4 and {run.n_steps for run in reported} == {N_STEPS}

    with pytest.raises(SystemExit) as raised:
        main(command)
    again = capsys.readouterr().out
    assert raised.value.code == 0 and again.count(": done\n") == 4 and "running" not in again


def test_last_line(tmp_path):
    (tmp_path / "log").write_text("one\ntrain.py: what to do.\n\n")
    assert last_line(tmp_path / "log") == "train.py: what to do."
    (tmp_path / "log").write_text("")
    assert last_line(tmp_path / "log") == ""
