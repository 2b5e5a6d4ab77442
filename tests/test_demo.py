"""Scores and picture of the demo, from monitor files."""

import sys
from pathlib import Path

import numpy as np
import pytest

HEADER = '#{"t_start": 0.0, "env_id": "None"}\nr,l,t\n'


@pytest.fixture
def demo(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "examples")
    import demo

    yield demo
    del sys.modules["demo"]


def test_scores_of_equal_parts_by_hand(tmp_path, demo):
    """Episodes of 10 steps with scores 1, 3, 5, 7 in a run of 80 steps: they end at steps 10, 20, 30, 40."""
    (tmp_path / "monitor.csv").write_text(HEADER + "".join(f"{score},10,{score}\n" for score in (1, 3, 5, 7)))
    np.testing.assert_array_equal(demo.binned_scores(tmp_path, 80, 4), [1, 4, 7, np.nan])
    np.testing.assert_array_equal(demo.binned_scores(tmp_path, 40, 1), [4])


def test_a_run_without_a_finished_episode(tmp_path, demo):
    (tmp_path / "monitor.csv").write_text(HEADER)
    scores = demo.binned_scores(tmp_path, 80, 4)
    np.testing.assert_array_equal(scores, [np.nan] * 4)
    demo.plot_comparison(
        {"Some-v0": {"PPO": [scores], "SND": [np.array([1, np.nan, 3, 4])]}}, {"Some-v0": 80}, tmp_path / "p.png"
    )
    assert (tmp_path / "p.png").stat().st_size > 0
