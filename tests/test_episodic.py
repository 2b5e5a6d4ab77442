"""Counts, E3B, NGU and products against closed forms, over short episodes with a reset in them."""

import math
from collections import Counter

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from fakes import CountingEnv, counting
from gymnasium import spaces
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

from sb3_snd import PPOSND, SND, SNDCallback, VecIntrinsicReward
from sb3_snd.envs import PlaceInfo
from sb3_snd.rewards import REWARDS, Step, check_reward
from sb3_snd.rewards.counts import Counts
from sb3_snd.rewards.e3b import E3B, Ellipsoid
from sb3_snd.rewards.make import make_reward
from sb3_snd.rewards.ngu import NGU, Neighbours
from sb3_snd.rewards.product import Product
from sb3_snd.rewards.visits import MOST_RECENT, EpisodicVisits, FrameHash, LifelongVisits

VECTOR = spaces.Box(-9, 9, (4,))
SYMBOLS = spaces.Box(0, np.tile(np.array([10, 5, 3], dtype=np.uint8), (7, 7, 1)), (7, 7, 3), np.uint8)
PIXELS = spaces.Box(0, 255, (1, 36, 36), np.uint8)
DISCRETE = spaces.Discrete(3)
ACTIONS = (DISCRETE, spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(2), spaces.Box(-1, 1, (2,)))
SIZES = dict(n_steps=8, batch_size=16, n_epochs=1, device="cpu", seed=0)
EVERY = th.ones(2, dtype=th.bool)


class Walk(CountingEnv):
    """The observation is the step, back and forth: 0 1 2 1 0 1 2 ..., the same in all environments."""

    def _obs(self):
        return np.array([0, [0, 1, 2, 1][self.step_count % 4]], dtype=np.float32)


def walk(n_envs=2, length=5):
    return DummyVecEnv([lambda: Walk(length=length) for _ in range(n_envs)])


def bonuses(venv, reward, n_steps):
    """:return: the bonus of each step, as the wrapper asks for it, ``(n_steps, n_envs)``"""
    env = VecIntrinsicReward(venv, reward, ext_coef=0.0, device="cpu")
    env.reset()
    env.training = True
    return np.array([env.step(np.zeros(venv.num_envs, dtype=int))[1] for _ in range(n_steps)])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        # 0 | 1 2 1 0 1, then the next episode begins at 0
        ("first_visit", [1, 1, 0, 0, 0] * 2),
        ("episodic", [1, 1, 2**-0.5, 2**-0.5, 3**-0.5] * 2),
        # Both environments begin at 0 and take each step together. Visits before each of the steps of the first
        # episode: 0 of 1, 0 of 2, 2 of 1, 2 of 0, 4 of 1; of the second, which counts its first 0 twice: 6, 2, 8, 6, 10
        ("lifelong", [(1 + n) ** -0.5 for n in (0, 0, 2, 2, 4, 6, 2, 8, 6, 10)]),
    ],
)
def test_counts_by_hand(kind, expected):
    """Of successors: the first state of an episode counts, and so does its terminal one."""
    found = bonuses(walk(), Counts(walk().observation_space, kind=kind, device="cpu"), 10)
    np.testing.assert_allclose(found, np.repeat(np.array(expected)[:, None], 2, axis=1), rtol=1e-6)


def test_an_observation_is_counted_as_it_is():
    """Not as it is prepared: running statistics move."""
    reward = Counts(VECTOR, device="cpu")
    assert reward.obs_stats is None
    reward = Counts(spaces.Box(0, 255, (36, 36, 3), np.uint8), device="cpu")
    frames = th.zeros(3, 3, 36, 36, dtype=th.uint8)
    frames[1, 2, 35, 35] = 1
    first, second, third = reward.embed(frames).flatten().tolist()
    assert first == third != second


def test_hashes_tell_frames_apart():
    """Pairs that differ in one number, or in the order of two, which a plain sum would not tell apart."""
    generator = th.Generator().manual_seed(1)
    frames = th.randint(0, 256, (50_000, 12), dtype=th.uint8, generator=generator).unique(dim=0)
    assert len(FrameHash((12,))(frames).unique()) == len(frames)
    numbers = th.cartesian_prod(*[th.tensor([0.0, 1.0, -1.0, 2.0, 0.5, 3.0, 7.0, 1e-8])] * 5)
    assert len(FrameHash((5,))(numbers).unique()) == len(numbers) == 8**5
    two, three = FrameHash((1,))(th.tensor([[2.0], [3.0]])).flatten().tolist()
    assert (two - three) % 2**22 != 0  # their bits differ in one only
    assert FrameHash((1,))(th.tensor([[0.0], [-0.0]])).unique().numel() == 1
    assert th.equal(FrameHash((12,))(frames[:9]), FrameHash((12,))(frames)[:9])


