"""Feature spaces of environments and nets whose every number is known, and of small models of both ways to save one."""

import base64
import csv
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from fakes import CountingEnv
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize
from torch import nn

from sb3_snd import PPOSND, SND
from sb3_snd.analyze import figures
from sb3_snd.analyze.__main__ import main
from sb3_snd.analyze.feature_spaces import (
    FeatureSpace,
    feature_space_of,
    flat_map,
    highest_peaks,
    pair_distances,
    table_row,
)
from sb3_snd.analyze.models import Model, choose_collector, short_labels
from sb3_snd.analyze.states import ReferenceStates, collect, make_views
from sb3_snd.targets import Target
from sb3_snd.zoo.train import train

ENV = "MountainCar-v0"
BOX = spaces.Box(-99, 99, (2,))


@pytest.fixture(autouse=True)
def one_thread():
    """Nothing here is large, and nothing compares with numbers of another process."""
    th.set_num_threads(1)


class Twice(Target):
    """The features are twice the frame."""

    def __init__(self, frame_shape, features_dim=None):
        nn.Module.__init__(self)
        self.frame_shape, self.features_dim = frame_shape, int(np.prod(frame_shape))
        self.encoder = nn.Flatten()

    def make_learner(self):
        return nn.Sequential(nn.Flatten(), nn.Linear(self.features_dim, self.features_dim))

    def forward(self, frames):
        return 2 * frames.flatten(1)

    def loss(self, batch, learner):
        raise NotImplementedError


class Still:
    """A policy that does nothing, and remembers how it was asked."""

    def __init__(self):
        self.asked = []

    def predict(self, obs, state, episode_start, deterministic):
        self.asked.append((state, episode_start.tolist(), deterministic))
        return np.zeros(len(obs), dtype=np.int64), len(self.asked)


def counting(*lengths, **kwargs):
    """Environments 0, 1, ... with episodes of these lengths."""
    makers = [
        lambda number=number, length=length: CountingEnv(number, length, **kwargs) for number, length in enumerate(lengths)
    ]
    return DummyVecEnv(makers)


def look(n_states=20, lengths=(3, 5, 4)):
    """States whose frames are (number, step)."""
    env = counting(*lengths)

    def places():
        return [(float(number), float(step)) for number, step in enumerate(env.get_attr("step_count"))]

    return collect(Still(), env, {"plain": th.as_tensor}, n_states, places)


def test_pairs_are_consecutive_and_episode_ends_are_dropped():
    states = look()
    before, after = states.frames["plain"][states.rows], states.frames["plain"][states.next_rows]
    assert len(before) == 20 and (after - before).tolist() == [[0.0, 1.0]] * 20
    assert {(int(n), int(step)) for n, step in before} == {
        (n, step) for n, end in enumerate((3, 5, 4)) for step in range(end - 1)
    }
    # of environments 0, 1, 2 in order of time: all three go on twice, then 0 ends, then 2
    assert before[:9].tolist() == [[0, 0], [1, 0], [2, 0], [0, 1], [1, 1], [2, 1], [1, 2], [2, 2], [0, 0]]
    assert states.places == [tuple(frame) for frame in states.frames["plain"].tolist()]


def test_longest_episode():
    states = look()
    assert states.frames["plain"][states.episode].tolist() == [[1, step] for step in range(5)]


def test_actions_are_drawn_and_policies_have_a_memory():
    policy = Still()
    collect(policy, counting(2, 9), {}, 4)
    assert policy.asked == [(None, [True, True], False), (1, [False, False], False), (2, [True, False], False)]


def test_episodes_without_a_pair_are_refused():
    with pytest.raises(ValueError, match="Only 0 of 5 states have a successor"):
        collect(Still(), counting(1, 1), {}, 5)


def hand_made(path, snd=None, config=None, algo="ppo_rnd"):
    return Model(path, algo, ENV, config, SimpleNamespace(snd=snd))


def normalized(env, mean, std):
    env = VecNormalize(env, training=False)
    env.obs_rms.mean, env.obs_rms.var = np.array(mean), np.square(std) - env.epsilon
    return env


