import os
import subprocess
import sys

import pytest
import torch as th

from sb3_snd.common import processors
from sb3_snd.common.precision import resolve_precision
from sb3_snd.common.processors import available_cpus, available_threads
from sb3_snd.envs import AtariVecEnv
from sb3_snd.envs.procgen import ProcgenVecEnv

CPU, CUDA = th.device("cpu"), th.device("cuda")


@pytest.mark.parametrize(
    ("avx512", "amx", "expected"), [(True, False, "bfloat16"), (False, True, "bfloat16"), (False, False, "float32")]
)
def test_auto_on_a_cpu_is_what_its_instructions_are_made_for(monkeypatch, avx512, amx, expected):
    monkeypatch.setattr(th.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(th.cpu, "_is_amx_tile_supported", lambda: amx)
    assert resolve_precision("auto", CPU) == expected
    assert resolve_precision("float32", CPU) == "float32"
    assert resolve_precision("bfloat16", CPU) == "bfloat16"


@pytest.mark.parametrize(("supported", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_auto_on_cuda(monkeypatch, supported, expected):
    monkeypatch.setattr(th.cuda, "is_bf16_supported", lambda including_emulation: supported and not including_emulation)
    assert resolve_precision("auto", CUDA) == expected


def test_other_devices_and_formats():
    assert resolve_precision("auto", th.device("mps")) == "float32"
    with pytest.raises(ValueError, match=r"precision='float16' must be one of 'auto', 'bfloat16', 'float32'\."):
        resolve_precision("float16", CPU)


MEMORY = """
import torch as th
from sb3_snd.common.memory import keep_freed_memory, return_freed_memory

def resident():
    return int(open("/proc/self/status").read().split("VmRSS:")[1].split()[0]) // 1024  # MiB

def after_freeing_256():
    tensors = [th.ones(2**24) for _ in range(4)]
    del tensors
    return resident()

start = resident()
print(after_freeing_256() - start)
keep_freed_memory()
print(after_freeing_256() - start)
return_freed_memory()
print(resident() - start)
"""


def test_freed_memory_stays_until_it_is_returned():
    """Of 256 MiB that tensors take and free."""
    output = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True).stdout
    by_default, kept, returned = map(int, output.split())
    assert by_default < 50 and returned < 50
    assert kept > 200


def write_files(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


V1 = "12:cpuset:/\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/\n0::/\n"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, []),  # not Linux
        ({"proc/self/cgroup": "0::/\n"}, []),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, []),
        # in a container
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, [1.5]),
        # a unit of systemd within a slice, each with a quota
        (
            {
                "proc/self/cgroup": "0::/a.slice/b.service\n",
                "sys/fs/cgroup/a.slice/b.service/cpu.max": "max 100000\n",
                "sys/fs/cgroup/a.slice/cpu.max": "40000 20000\n",
            },
            [2.0],
        ),
        # the path is the host's, of which the container shows its own part only
        (
            {
                "proc/self/cgroup": V1,
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "300000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            [3.0],
        ),
        (
            {
                "proc/self/cgroup": V1,
                "sys/fs/cgroup/cpu/docker/abc/cpu.cfs_quota_us": "50000\n",
                "sys/fs/cgroup/cpu/docker/abc/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            [0.5],
        ),
    ],
)
def test_quotas_of_both_versions_of_cgroups(files, expected, tmp_path):
    write_files(tmp_path, files)
    assert list(processors._cpu_quotas(tmp_path)) == expected


@pytest.mark.parametrize(
    ("quotas", "omp", "cpus", "threads"),
    [
        ((), None, 6, 6),
        ((), "4", 6, 4),
        ((), "3,2", 6, 3),  # OpenMP's list of nested levels
        ((), "64", 6, 6),
        ((), "0", 6, 6),
        ((), "many", 6, 6),
        ((2.5, 8.0), None, 3, 3),
        ((0.2,), "4", 1, 1),
    ],
)
def test_affinity_quota_and_omp_num_threads(quotas, omp, cpus, threads, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(10, 16)), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(processors, "_cpu_quotas", lambda: iter(quotas))
    if omp is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", omp)
    assert (available_cpus(), available_threads()) == (cpus, threads)


def test_where_there_is_no_affinity(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    monkeypatch.setattr(processors, "_cpu_quotas", lambda: iter(()))
    assert available_cpus() == 5
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert available_cpus() == 1


THREADS = """
import os, sys
from sb3_snd.envs import AtariVecEnv, ProcgenVecEnv

def n_threads():
    return len(os.listdir("/proc/self/task"))

if sys.argv[2] == "affinity":
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
if sys.argv[1] == "atari":
    before, env = n_threads(), AtariVecEnv("PongNoFrameskip-v4", 4)
else:
    before, env = n_threads(), ProcgenVecEnv("procgen-coinrun-v0", 4)
env.reset()
print(n_threads() - before)
"""


@pytest.mark.parametrize("limit", ["affinity", "omp"])
@pytest.mark.parametrize("family", ["atari", pytest.param("procgen", marks=pytest.mark.procgen)])
def test_emulators_start_as_many_threads_as_they_may(family, limit):
    omp = {"OMP_NUM_THREADS": "1"} if limit == "omp" else {}
    command = [sys.executable, "-c", THREADS, family, limit]
    output = subprocess.run(command, env={**os.environ, **omp}, capture_output=True, text=True, check=True).stdout
    assert int(output.splitlines()[-1]) == 1


@pytest.mark.procgen
def test_threads_that_are_asked_for_are_started(monkeypatch):
    """Otherwise as many as there may be, and no more than games."""
    asked = []

    class Engine:
        def __init__(self, *args, **kwargs):
            asked.append(kwargs["num_threads"])
            raise InterruptedError

    monkeypatch.setattr("ale_py.vector_env.AtariVectorEnv", Engine)
    monkeypatch.setattr("sb3_snd.envs.atari.available_threads", lambda: 3)
    monkeypatch.setattr("sb3_snd.envs.procgen.available_threads", lambda: 3)
    for n_envs, num_threads in ((8, 0), (2, 0), (8, 5)):
        with pytest.raises(InterruptedError):
            AtariVecEnv("PongNoFrameskip-v4", n_envs, num_threads=num_threads)
        asked.append(ProcgenVecEnv("procgen-coinrun-v0", n_envs, num_threads=num_threads).engine_kwargs["num_threads"])
    assert asked == [3, 3, 2, 2, 5, 5]