def test_a_long_episode_is_counted_to_its_end():
    """
    Three keys at once, one of which may be 0 for nothing, beyond the memory that is allocated at first: against a
    counter.
    """
    rng = np.random.default_rng(0)
    visits, counters = EpisodicVisits(), [Counter(), Counter()]
    visits.start(2)
    for step in range(300):
        keys = np.stack([rng.choice(200, 3, replace=False) for _ in range(2)])
        expected = [[counter[key] for key in row] for counter, row in zip(counters, keys.tolist(), strict=True)]
        assert visits.count(th.as_tensor(keys)).tolist() == expected
        visits.add(th.as_tensor(keys), EVERY)
        for counter, row in zip(counters, keys.tolist(), strict=True):
            counter.update(key for key in row if key != 0)
        if step == 150:
            visits.clear(th.tensor([False, True]))
            counters[1] = Counter()
    assert (visits.counts > 0).sum(dim=1).tolist() == [len(counter) for counter in counters]


def test_lifelong_counts_are_exact_and_saved():
    """Across several merges of the recent visits into the table, and through a state_dict of another size."""
    rng = np.random.default_rng(0)
    visits, counter = LifelongVisits(), Counter()
    keys = rng.geometric(0.002, (3 * MOST_RECENT // 16, 16)) * 2**40
    for row in keys:
        assert visits.count(th.as_tensor(row)[:, None]).flatten().tolist() == [counter[key] for key in row.tolist()]
        which = th.as_tensor(rng.random(16) < 0.9)
        visits.add(th.as_tensor(row)[:, None], which)
        counter.update(row[which.numpy()].tolist())
    assert len(visits.keys) > 100 and len(visits.recent) > 0
    other = LifelongVisits()
    other.load_state_dict(visits.state_dict())
    every = th.as_tensor(sorted({*keys.flatten().tolist()}))
    assert other.count(every[None]).tolist() == [[counter[key] for key in every.tolist()]]


def test_e3b_is_the_inverse_covariance_of_its_episode():
    """Against an explicit inverse of λI + Σφφᵀ in float64; the second environment's episode ends after step 6."""
    generator = th.Generator().manual_seed(0)
    features = th.randn(14, 2, 5, generator=generator) * th.tensor([3.0, 1.0, 1.0, 0.1, 0.01])
    memory = Ellipsoid(5, ridge=0.1)
    memory.start(2)
    covariance = np.tile(0.1 * np.eye(5), (2, 1, 1))
    for step, states in enumerate(features):
        numbers = states.double().numpy()
        expected = np.einsum("ni,nij,nj->n", numbers, np.linalg.inv(covariance), numbers)
        compared = memory.compare(states)
        np.testing.assert_allclose(memory.bonus(*compared), expected, rtol=2e-4)
        memory.add(states, compared, EVERY)
        covariance += np.einsum("ni,nj->nij", numbers, numbers)
        if step == 6:
            memory.clear(th.tensor([False, True]))
            covariance[1] = 0.1 * np.eye(5)


def test_e3b_stays_finite_with_large_features_of_few_directions():
    """Rounding makes φᵀC^-1φ negative there, which must not grow from step to step; each direction is worth less and less."""
    generator = th.Generator().manual_seed(0)
    directions = 500 * th.randn(4, 64, generator=generator) / 8
    memory = Ellipsoid(64, ridge=0.1)
    memory.start(1)
    for _ in range(1000):
        states = directions[th.randint(4, (1,), generator=generator)]
        compared = memory.compare(states)
        memory.add(states, compared, th.tensor([True]))
    assert th.isfinite(memory.inverse).all() and memory.bonus(*compared).item() < 1


@pytest.mark.parametrize("kwargs", [dict(snd="e3b"), dict(snd="ngu"), dict(episodic="e3b"), dict(episodic="ngu")], ids=str)
def test_default_rewards_are_neither_clipped_nor_nothing(kwargs):
    """The first bonus of an episode, by far its largest, does not set the scale for thousands of steps."""
    th.manual_seed(0)
    env = VecIntrinsicReward(make_vec_env("CartPole-v1", 8, seed=0), ext_coef=0.0, device="cpu", **kwargs)
    env.action_space.seed(0)
    env.reset()
    env.training = True
    rewards = np.array([env.step(np.array([env.action_space.sample() for _ in range(8)]))[1] for _ in range(300)])
    assert (rewards == 1).mean() < 0.2 and rewards.mean() > 1e-3


def test_e3b_rates_the_features_of_successors():
    """s_0 is in the covariance, the terminal observation is the last successor, and the next episode starts empty."""
    venv = counting(2, length=3)
    reward = E3B(venv.observation_space, venv.action_space, device="cpu", features_dim=3, norm_reward=False, eta=1e-3)
    steps = []
    remember = reward.remember
    reward.remember = lambda step: (steps.append((step.states.clone(), step.successors.clone())), remember(step))
    reward.observe = lambda _: None  # statistics would move
    found = bonuses(venv, reward, 6)
    for env in range(2):
        for episode in (0, 3):
            covariance = 0.1 * np.eye(3)
            phi = reward.features(steps[episode][0])[env].double().numpy()
            for step in range(episode, episode + 3):
                covariance += np.outer(phi, phi)
                phi = reward.features(steps[step][1])[env].double().numpy()
                expected = phi @ np.linalg.inv(covariance) @ phi
                np.testing.assert_allclose(found[step, env], min(1e-3 * expected, 1), rtol=1e-3)
            assert steps[episode + 2][1][env, 1] == 3  # the terminal observation
            assert steps[episode][0][env, 1] == 0


def brute_force_ngu(episodes, k, capacity=10**9):
    """NGU's bonus by loops in float64, for one environment; each episode is a list of features."""
    total, number, results = 0.0, 0, []
    for features in episodes:
        memory = [features[0]]
        for phi in features[1:]:
            squares = sorted(float(((phi - other) ** 2).sum()) for other in memory[-capacity:])[:k]
            total, number = total + sum(squares), number + len(squares)
            kernel = [1e-4 / (max(square / (total / number) - 0.008, 0) + 1e-4) for square in squares]
            similarity = math.sqrt(sum(kernel)) + 1e-3
            results.append(0.0 if similarity > 8 else 1 / similarity)
            memory.append(phi)
    return np.array(results)


@pytest.mark.parametrize("k", [3, 100])
def test_ngu_is_the_kernel_of_its_nearest_neighbours(k):
    """Against brute force. With 100 neighbours that repeat, the similarity exceeds 8 and the bonus is 0."""
    generator = th.Generator().manual_seed(0)
    episodes = [th.randn(length, 4, generator=generator).double().numpy() for length in (90, 30)]
    episodes[0][5:] = episodes[0][0]  # comes again and again
    memory = Neighbours(4, n_neighbors=k)
    memory.start(1)
    found = []
    for features in episodes:
        memory.clear(th.tensor([True]))
        for step, phi in enumerate(features):
            states = th.as_tensor(phi[None], dtype=th.float32)
            compared = memory.compare(states)
            if step > 0:
                found.append(memory.bonus(*compared).item())
            memory.add(states, compared, th.tensor([True]))
            memory.settle()
    expected = brute_force_ngu([features.astype(np.float32).astype(np.float64) for features in episodes], k)
    np.testing.assert_allclose(found, expected, rtol=1e-3)
    assert (expected == 0).any() == (k == 100)


def test_ngu_replaces_its_oldest_neighbours():
    features = th.randn(300, 2, generator=th.Generator().manual_seed(0))
    memory = Neighbours(2, n_neighbors=5, capacity=100)
    memory.start(1)
    found = []
    for phi in features:
        compared = memory.compare(phi[None])
        found.append(memory.bonus(*compared).item())
        memory.add(phi[None], compared, th.tensor([True]))
        memory.settle()
    assert memory.features.shape == (1, 100, 2)
    np.testing.assert_allclose(found[1:], brute_force_ngu([features.double().numpy()], 5, 100), rtol=1e-3)


def test_ngus_lifelong_factor():
    """1 + (error - mean) / std of the errors before, within 1 and 5, by numpy."""
    reward = NGU(VECTOR, DISCRETE, device="cpu")
    reward.start(3)
    errors = iter(th.tensor([[1.0, 2.0, 3.0], [2.0, 9.0, 4.0], [1.0, 3.0, 4.5]]))
    reward._errors = lambda step: step.successors[:, 0]
    states = th.randn(4, 3, 4, generator=th.Generator().manual_seed(0))
    reward.begin(states[0], th.ones(3, dtype=th.bool))
    seen: list[np.ndarray] = []
    for before, after, error in zip(states, states[1:], errors, strict=False):
        after[:, 0] = error
        reward.observe(before)
        step = Step(before, th.zeros(3), after, th.zeros(3, dtype=th.bool))
        with th.no_grad():
            episodic = reward.memory.bonus(*reward.memory.compare(reward.embed(after)))
        if len(seen) == 2:
            mean, std = np.mean(seen), np.std(seen)
            expected = np.clip(1 + (error.numpy() - mean) / std, 1, 5)
            assert expected[0] == 1 and expected[2] > 1
            np.testing.assert_allclose(reward.bonus(step) / episodic, expected, rtol=1e-3)
        reward.remember(step)
        seen.append(error.numpy())


@pytest.mark.parametrize("name", ["e3b", "ngu"])
@pytest.mark.parametrize("action_space", ACTIONS, ids=lambda space: type(space).__name__)
def test_features_learn_to_tell_the_action(name, action_space):
    """From a successor that shows the action, so that the inverse model's loss falls; float64 needs no luck."""
    th.manual_seed(0)
    reward = REWARDS[name](VECTOR, action_space, device="cpu", learning_rate=3e-3)
    action_space.seed(0)
    actions = th.as_tensor(np.stack([action_space.sample() for _ in range(64)]))
    obs = th.randn(64, 4)
    shown = obs.clone()
    flat = actions.reshape(64, -1).float()
    shown[:, : flat.shape[1]] = flat
    key = "inverse" if name == "ngu" else "loss"
    losses = [reward.trainer.train_on_batch(reward.transitions(obs, shown, actions))[key] for _ in range(120)]
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("space", [VECTOR, SYMBOLS, PIXELS], ids=["vector", "symbols", "pixels"])
@pytest.mark.parametrize("name", ["counts", "e3b", "ngu"])
def test_they_conform(name, space):
    check_reward(REWARDS[name], space)


@pytest.mark.parametrize("kind", ["lifelong", "episodic"])
def test_counts_conform(kind):
    check_reward(Counts, kind=kind)


def product_class(snd, episodic, features=None):
    """:return: a class that makes such a product, as `check_reward` needs it"""

    class Made(Product):
        def __init__(self, observation_space, action_space=None, obs_key=None, device="auto", **settings):
            lifelong = make_reward(snd, observation_space, action_space, device, {"obs_key": obs_key, **settings})
            super().__init__(lifelong, observation_space, episodic, features)

    return Made


@pytest.mark.parametrize(
    ("snd", "episodic", "features"),
    [
        ("vic", "e3b", None),
        ("vic", "ngu", "inverse"),
        ("rnd", "counts", None),
        ("counts", "e3b", None),
        ("e3b", "counts", None),
        ("ngu", "ngu", "lifelong"),
    ],
)
def test_products_conform(snd, episodic, features):
    check_reward(product_class(snd, episodic, features), VECTOR)


def test_a_product_of_grids_conforms():
    check_reward(product_class("vic", "e3b"), SYMBOLS)


def test_a_product_multiplies_both_factors_of_the_successor():
    """SND's novelty of s_{t+1} where it was not seen in its episode, 0 elsewhere."""
    venv = walk()
    reward = make_reward("vic", venv.observation_space, venv.action_space, "cpu", {"episodic": "counts", "eta": 0.01})
    assert reward.scale.return_stats is not None  # norm_reward is True by default
    reward = make_reward(
        "vic", venv.observation_space, venv.action_space, "cpu", {"episodic": "counts", "eta": 0.01, "norm_reward": False}
    )
    reward.lifelong.observe = lambda _: None
    found = bonuses(venv, reward, 5)
    shown = th.tensor([[0.0, 1.0], [0.0, 2.0], [0.0, 1.0], [0.0, 0.0], [0.0, 1.0]])
    expected = 0.01 * reward.lifelong.novelty(shown).numpy() * [1, 1, 0, 0, 0]
    np.testing.assert_allclose(found, np.repeat(expected[:, None], 2, axis=1), rtol=1e-4)


def test_a_product_trains_what_the_lifelong_reward_would():
    """The same gradients as SND alone, and with an inverse model those of its loss beside them."""
    obs, next_obs, actions = th.randn(16, 4), th.randn(16, 4), th.randint(3, (16,))

    def make(**kwargs):
        th.manual_seed(0)
        return make_reward("vic", VECTOR, DISCRETE, "cpu", kwargs)

    def gradients(reward, owner):
        reward.double()
        batch = reward.transitions(obs, next_obs, actions)
        terms = reward.loss(batch._replace(frames=batch.frames.double()))
        terms["loss"].backward()
        return terms, {name: p.grad for name, p in owner.named_parameters()}

    alone = make()
    _, expected = gradients(alone, alone)
    for features in (None, "inverse"):
        reward = make(episodic="e3b", episodic_features=features)
        terms, found = gradients(reward, reward.lifelong)
        assert set(found) == set(expected)
        for name, gradient in expected.items():
            th.testing.assert_close(found[name], gradient)
        if features == "inverse":
            assert all(p.grad is not None for p in reward.inverse_model.parameters())
            batch = reward.transitions(obs, next_obs, actions)
            alone_loss = alone.loss(batch._replace(frames=batch.frames.double()))["loss"]
            th.testing.assert_close(terms["loss"], alone_loss + terms["inverse"])


def test_a_product_computes_the_target_once_a_step():
    """Its features serve both factors."""
    venv = counting(2)
    reward = make_reward("vic", venv.observation_space, venv.action_space, "cpu", {"episodic": "e3b"})
    calls = []
    reward.lifelong.target.encoder.register_forward_hook(lambda _, inputs, __: calls.append(len(inputs[0])))
    bonuses(venv, reward, 6)
    assert calls == [2, *[2] * 5, 2, 2]  # the first states, then one a step, and those of the second episode


@pytest.mark.parametrize("snd", ["counts", "e3b", "ngu", "vic"])
def test_training_by_name(snd, tmp_path):
    """On- and off-policy; a saved model loads with the same reward, and holds no memory of an episode."""
    kwargs = dict(episodic="ngu") if snd == "vic" else {}
    model = PPOSND("MlpPolicy", counting(2), snd=snd, **kwargs, **SIZES).learn(48)
    model.save(tmp_path / "model")
    loaded = PPOSND.load(tmp_path / "model", counting(2), device="cpu")
    assert type(loaded.snd) is type(model.snd) and loaded.snd_kwargs == kwargs
    for name, value in model.snd.state_dict().items():
        assert th.equal(value, loaded.snd.state_dict()[name]), name
    assert all(buffer is None or len(buffer) == 0 for buffer in loaded.snd.get_run_state().values())
    loaded.learn(16)
    with pytest.raises(ValueError, match="which cannot be changed to 'counts': omit episodic"):
        PPOSND.load(tmp_path / "model", episodic="counts")
    env = VecIntrinsicReward(counting(2), snd, device="cpu", **kwargs)
    DQN("MlpPolicy", env, learning_starts=4, device="cpu", seed=0).learn(60, callback=SNDCallback())
    env = VecIntrinsicReward(counting(2), snd, device="cpu", **kwargs)
    PPO("MlpPolicy", env, **SIZES).learn(16, callback=SNDCallback())


def test_a_model_with_a_given_product_loads(tmp_path):
    venv = counting(2)
    reward = make_reward("vic", venv.observation_space, venv.action_space, "cpu", {"episodic": "e3b", "features_dim": 8})
    PPOSND("MlpPolicy", venv, snd=reward, **SIZES).learn(16).save(tmp_path / "model")
    loaded = PPOSND.load(tmp_path / "model", device="cpu")
    assert isinstance(loaded.snd, Product) and loaded.snd.lifelong.target.features_dim == 8
    assert th.equal(loaded.snd.projection, reward.projection)
    reward.save(tmp_path / "reward.pth")
    loaded.snd.load(tmp_path / "reward.pth")


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(snd="e3b", snd_kwargs=dict(ridge=0)), "ridge=0 must be a positive number"),
        (dict(snd="e3b", snd_kwargs=dict(lambda_=1)), "Unknown argument 'lambda_' of E3B: it takes eta, .*, ridge"),
        (dict(snd="ngu", snd_kwargs=dict(n_neighbors=0)), "n_neighbors=0 must be an integer"),
        (dict(snd="counts", snd_kwargs=dict(kind="first")), "kind='first' must be one of 'lifelong', 'episodic'"),
        (dict(episodic="vic"), "episodic='vic' must be one of 'counts', 'e3b', 'ngu'"),
        (dict(snd=None, episodic="e3b"), "episodic='e3b' needs the name or class of a reward"),
        (dict(snd_kwargs=dict(episodic_features="inverse")), "episodic_features needs episodic"),
        (dict(snd="counts", episodic="e3b", snd_kwargs=dict(place=True)), "Counts with place=True cannot be multiplied"),
        (
            dict(snd="counts", episodic="e3b", snd_kwargs=dict(episodic_features="lifelong")),
            "Counts has no features: use episodic_features='inverse'",
        ),
    ],
)
def test_bad_input(kwargs, message):
    with pytest.raises(ValueError, match=message):
        PPOSND("MlpPolicy", counting(2), **{**SIZES, **kwargs})