def test_each_model_reads_what_its_own_run_normalised(tmp_path):
    """Observations (number, step); the collector's run has mean (1, 1) and deviation 2, another's mean 0 and deviation 4."""
    env = normalized(counting(9, 9), (1.0, 1.0), (2.0, 2.0))
    normalized(counting(9), (0.0, 0.0), (4.0, 4.0)).save(tmp_path / "vecnormalize.pkl")
    collector, another, plain, twin = (
        hand_made(tmp_path / name, SND(BOX, Twice, device="cpu"), config)
        for name, config in (("a", None), ("b", tmp_path), ("c", None), ("d", None))
    )
    views, keys = make_views([collector, another, plain, twin], collector, env)
    assert keys[2] == keys[3] and len(views) == 3
    env.reset()
    obs = env.step(np.array([0, 0]))[0]  # of raw observations (0, 1) and (1, 1)
    seen = [views[key](obs) for key in keys]
    np.testing.assert_allclose(seen[0], [[-0.5, 0.0], [0.0, 0.0]], atol=1e-6)
    np.testing.assert_allclose(seen[1], [[0.0, 0.25], [0.25, 0.25]], atol=1e-6)
    np.testing.assert_allclose(seen[2], [[0.0, 1.0], [1.0, 1.0]], atol=1e-6)


def test_views_that_cannot_be_made(tmp_path):
    normalized(counting(9), (0.0, 0.0), (4.0, 4.0)).save(tmp_path / "vecnormalize.pkl")
    env = VecFrameStack(counting(9), 2)
    collector = hand_made(tmp_path / "a", SND(env.observation_space, Twice, device="cpu"))
    another = hand_made(tmp_path / "b", SND(env.observation_space, Twice, device="cpu"), tmp_path)
    with pytest.raises(ValueError, match="use stacked observations with different normalisation: analyse them separately"):
        make_views([collector, another], collector, env)
    with pytest.raises(ValueError, match=r"b does not read the frames of .*a, analyse them separately: This SND was made for"):
        make_views([hand_made(tmp_path / "b", SND(BOX, Twice, device="cpu"))], collector, env)


def write_run(folder, rewards):
    """Episodes of ten steps with these learner's rewards, and scores that say the opposite."""
    folder.mkdir(parents=True)
    lines = [f"{-reward},10,{index},{reward}" for index, reward in enumerate(rewards)]
    header = json.dumps({"t_start": 0.0, "env_id": ENV})
    (folder / "monitor.csv").write_text("\n".join([f"#{header}", "r,l,t,r_ext", *lines, ""]))


def test_the_best_model_is_the_best_in_the_end(tmp_path):
    """Of 40 episodes the last two count: the first run was better, but ends at 1, the second ends at (3 + 4) / 2."""
    write_run(tmp_path / "a", [100.0] * 38 + [1.0, 1.0])
    write_run(tmp_path / "b", [0.0] * 38 + [3.0, 4.0])
    models = [hand_made(tmp_path / name / "model.zip") for name in ("c", "a", "b")]
    best, reason = choose_collector(models)
    assert best == 2 and "a higher mean reward, 3.50, in the last 5 %" in reason and "(1 of 3 have no episode" in reason
    assert choose_collector(models[:1]) == (0, "it comes first, and no run has an episode in its monitor file to compare by")


def test_names_are_as_short_as_tells_models_apart(tmp_path):
    one, two = (hand_made(tmp_path / f"{ENV}_{n}" / f"{ENV}.zip", config=tmp_path, algo="ppo_snd_vic") for n in (1, 2))
    other = hand_made(tmp_path / "x.zip", algo="PPOSND")
    assert short_labels([one, other]) == ["SND-VIC", "x"]
    assert short_labels([one, two]) == ["SND-VIC, run 1", "SND-VIC, run 2"]
    assert short_labels([one, one._replace(path=tmp_path / f"{ENV}_1" / "best_model.zip")])[1] == "SND-VIC, run 1, best_model"
    assert short_labels([one, one._replace(algo="ppo_snd", path=two.path)]) == ["SND-VIC, ppo_snd_vic", "SND-VIC, ppo_snd"]


