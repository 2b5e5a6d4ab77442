"""Reports on tiny synthetic logs, whose means, deviations and maxima are computed by hand."""

import csv
import json

import numpy as np
import pytest
from matplotlib.colors import to_hex

from sb3_snd.report import figures, published, tables
from sb3_snd.report.__main__ import main, report
from sb3_snd.report.read_logs import Column, RunSummary, Skipped, bin_episodes, find_folders, read_run

ENV = "procgen-jumper-v0"


def write_run(logs, algo="ppo_snd_vic", env_id=ENV, number=1, episodes=((0.0, 10, 1.0),), ending="\n", extra=True):
    """Episodes of (score, length, learner's reward)."""
    folder = logs / algo / f"{env_id.replace('/', '-')}_{number}"  # as the Zoo writes it
    folder.mkdir(parents=True)
    names = ["r", "l", "t", "r_ext", "r_int"] if extra else ["r", "l", "t"]
    lines = [",".join(names)]
    for index, (score, length, reward) in enumerate(episodes):
        lines.append(",".join(map(str, [score, length, index, reward, 0.5][: len(names)])))
    header = json.dumps({"t_start": 0.0, "env_id": env_id})
    (folder / "monitor.csv").write_text(f"#{header}\n" + "\n".join(lines) + ending)
    return folder


def read_csv(path):
    with open(path) as file:
        return list(csv.DictReader(file))


def test_run_by_hand(tmp_path):
    """Rewards 1, 0, 2 after 10, 30 and 60 steps; scores 100, 0, 50."""
    run = read_run(write_run(tmp_path, episodes=[(100.0, 10, 1.0), (0.0, 20, 0.0), (50.0, 30, 2.0)]))
    assert (run.algo, run.env_id, run.n_steps, run.n_episodes) == ("ppo_snd_vic", ENV, 60, 3)
    assert (run.mean_reward, run.mean_score, run.highest_score, run.remark) == (1.0, 50.0, 100.0, "")
    assert run.curve.width == 1 and len(run.curve.counts) == 60
    assert np.flatnonzero(run.curve.counts).tolist() == [9, 29, 59]
    assert run.curve.sums[[9, 29, 59], Column.REWARD].tolist() == [1.0, 0.0, 2.0]


def test_the_zoos_own_runs_have_one_file_an_environment(tmp_path):
    """Two files whose episodes interlace in time: lengths 5, 7 and 6, the last ending second."""
    folder = write_run(tmp_path, algo="ppo", extra=False, episodes=[(1.0, 5, 0), (4.0, 7, 0)])
    (folder / "monitor.csv").rename(folder / "0.monitor.csv")
    (folder / "1.monitor.csv").write_text('#{"t_start": 0.5, "env_id": "x"}\nr,l,t\n10.0,6,0.0\n')
    run = read_run(folder)
    assert (run.n_steps, run.mean_reward, run.highest_score) == (18, 5.0, 10.0)
    assert np.flatnonzero(run.curve.counts).tolist() == [4, 10, 17]


def test_bins_are_powers_of_two_and_widen_exactly():
    steps, values = np.array([100, 600, 601, 1500]), np.array([[1.0, 0], [2, 0], [4, 0], [8, 0]])
    curve = bin_episodes(steps, values)
    assert curve.width == 4 and len(curve.counts) == 375
    wide = curve.widened(512)
    assert wide.counts.tolist() == [1, 2, 1] and wide.sums[:, Column.REWARD].tolist() == [1.0, 6.0, 8.0]
    assert wide.means()[:, Column.REWARD].tolist() == [1.0, 3.0, 8.0]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "monitor.csv: the first line is not the header of a monitor file"),
        ("r,l,t\n1,2,3\n", "monitor.csv: the first line is not the header of a monitor file"),
        ('#{"t_start"\nr,l,t\n', "monitor.csv: the header cannot be read"),
        ("#{}\nr,t\n1,2\n", "monitor.csv: column 'l' is missing"),
        ("#{}\n", "monitor.csv: No columns to parse from file"),
        ("#{}\nr,l,t\n", "no episode has ended yet"),
        ("#{}\nr,l,t\n1,2,3", "no episode has ended yet"),
    ],
)
def test_broken_files_are_named(tmp_path, text, reason):
    folder = tmp_path / "ppo" / f"{ENV}_1"
    folder.mkdir(parents=True)
    (folder / "monitor.csv").write_text(text)
    assert read_run(folder) == Skipped(folder, reason)


