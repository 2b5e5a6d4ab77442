import subprocess
import sys

import pytest
import torch as th

from sb3_snd.hardware import resolve_precision

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
from sb3_snd.hardware import keep_freed_memory, return_freed_memory

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