def test_row_by_hand():
    """States (0, 0), (1, 0), (0, 1), (1, 1): the features are twice that, a square with sides of 2."""
    states = look(4, lengths=(4, 4))
    space = feature_space_of("mine", SND(BOX, Twice, device="cpu"), states.frames["plain"])
    found = table_row(space, states)
    norms = [0.0, 2.0, 2.0, 8**0.5]
    expected = {
        "features": 2,
        # centred features (±1, ±1): both singular values are 2
        **{f"spectrum_{percent}": 4.0 for percent in (25, 50, 75, 95)},
        "effective_rank": 2.0,
        "mean_step": 2.0,
        "std_step": 0.0,
        "mean_norm": np.mean(norms),
        "std_norm": np.std(norms),
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-5)
    learner = space.snd.learner[1]
    weight, bias = learner.weight.detach().numpy(), learner.bias.detach().numpy()
    frames = states.frames["plain"][states.rows].numpy()
    assert found["mean_novelty"] == pytest.approx(((frames @ weight.T + bias - 2 * frames) ** 2).mean(), rel=1e-4)
    errors = frames @ weight.T + bias - 2 * frames
    expected = (errors.mean(axis=0) ** 2).sum() / (errors**2).sum(axis=1).mean()
    assert found["common_novelty"] == pytest.approx(expected, rel=1e-4)
    assert found["common_features"] == pytest.approx(2 / 4)  # mean (1, 1); squared norms 0, 4, 4, 8
    assert (found["model"], found["target"]) == ("mine", "Twice")


def test_distances_of_pairs_by_hand():
    """Vectors count in deviations of the states, which are (1, 2); images in [0, 1]."""
    snd = SND(BOX, Twice, device="cpu")
    frames = th.tensor([[9.0, 9.0], [-1.0, -2.0], [1.0, 2.0], [-1.0, 2.0], [1.0, -2.0]])
    x, y = pair_distances(FeatureSpace("a", snd, frames, frames[:, :1], None, None), np.arange(1, 5))
    np.testing.assert_allclose(x, [2.0, 2**0.5, 2**0.5, 2**0.5, 2**0.5, 2.0], rtol=1e-6)
    np.testing.assert_allclose(y, [2.0, 0.0, 2.0, 2.0, 0.0, 2.0], atol=1e-6)
    snd = SND(spaces.Box(0, 255, (36, 36, 1), np.uint8), Twice, device="cpu")
    frames = th.stack([th.full((1, 36, 36), value, dtype=th.uint8) for value in (0, 51, 255)])
    x, _ = pair_distances(FeatureSpace("a", snd, frames, frames.flatten(1).float(), None, None), np.arange(3))
    np.testing.assert_allclose(x, [0.2, 1.0, 0.8], rtol=1e-5)


def test_peaks_by_hand():
    values = np.array([5.0, 1.0, 4.0, 3.0, 4.5, 0.0, 1.0, 2.0])
    assert highest_peaks(values, 5, distance=1).tolist() == [0, 2, 4, 7]
    assert highest_peaks(values, 1, distance=1).tolist() == [0]
    assert highest_peaks(values, 2, distance=1).tolist() == [0, 4]
    assert highest_peaks(values, 5, distance=3).tolist() == [0, 4, 7]  # 2 is too near to 4, which is higher


