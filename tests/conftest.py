import sys
from pathlib import Path

import pytest
import torch as th

sys.path.insert(0, str(Path(__file__).parent))  # fakes.py and rounding.py
th.set_num_threads(2)  # also for fixtures of a module


@pytest.fixture(autouse=True)
def two_threads():
    """The same number of threads on every machine, whatever the test before has set."""
    th.set_num_threads(2)
