"""
What a model does on a GPU, seen on a machine that has none: ``no_gpu_process.py`` trains on fake tensors of a stand-in
device, in a process of its own. It sees tensors of two devices in one operation. Within acting and the updates that
``cuda_graphs=True`` records it also sees whatever the host reads, uploads or copies.

It does not see

- autocast and bfloat16, as ``precision`` is float32;
- pinned memory, copies that do not wait, and the order of streams;
- a real capture: what CUDA or its libraries forbid within one, memory that moves, the state of random numbers;
- whatever depends on numbers, such as results and branches, as the host reads a 1 everywhere;
- how nets travel to the device, as they are made there;
- code that asks whether the device is called ``cuda``;
- operations that a CPU has and a GPU lacks.

Devices that are mixed within a backward pass end the process, and so fail every test here.
"""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

PRIVATE = {
    "torch._C": ["_set_only_lift_cpu_tensors"],
    "torch._subclasses.fake_tensor": ["FakeTensor", "FakeTensorMode"],
    "torch.utils._python_dispatch": ["TorchDispatchMode"],
    "torch.utils._pytree": ["tree_leaves"],
    "torch.utils.backend_registration": ["_DummyBackendModule", "_setup_privateuseone_for_python_backend"],
}


def missing():
    """:return: private functions that this PyTorch does not have"""
    names = []
    for module_name, attributes in PRIVATE.items():
        try:
            module = importlib.import_module(module_name)
        except ImportError:
            names.append(module_name)
            continue
        names.extend(f"{module_name}.{name}" for name in attributes if not hasattr(module, name))
    return names


if missing():
    pytest.skip(f"this PyTorch has no {', '.join(missing())}", allow_module_level=True)

from no_gpu_process import CASES, FAULTS, PLAIN  # noqa: E402


@pytest.fixture(scope="module")
def results():
    """For each case the number of its recordings, and for each planted fault what was seen of it."""
    process = subprocess.run(
        [sys.executable, Path(__file__).with_name("no_gpu_process.py")], capture_output=True, text=True, timeout=600
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])


@pytest.mark.parametrize("case", CASES)
def test_nothing_is_mixed_and_nothing_read_within_a_recording(case, results):
    """Acting is recorded, and both updates."""
    assert results[case] == 3


@pytest.mark.parametrize("case", PLAIN)
def test_nothing_is_mixed_without_recordings(case, results):
    assert results[case] == 0


@pytest.mark.parametrize(("fault", "seen"), [(name, seen) for name, (*_, seen) in FAULTS.items()])
def test_a_planted_fault_is_seen(fault, seen, results):
    assert seen in results[fault]