@pytest.mark.parametrize(("ending", "lost"), [("", 1), ("\n7.0,3", 1), ("\n7.0,30,2,1.0,0.\n1", 1), ("\n", 0)])
def test_a_half_written_line_is_left_out(tmp_path, ending, lost):
    episodes = [(2.0, 10, 1.0), (4.0, 20, 3.0)]
    run = read_run(write_run(tmp_path, episodes=episodes, ending=ending))
    kept = {"": episodes[:1], "\n7.0,30,2,1.0,0.\n1": [*episodes, (7.0, 30, 1.0)]}.get(ending, episodes)
    assert run.n_episodes == len(kept) and run.highest_score == kept[-1][0]
    assert run.remark == ("monitor.csv: 1 incomplete line left out" if lost else "")


def test_tables_by_hand(tmp_path):
    """Means of the runs 2 and 4, highest scores 30 and 50; 60 steps against the paper's 64 million."""
    write_run(tmp_path, number=1, episodes=[(30.0, 30, 1.0), (0.0, 30, 3.0)])
    write_run(tmp_path, number=2, episodes=[(50.0, 30, 8.0), (0.0, 30, 0.0)])
    (row,) = tables.rows(tables.group([read_run(folder) for folder in find_folders([tmp_path])]))
    expected = {
        "environment": ENV,
        "algo": "ppo_snd_vic",
        "runs": 2,
        "steps_min": 60,
        "steps_max": 60,
        "episodes": 4,
        "short": True,
        "mean_reward": 3.0,
        "std_reward": 1.0,
        "published_mean_reward": 9.76,
        "published_std_reward": 0.03,
        "end_reward": 1.5,  # of 3 and 0
        "highest_score": 40.0,
        "published_highest_score": None,
        "iqm_reward": None,
        "iqm_low": None,
        "iqm_high": None,
        "places": None,
        "std_places": None,
    }
    assert row == {**expected, "published_end_reward": None}  # the figure's line begins later


def test_no_zero_below_zero(tmp_path):
    write_run(tmp_path, episodes=[(-0.004, 10, -0.004)])
    table = tables.rows(tables.group([read_run(folder) for folder in find_folders([tmp_path])]))
    text = tables.markdown(table, [], [])
    assert "| 0.00 ± 0.00 | 9.76 ± 0.03 | 0.00 |" in text and "| `ppo_snd_vic` | 1 | 0 | – |" in text


def test_interquartile_mean_by_hand():
    """Of eight runs the middle four count: (3 + 4 + 5 + 6) / 4."""
    middle, low, high = tables.interval([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 100.0])
    assert middle == 4.5 and 1.0 < low < 4.5 < high < 100.0
    assert tables.interval([1.0, 2.0, 3.0, 4.0]) is None


def test_the_same_runs_give_the_same_interval():
    """Whatever numpy's own generator has given before; and that goes on as if nothing had been drawn."""
    means = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 100.0]
    found = set()
    for seed in (1, 2):
        np.random.seed(seed)
        expected = np.random.RandomState(seed).random_sample()
        found.add(tables.interval(means))
        assert np.random.random_sample() == expected
    assert len(found) == 1


def test_learning_curve_by_hand():
    """Runs of 3 and 4 bins; the first has no episode in its second."""

    def run(steps, rewards):
        values = np.array([[reward, 0.0] for reward in rewards])
        steps = np.array(steps)
        return RunSummary(
            "a", "e", None, int(steps[-1]), len(steps), 0.0, 0.0, 0.0, bin_episodes(steps, values), "", np.zeros((0, 2))
        )

    runs = [run([2, 10], [0.0, 4.0]), run([3, 6, 11, 16], [2.0, 4.0, 6.0, 8.0])]
    steps, mean, std, n_runs = figures.learning_curve(runs, 4, Column.REWARD)
    assert steps.tolist() == [2.0, 6.0, 10.0, 14.0] and n_runs.tolist() == [2, 2, 2, 1]
    assert mean.tolist() == [1.0, 3.0, 5.0, 8.0]  # the gap of the first run lies at 2
    assert std.tolist() == [1.0, 1.0, 1.0, 0.0]