def test_what_reads_actions_needs_their_space():
    with pytest.raises(ValueError, match=r"E3B reads actions: give it action_space=env\.action_space"):
        E3B(VECTOR)
    with pytest.raises(ValueError, match="episodic='e3b' needs the name or class of a reward"):
        VecIntrinsicReward(counting(2), SND(counting(2).observation_space), episodic="e3b")


class Hidden(CountingEnv):
    """The agent sees the same all the time, but is in places 0 1 2 1 0 ..."""

    def _obs(self):
        return np.zeros(2, dtype=np.float32)

    def get_place(self):
        return "room", [0, 1, 2, 1][self.step_count % 4]


def test_places_are_counted_where_nothing_is_seen():
    """By hand, over three episodes of 5 steps. The place of the terminal state counts, too, and not that after the reset."""
    venv = DummyVecEnv([lambda: PlaceInfo(Hidden(length=5)) for _ in range(2)])
    found = bonuses(venv, Counts(venv.observation_space, kind="episodic", place=True, device="cpu"), 15)
    expected = [1, 1, 2**-0.5, 2**-0.5, 3**-0.5] * 3
    np.testing.assert_allclose(found, np.repeat(np.array(expected)[:, None], 2, axis=1), rtol=1e-6)
    blind = Counts(venv.observation_space, kind="episodic", device="cpu")
    assert (bonuses(venv, blind, 5)[:, 0] < 1).all()


