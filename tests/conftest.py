import sys
from pathlib import Path

import pytest
import torch as th

sys.path.insert(0, str(Path(__file__).parent))  # fakes.py


@pytest.fixture(autouse=True)
def two_threads():
    """The same number of threads everywhere, so that sums are the same everywhere."""
    th.set_num_threads(2)