def test_steps_of_episodes_by_hand(tmp_path):
    """
    Rollouts of 40 steps. Two episodes end in the first, none in the second, where those under way are dropped, and three in
    the third; the log does not know the last one yet.
    """
    lengths = [10, 20, 30, 5, 15, 8]
    folder = write_run(tmp_path, episodes=[(0.0, length, 0.0) for length in lengths])
    progress = folder / "progress.csv"
    progress.write_text("time/episodes,time/total_timesteps\n2,40\n2,80\n5,120\n")
    run = read_run(folder)
    steps = [round(40 * 10 / 30), 40, 80 + 40 * 30 / 50, 80 + 40 * 35 / 50, 120, 120]
    assert run.n_steps == 120 and run.curve.width == 1
    assert (np.flatnonzero(run.curve.counts) + 1).tolist() == sorted(set(steps)) and run.curve.counts[119] == 2
    progress.write_text("time/episodes,time/total_timesteps\n,40\n,80\n5,160\n")  # an earlier version began the run
    assert np.flatnonzero(read_run(folder).curve.counts[:160]).tolist() == [19, 59, 119, 129, 159]  # twice the lengths
    for text in ("time/total_timesteps\n120\n", "time/episodes,time/total_timesteps\n7,120\n"):  # of another run
        progress.write_text(text)
        assert (np.flatnonzero(read_run(folder).curve.counts) + 1).tolist() == np.cumsum(lengths).tolist()


def test_lines_that_stand_for_several_episodes(tmp_path):
    """Three episodes of mean 1 and one of 5: mean 2, four episodes."""
    folder = tmp_path / "ppo" / f"{ENV}_1"
    folder.mkdir(parents=True)
    (folder / "monitor.csv").write_text("#{}\nr,l,t,r_ext,n,steps\n10,30,0,1,3,50\n20,10,0,5,1,64\n")
    run = read_run(folder)
    assert (run.n_steps, run.n_episodes, run.mean_reward, run.mean_score, run.highest_score) == (64, 4, 2.0, 12.5, 20.0)
    assert run.curve.counts[[49, 63]].tolist() == [3, 1] and run.curve.sums[[49, 63], Column.REWARD].tolist() == [3.0, 5.0]


PROGRESS = "exploration/places,time/total_timesteps\n"


def test_places_by_hand(tmp_path):
    """Of 4 and 8 places at the end; halfway the first has 2, the second between 3 at step 20 and 5 at 40."""
    for number, lines in [(1, "1,10\n2,30\n4,50\n"), (2, "2,10\n3,20\n5,40\n8,50\n,60\n")]:
        (write_run(tmp_path, number=number) / "progress.csv").write_text(PROGRESS + lines)
    write_run(tmp_path, number=3)  # without ExplorationLogger
    runs = [read_run(folder) for folder in find_folders([tmp_path])]
    assert [len(run.places) for run in runs] == [3, 4, 0] and runs[1].places[-1].tolist() == [50.0, 8.0]
    (row,) = tables.rows(tables.group(runs))
    assert (row["runs"], row["places"], row["std_places"]) == (3, 6.0, 2.0)
    assert "| procgen-jumper-v0 | `ppo_snd_vic` | 3 | 6.0 ± 2.0 |" in tables.markdown([row], [], [])
    steps, mean, std = figures.places_curve(runs[:2], n_points=5)
    assert steps.tolist() == [10.0, 20.0, 30.0, 40.0, 50.0]
    assert mean.tolist() == [1.5, 2.25, 3.0, 4.0, 6.0] and std.tolist() == [0.5, 0.75, 1.0, 1.0, 2.0]
    assert figures.draw_places("Own/Env-v0", {"ppo": runs}, tmp_path) == "Own_Env-v0_places"
    assert (tmp_path / "Own_Env-v0_places.svg").stat().st_size > 0
    assert figures.draw_places("Own/Env-v0", {"ppo": runs[2:]}, tmp_path) is None


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "time/total_timesteps\n3\n", PROGRESS + "1,x\n", PROGRESS + '"1'])
def test_a_log_without_places_does_not_cost_the_run(tmp_path, text):
    folder = write_run(tmp_path)
    (folder / "progress.csv").write_text(text)
    run = read_run(folder)
    assert run.n_episodes == 1 and run.places.shape == (0, 2)


def test_long_logs_are_thinned_from_the_end(tmp_path):
    folder = write_run(tmp_path)
    (folder / "progress.csv").write_text(PROGRESS + "".join(f"{step},{step}\n" for step in range(2000)))
    places = read_run(folder).places
    assert len(places) <= 512 and places[-1].tolist() == [1999.0, 1999.0] and places[-1, 0] - places[-2, 0] == 4