def test_principal_axes_of_a_rectangle():
    """Corners of a rectangle of 6 x 2 in a turned plane of three dimensions."""
    axes = np.array([[0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])
    corners = np.array([[3.0, 1.0], [3.0, -1.0], [-3.0, 1.0], [-3.0, -1.0]])
    points, method = flat_map(th.as_tensor(corners @ axes + 7.0).float(), 0)
    np.testing.assert_allclose(points, corners, atol=1e-5)
    assert method == "PCA, 100% of variance"
    points, _ = flat_map(th.tensor([[1.0], [3.0]]), 0)
    assert points.tolist() == [[-1.0, 0.0], [1.0, 0.0]]


def test_umap_where_it_is_installed(monkeypatch):
    def fit_transform(features):
        return features[:, :2]

    made = []
    fake = SimpleNamespace(UMAP=lambda **kwargs: made.append(kwargs) or SimpleNamespace(fit_transform=fit_transform))
    monkeypatch.setitem(sys.modules, "umap", fake)
    points, method = flat_map(th.eye(3), 5)
    assert method == "UMAP" and points.tolist() == np.eye(3)[:, :2].tolist() and made[0]["random_state"] == 5


@pytest.mark.parametrize(("n_places", "coloured"), [(1, False), (2, True), (20, True), (21, False)])
def test_places_are_coloured_where_they_are_few(n_places, coloured):
    places = [index % n_places for index in range(50)]
    found = figures.few_places(ReferenceStates({}, np.arange(51)[:, None], [*places, 99], 50))
    assert found == (list(range(n_places)) if coloured else None)


@pytest.mark.filterwarnings("error", "ignore::ResourceWarning")  # of files that tests before have left open
@pytest.mark.parametrize("features", [th.zeros(11, 16), th.arange(11.0)[:, None]])
def test_collapsed_features_and_a_single_one_are_drawn(features, tmp_path):
    states = ReferenceStates({}, np.arange(11)[:, None], None, 10)
    space = FeatureSpace(
        "a", SND(BOX, Twice, device="cpu"), th.zeros(11, 2), features, np.zeros(11, dtype=np.float32), features
    )
    assert table_row(space, states)["effective_rank"] == float(features.any())
    figures.draw([space], states, 0, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{stem}.{kind}" for stem in figures.CAPTIONS for kind in ("png", "svg")
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Log folders of three models, as ``train.py`` writes them."""
    folder = tmp_path_factory.mktemp("logs")
    th.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        for key in ("ppo", "ppo_snd_vic", "ppo_rnd"):
            options = ["--algo", key, "--env", ENV, "-n", 448, "-f", folder, "--seed", 1, "--verbose", 0]
            sizes = ["-params", "n_envs:2", "n_steps:32", "batch_size:64", "n_epochs:1"]
            patch.setattr(sys, "argv", ["train.py", *map(str, options + sizes)])
            train()
    return {path.parent.parent.name: path for path in folder.glob(f"*/*/{ENV}.zip")}


def read_csv(path):
    with open(path) as file:
        return list(csv.DictReader(file))


def pictures(folder):
    for stem in figures.CAPTIONS:
        assert (folder / f"{stem}.png").read_bytes().startswith(b"\x89PNG") and "<svg" in (folder / f"{stem}.svg").read_text()
        assert f"({stem}.png)" in (folder / "report.md").read_text()
        data = base64.b64encode((folder / f"{stem}.png").read_bytes()).decode()
        assert f'src="data:image/png;base64,{data}"' in (folder / "analysis.html").read_text(encoding="utf-8")


def test_models_of_the_zoo(trained, tmp_path, capsys):
    out = tmp_path / "deep" / "out"
    paths = [str(trained[key]) for key in ("ppo_rnd", "ppo", "ppo_snd_vic")]
    options = ["--states", "600", "--n-envs", "3", "--device", "cpu"]
    main([*paths, "--out", str(out), *options])
    assert capsys.readouterr().out.splitlines()[-1] == f"analysis: {out / 'report.md'}, {out / 'analysis.html'}"
    pictures(out)
    text = (out / "report.md").read_text()
    assert f"- *Baseline*: `{trained['ppo']}`, which has no SND and so no feature space\n" in text
    assert "*RND* collected the 600 reference states: no other had a higher mean reward, -200.00, in the last 5 %" in text
    assert "in 3 environments with seed 0." in text and f"torch {th.__version__}" in text
    rows = read_csv(out / "features.csv")
    assert [(line["model"], line["target"], line["features"]) for line in rows] == [
        ("RND", "rnd", "128"),
        ("SND-VIC", "vic", "128"),
    ]
    assert all(1 < float(line["effective_rank"]) < 128 and float(line["mean_step"]) > 0 for line in rows)
    assert text.count("\n| RND | `rnd` | 128 |") == 1


def test_the_seed_decides(tmp_path):
    """For a model that has none of its own."""
    PPOSND("MlpPolicy", ENV, n_steps=64, device="cpu", snd_kwargs={"features_dim": 4}).save(tmp_path / "mine")
    options = [str(tmp_path / "mine.zip"), "--env", ENV, "--states", "50", "--device", "cpu"]
    for out, seed in (("one", 3), ("same", 3), ("other", 4)):
        main([*options, "--out", str(tmp_path / out), "--seed", str(seed)])
    one, same, other = (read_csv(tmp_path / out / "features.csv") for out in ("one", "same", "other"))
    assert one == same != other


def test_images_of_a_model_saved_by_hand(tmp_path):
    """And a place that each environment tells: its number is always 0."""
    gym.register("Counting-v0", lambda **_: CountingEnv(image=True, length=30))
    try:
        settings = dict(n_steps=8, batch_size=8, n_epochs=1, device="cpu", snd_kwargs={"features_dim": 4})
        PPOSND("CnnPolicy", "Counting-v0", **settings).learn(8).save(tmp_path / "mine")
        PPO("CnnPolicy", "Counting-v0", n_steps=8, batch_size=8, device="cpu").save(tmp_path / "baseline")
        models = [str(tmp_path / f"{name}.zip") for name in ("mine", "baseline")]
        out = tmp_path / "out"
        main([*models, "--env", "Counting-v0", "--out", str(out), "--states", "40", "--n-envs", "2", "--device", "cpu"])
    finally:
        del gym.registry["Counting-v0"]
    pictures(out)
    assert (
        "*mine* collected the 40 reference states: it comes first, and no run has an episode"
        in (out / "report.md").read_text()
    )
    assert [line["model"] for line in read_csv(out / "features.csv")] == ["mine"]


def test_what_cannot_be_analysed_is_one_sentence(trained, tmp_path, monkeypatch):
    stray = tmp_path / "stray.zip"
    stray.write_bytes(trained["ppo_rnd"].read_bytes())
    strange = tmp_path / "mine" / f"{ENV}_1"
    config = trained["ppo"].parent / ENV
    (strange / ENV).mkdir(parents=True)
    (strange / "model.zip").write_bytes(trained["ppo"].read_bytes())
    for name in ("args.yml", "config.yml"):
        (strange / ENV / name).write_text((config / name).read_text())
    elsewhere = tmp_path / "ppo" / f"{ENV}_1"
    (elsewhere / ENV).mkdir(parents=True)
    (elsewhere / "model.zip").write_bytes(trained["ppo"].read_bytes())
    (elsewhere / ENV / "config.yml").write_text((config / "config.yml").read_text())
    (elsewhere / ENV / "args.yml").write_text((config / "args.yml").read_text().replace(ENV, "CartPole-v1"))
    for arguments, message in [
        (
            [tmp_path / "none.zip"],
            r"The file .*none.zip does not exist: give a zip file written by sb3-snd train or model.save",
        ),
        ([stray], r"stray.zip is not in a log folder of the Zoo .*: give the path that sb3-snd train wrote, or .* with --env"),
        ([strange / "model.zip"], r"is in the folder of 'mine', which is not one of .*ppo_snd_vic"),
        (
            [trained["ppo_rnd"], elsewhere / "model.zip"],
            "The models were trained in CartPole-v1 and MountainCar-v0: analyse one",
        ),
        ([trained["ppo"]], "None of the models has an SND: give at least one of ppo_rnd or ppo_snd"),
        ([stray, "--env", "CartPole-v1"], r"stray.zip does not read the frames of .*stray.zip"),
        ([stray, "--env", "CartPole-v7"], "Environment version `v7`"),
        ([trained["ppo_rnd"], "--states", "1"], "--states 1 --n-envs 8: at least two states and one environment are required"),
    ]:
        with pytest.raises(SystemExit, match=rf"sb3-snd analyze: .*{message}"):
            main([*map(str, arguments), "--out", str(tmp_path / "out"), "--device", "cpu"])
        assert not (tmp_path / "out").exists()
    for package, extra in (("rl_zoo3", "zoo"), ("matplotlib", "plots")):
        with monkeypatch.context() as patch, pytest.raises(SystemExit, match=rf"sb3-snd\[{extra}\]"):
            patch.setitem(sys.modules, package, None)
            main([str(trained["ppo_rnd"])])


def test_help_needs_no_extra():
    code = (
        "import sys\n"
        "for name in ('ale_py', 'cv2', 'rl_zoo3', 'matplotlib', 'pandas', 'scipy', 'tqdm', 'procgen'):\n"
        "    sys.modules[name] = None\n"
        "from sb3_snd.analyze.__main__ import main\n"
        "main(['--help'])\n"
    )
    root = Path(__file__).parent.parent
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert result.returncode == 0 and "--n-envs" in result.stdout, result.stderr
