import re
import sys
from pathlib import Path

import pytest
import torch as th

sys.path.insert(0, str(Path(__file__).parent))  # fakes.py and rounding.py
th.set_num_threads(1)  # also for fixtures of a module

PROCGEN_HAS_WHEEL = sys.version_info < (3, 13)
collect_ignore = [] if PROCGEN_HAS_WHEEL else ["test_procgen.py"]


def pytest_collection_modifyitems(config, items):
    """Leave out what needs Procgen's engine where it has no wheel: tests with the mark, and cases that a game's id names."""
    if not PROCGEN_HAS_WHEEL:
        left_out = [item for item in items if item.get_closest_marker("procgen") or re.search(r"procgen-\w+-v0", item.name)]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(autouse=True)
def one_thread():
    """The same number of threads on every machine, whatever the test before has set."""
    th.set_num_threads(1)