def test_published_figures():
    """Cells of the paper's tables, and points of its figure."""
    assert published.score("ppo_snd_vic", "MontezumaRevengeNoFrameskip-v4") == (8.45, 1.12, 7838)
    assert published.score("ppo_snd", ENV) == (9.76, 0.03, None)
    assert published.score("ppo", "GravitarNoFrameskip-v4") == (1.19, 0.0, 2611)
    assert published.score("ppo", "CartPole-v1") is None and published.full_steps("CartPole-v1") is None
    assert published.full_steps(ENV) == 64e6 and published.full_steps("VentureNoFrameskip-v4") == 128e6
    for algo, env_id, step, reward in [
        ("ppo_snd_vic", ENV, 5e6, 6.5),
        ("ppo_snd_vic", ENV, 9e6, 9.7),
        ("ppo_snd_std", "procgen-coinrun-v0", 8e6, 9.6),
        ("ppo_snd_vic", "procgen-caveflyer-v0", 10e6, 7.3),
        ("ppo_snd_vic", "MontezumaRevengeNoFrameskip-v4", 24e6, 7.5),
        ("ppo_rnd", "MontezumaRevengeNoFrameskip-v4", 8e6, 1.1),
    ]:
        assert published.curve_at(algo, env_id, step) == pytest.approx(reward, abs=0.3)
    assert published.curve_at("ppo", ENV, 65e6) is None  # beyond the figure
    assert published.curve("ppo", "PitfallNoFrameskip-v4") is None


def test_report_of_a_folder(tmp_path, capsys):
    logs, out = tmp_path / "logs", tmp_path / "deep" / "report"
    for number in range(1, 6):
        write_run(logs / "some", number=number, episodes=[(number, 300, number), (number, 300, number)])
    write_run(logs, algo="ppo_rnd", episodes=[(1.0, 700, 1.0), (2.0, 10, 2.0)], ending="")
    write_run(logs, algo="mine", env_id="Own/Env-v0", episodes=[(5.0, 10, 5.0)], extra=False)
    (logs / "ppo" / f"{ENV}_1").mkdir(parents=True)
    (logs / "ppo" / f"{ENV}_1" / "monitor.csv").write_text("nothing")
    main([str(logs), "--out", str(out), "--jobs", "2"])
    assert capsys.readouterr().out.splitlines()[-1] == f"report: {out / 'report.md'}, {out / 'report.html'}"
    text = (out / "report.md").read_text()
    assert "| procgen-jumper-v0 | `ppo_snd_vic` | 5 | 0.0006, *short* | 3.00 ± 1.41 | 9.76 ± 0.03 | 3.00 |" in text
    assert "| Own/Env-v0 | `mine` | 1 | 1e-05 | 5.00 ± 0.00 | – | 5.00 | – | – |" in text
    assert f"`{logs / 'ppo' / f'{ENV}_1'}`: monitor.csv: the first line is not the header of a monitor file" in text
    assert f"`{logs / 'ppo_rnd' / f'{ENV}_1'}`: monitor.csv: 1 incomplete line left out" in text
    for stem in (f"{ENV}_reward", f"{ENV}_score", "Own_Env-v0_reward"):
        assert (out / f"{stem}.png").read_bytes().startswith(b"\x89PNG") and "<svg" in (out / f"{stem}.svg").read_text()
        assert f"({stem}.png)" in text
    scores = {(row["environment"], row["algo"]): row for row in read_csv(out / "scores.csv")}
    assert len(scores) == 3 and scores[ENV, "ppo_snd_vic"]["iqm_reward"] == "3.0"
    drawn = [row for row in read_csv(out / "curves_reward.csv") if row["algo"] == "ppo_snd_vic"]
    assert {float(row["mean"]) for row in drawn} == {3.0} and {row["runs"] for row in drawn} == {"5.0"}