def test_a_continuous_position_is_a_place_in_bins():
    """MountainCar's, in 20 bins a dimension, which its environment has only after the first reset."""
    env = PlaceInfo(gym.make("MountainCar-v0"))
    numbers = []
    _, info = env.reset(seed=0)
    for _ in range(30):
        state = env.unwrapped.state
        bins = [int(20 * (x - low) / (high - low)) for x, low, high in zip(state, (-1.2, -0.07), (0.6, 0.07), strict=True)]
        numbers.append((tuple(bins), info["place"]))
        info = env.step(2)[-1]
    assert len({place for _, place in numbers}) == len({bins for bins, _ in numbers}) == len(set(numbers)) > 3


def test_places_of_processes_are_the_same():
    """A hash does not depend on the process, and terminal places reach the parent."""
    makers = [lambda n=n: PlaceInfo(Hidden(n, length=3 + n)) for n in range(2)]
    results = []
    for vec_env in (DummyVecEnv, SubprocVecEnv):
        venv = vec_env(makers)
        results.append(bonuses(venv, Counts(venv.observation_space, kind="lifelong", place=True, device="cpu"), 7))
        venv.close()
    np.testing.assert_array_equal(*results)


def test_a_reward_of_places_begins_within_an_episode():
    """The place of the present state is known although the steps before were not rewarded."""
    venv = DummyVecEnv([lambda: PlaceInfo(Hidden(length=9))])
    env = VecIntrinsicReward(venv, "counts", {"place": True}, ext_coef=0.0, device="cpu")
    env.reset()
    found = []
    for training in (False, False, True, True, True):  # in places 1 2 | 1 0 1
        env.training = training
        found.append(env.step(np.zeros(1, dtype=int))[1].item())
    assert found[2:] == [1, 1, 0]


def test_places_must_be_told():
    env = VecIntrinsicReward(counting(2), "counts", {"place": True}, device="cpu")
    with pytest.raises(
        ValueError, match=r"place=True needs places in the infos: wrap each environment in sb3_snd\.envs\.PlaceInfo"
    ):
        env.reset()
    with pytest.raises(ValueError, match="PlaceInfo cannot read the places"):
        PlaceInfo(CountingEnv()).reset()
