"""Number of processors that this process may use, and their name.

Knows the operating system only.
"""

import math
import os
import platform
from collections.abc import Iterator
from pathlib import Path


def available_cpus() -> int:
    """
    Count the processors that this process may use, given its CPU affinity (``taskset``) and the CPU quotas of
    its cgroups, of both versions (``docker --cpus``, systemd's ``CPUQuota``). Python has such a function only
    from 3.13, and it ignores quotas.

    :return: number of processors, at least 1; a quota of one and a half counts as two
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([allowed, *map(math.ceil, _cpu_quotas())]))


def available_threads() -> int:
    """
    Count the threads that a library may start: :func:`.available_cpus`, or fewer if ``OMP_NUM_THREADS`` is
    lower.

    :return: number of threads, at least 1
    """
    # It may list one number per nested level
    wanted = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return min(available_cpus(), int(wanted)) if wanted.isdecimal() and int(wanted) > 0 else available_cpus()


def processor_name(root: Path = Path("/")) -> str:
    """
    Find the name of the processor.

    :param root: Folder that contains ``proc``
    :return: model as the operating system names it, and the number of all cores; the architecture if the model
        is not known
    """
    try:
        lines = (root / "proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def _cpu_quotas(root: Path = Path("/")) -> Iterator[float]:
    """
    Find the CPU quotas of this process's cgroups and of their parents.

    :param root: Folder that contains ``proc`` and ``sys``
    :return: quotas in processors
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # not Linux
        return
    mounts = root / "sys/fs/cgroup"
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mount, names = mounts, ["cpu.max"]
        elif "cpu" in controllers.split(","):
            mount, names = mounts / "cpu", ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
        else:
            continue
        # In a container the path may be the host's, of which only the root exists here
        own = Path(path.lstrip("/"))
        for folder in (own, *own.parents):
            try:
                quota, period = " ".join((mount / folder / name).read_text() for name in names).split()
            except (OSError, ValueError):
                continue
            if quota not in ("max", "-1"):
                yield int(quota) / int(period)