def test_nothing_to_report_is_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="There is no monitor file in"):
        report([tmp_path], tmp_path / "out")
    write_run(tmp_path, episodes=[])
    with pytest.raises(SystemExit, match=r"sb3-snd report: No run could be read; the first of 1: .*no episode has ended yet"):
        main([str(tmp_path), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("n_steps", "named", "end"),
    [
        (1_000_000, [], 1.0),
        (1_600_000, ["SND-STD"], 3.06),
        (3_500_000, ["SND-STD"], 3.5),
        (20_000_000, ["SND-STD", "RND"], 27.54),
    ],
)
def test_published_curves_are_named_where_they_can_be_seen(n_steps, named, end, tmp_path, monkeypatch):
    """The figure's line of SND-STD begins at 3 million steps, that of RND at 27; near is up to twice the longest run."""
    assert [published.curve(algo, ENV)[0][0] for algo in ("ppo_rnd", "ppo_snd_std")] == [27e6, 3e6]
    groups = {
        algo: [read_run(write_run(tmp_path, algo=algo, episodes=[(1.0, n_steps, 1.0)]))] for algo in ("ppo_rnd", "ppo_snd_std")
    }
    finished = []
    monkeypatch.setattr(figures, "_finish", lambda *drawn, **_: finished.append(drawn))
    figures.draw(ENV, groups, Column.REWARD, tmp_path)
    ((_, axis, _),) = finished
    lines = {line.get_label(): line for line in axis.get_lines() if ", published" in line.get_label()}
    assert sorted(lines) == sorted(f"{name}, published" for name in named)
    assert axis.get_xlim()[1] == pytest.approx(end, abs=n_steps / 64e6)  # a bin of the drawn curve
    for line in lines.values():
        assert sum(line.get_xdata() <= axis.get_xlim()[1]) >= 1 >= sum(line.get_xdata() > axis.get_xlim()[1])


def test_models_of_the_same_name_are_told_apart(tmp_path, monkeypatch):
    """Two keys are the baseline, and two are SND-VIC; each is published once, and two runs of one key need no more."""
    assert published.names(["ppo", "ppo_rnd"]) == {"ppo": "Baseline", "ppo_rnd": "RND"}
    assert published.names(["ppo_baseline", "ppo_baseline", "mine"]) == {"ppo_baseline": "Baseline", "mine": "mine"}
    for number, algo in enumerate(("ppo", "ppo_baseline", "ppo_snd", "ppo_snd_v"), 1):
        folder = write_run(tmp_path, algo=algo, number=number, episodes=[(1.0, 40_000_000, 1.0)])
        (folder / "progress.csv").write_text("time/total_timesteps,exploration/places\n1,1\n2,2\n")
    groups = tables.group([read_run(folder) for folder in find_folders([tmp_path])])
    finished = []
    monkeypatch.setattr(figures, "_finish", lambda *drawn, **_: finished.append(drawn[1]))
    figures.draw(ENV, groups[ENV], Column.REWARD, tmp_path)
    figures.draw_places(ENV, groups[ENV], tmp_path)
    rewards, places = ([line.get_label() for line in axis.get_lines()] for axis in finished)
    ours = ["Baseline, ppo (1 run)", "Baseline, ppo_baseline (1 run)", "SND-V (1 run)", "SND-VIC (1 run)"]
    assert rewards == [*ours, "Baseline, published", "SND-V, published", "SND-VIC, published"] and places == ours
    assert published.score("ppo_baseline", "GravitarNoFrameskip-v4") == (1.19, 0.0, 2611)


@pytest.mark.parametrize(("n_models", "n_bands"), [(10, 10), (11, 0)])
def test_many_models_have_colours_of_their_own_and_no_bands(n_models, n_bands, tmp_path, monkeypatch):
    groups = {f"model_{index}": [read_run(write_run(tmp_path, algo=f"model_{index}"))] for index in range(n_models)}
    finished = []
    monkeypatch.setattr(figures, "_finish", lambda *drawn, **_: finished.append(drawn[1]))
    figures.draw("Own/Env-v0", groups, Column.REWARD, tmp_path)
    (axis,) = finished
    assert len({to_hex(line.get_color()) for line in axis.get_lines()}) == n_models
    assert len(axis.collections) == n_bands


def test_a_curve_is_broken_where_a_run_ends(tmp_path, monkeypatch):
    """The mean of 2 and 6 while both runs are there, then 9 of the longer one: no line leads from 4 to 9."""
    episodes = [[(2.0, 1, 2.0)] * 2, [(6.0, 1, 6.0)] * 2 + [(9.0, 1, 9.0)] * 2]
    runs = [read_run(write_run(tmp_path, number=number, episodes=rows)) for number, rows in enumerate(episodes, 1)]
    finished = []
    monkeypatch.setattr(figures, "_finish", lambda *drawn, **_: finished.append(drawn[1]))
    points = figures.draw("Own/Env-v0", {"ppo": runs}, Column.REWARD, tmp_path)
    (line,) = finished[0].get_lines()
    assert [point["mean"] for point in points] == [4.0, 4.0, 9.0, 9.0]
    np.testing.assert_array_equal(line.get_ydata(), [4.0, 4.0, np.nan, 9.0, 9.0])
    np.testing.assert_array_equal(line.get_xdata(), np.array([0.5, 1.5, np.nan, 2.5, 3.5]) / 1e6)


def test_score_and_reward_are_told_apart(tmp_path):
    folder = write_run(tmp_path, episodes=[(30.0, 10, 1.0)])
    groups = tables.group([read_run(folder)])
    (point,) = figures.draw(ENV, groups[ENV], Column.SCORE, tmp_path)
    assert (point["steps"], point["mean"], point["std"]) == (9.5, 30.0, 0.0)
