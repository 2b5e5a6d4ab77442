import csv
import io
import time
import warnings
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from fakes import AnyEnv, FakeSND, counting, image_env
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.utils import ConstantSchedule, LinearSchedule

from sb3_snd import PPOSND, SND, VecIntrinsicReward
from sb3_snd.ppo_snd.policies import CnnPolicy, MlpPolicy
from sb3_snd.targets import TARGETS

GOLDEN = Path(__file__).parent / "golden"
SIZES = dict(n_steps=16, batch_size=16, n_epochs=2, device="cpu")


def make(env=None, policy="MlpPolicy", **kwargs):
    return PPOSND(policy, env or counting(), **{**SIZES, "seed": 0, **kwargs})


def parameters(model):
    return {name: value for part in model.get_parameters().values() for name, value in _flat(part)}


def _flat(part, prefix=""):
    items = part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ()
    for key, value in items:
        if isinstance(value, th.Tensor):
            yield f"{prefix}{key}", value
        else:
            yield from _flat(value, f"{prefix}{key}.")


def assert_equal(a, b):
    assert a.keys() == b.keys() and len(a) > 0
    assert [name for name in a if not th.equal(a[name], b[name])] == []


@pytest.mark.numbers
@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_without_snd_it_is_stock_ppo_bit_for_bit(env_id):
    """Pendulum's episodes end by a time limit, CartPole's by failure."""
    models = []
    for cls, kwargs in ((PPO, {}), (PPOSND, dict(snd=None))):
        env = make_vec_env(env_id, 4, seed=7)
        model = cls("MlpPolicy", env, seed=7, **{**SIZES, "n_steps": 128}, **kwargs).learn(1024)
        assert model.num_timesteps == 1024
        models.append(model)
    assert_equal(*map(parameters, models))


def test_without_snd_the_cnn_policy_is_stock_ppo_bit_for_bit():
    models = []
    for cls, kwargs in ((PPO, {}), (PPOSND, dict(snd=None))):
        models.append(cls(CnnPolicy, image_env(), seed=7, normalize_advantage=False, **SIZES, **kwargs).learn(32))
    assert_equal(*map(parameters, models))


def test_without_snd_nothing_else_is_there():
    model = make(snd=None)
    assert model.snd is None and model.n_streams == 1 and model.normalize_advantage
    assert not isinstance(model.env, VecIntrinsicReward)
    assert model.rollout_buffer.rewards.shape == (16, 2, 1)


def test_paper_defaults():
    model = make()
    assert (model.gamma_int, model.ext_coef, model.int_coef, model.intrinsic_episodic) == (0.99, 2.0, 1.0, True)
    assert model.snd.target_name == "vic" and not model.normalize_advantage


def collect(model):
    """One rollout, without an update."""
    model.train = lambda: None
    model.learn(model.n_steps * model.n_envs)
    return model.rollout_buffer


@pytest.mark.numbers
def test_int_coef_zero_gives_stock_advantages():
    """A stock PPO with the same actor and the same critic of the extrinsic stream, in an environment with time limits."""
    model = make(counting(truncated=True), ext_coef=1.0, int_coef=0.0, gamma=0.9)
    stock = PPO("MlpPolicy", counting(truncated=True), gamma=0.9, **SIZES)
    weights = model.policy.state_dict()
    for name in ("value_net.weight", "value_net.bias"):
        weights[name] = weights[name][:1]
    stock.policy.load_state_dict(weights)
    buffers = [collect(algorithm) for algorithm in (model, stock)]
    np.testing.assert_allclose(buffers[0].advantages @ buffers[0].coefs, buffers[1].advantages, rtol=1e-5, atol=1e-5)
    samples = []
    for buffer in buffers:
        np.random.seed(1)
        samples.append(next(buffer.get()).advantages)
    np.testing.assert_allclose(*samples, rtol=1e-5, atol=1e-5)
    assert samples[0].abs().max() > 1


def test_returns_are_the_rewards_where_nothing_later_counts():
    """Rewards are 10 n and (n + 1) / 100 in environment n; a time limit adds nothing to them."""
    env = counting(truncated=True)
    model = make(env, snd=FakeSND(env.observation_space, batch_size=16), gamma=0, gamma_int=0.0)
    buffer = collect(model)
    np.testing.assert_array_equal(buffer.rewards, np.tile(np.float32([[0, 0.01], [10, 0.02]]), (16, 1, 1)))
    np.testing.assert_allclose(buffer.returns, buffer.rewards, atol=1e-5)


@pytest.mark.parametrize("cuda_graphs", [False, True])
@pytest.mark.parametrize("name", ["max_grad_norm", "clip_range", "clip_range_vf", "target_kl"])
@pytest.mark.filterwarnings("ignore:cuda_graphs=True")
def test_a_limit_of_infinity_is_none(name, cuda_graphs, tmp_path):
    """As in SB3, also when it is saved and loaded; a limit of 10^18, which nothing reaches here, does the same."""
    if cuda_graphs and name == "target_kl":
        cuda_graphs = False  # which has no early stopping
    infinite, large = (make(counting(), cuda_graphs=cuda_graphs, **{name: limit}) for limit in (float("inf"), 1e18))
    infinite.save(tmp_path / "model")
    infinite = PPOSND.load(tmp_path / "model", counting(), "cpu")
    for model in (infinite, large):
        model.set_random_seed(1)
        model.learn(64)
    assert all(th.equal(a, b) for a, b in zip(infinite.policy.parameters(), large.policy.parameters(), strict=True))


def test_rewards_of_both_streams_in_order():
    env = counting(3)
    buffer = collect(make(env, snd=FakeSND(env.observation_space, batch_size=16)))
    np.testing.assert_allclose(buffer.rewards[0], [[0, 0.01], [10, 0.02], [20, 0.03]], rtol=1e-6)
    np.testing.assert_allclose(buffer.rewards[9], buffer.rewards[0])
    assert buffer.values.shape == (16, 3, 2)


@pytest.mark.numbers
@pytest.mark.parametrize("episodic", [True, False])
def test_time_limit_bootstraps_each_stream_with_its_own_gamma(episodic):
    env = counting(2, truncated=True)
    snd = FakeSND(env.observation_space, batch_size=16)
    model = make(env, snd=snd, gamma=0.9, gamma_int=0.5, intrinsic_episodic=episodic)
    buffer = collect(model)
    terminal = th.tensor([[0.0, 5.0], [1.0, 5.0]])  # number of the environment, step 5
    with th.no_grad():
        values = model.policy.predict_values(terminal).numpy()
    plain = np.array([[0, 0.01], [10, 0.02]])
    gammas = np.array([0.9, 0.5 if episodic else 0.0])
    np.testing.assert_allclose(buffer.rewards[4], plain + gammas * values, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(buffer.rewards[3], plain, rtol=1e-5)


def test_terminated_episodes_do_not_bootstrap():
    env = counting(2)
    buffer = collect(make(env, snd=FakeSND(env.observation_space, batch_size=16)))
    np.testing.assert_allclose(buffer.rewards[4], [[0, 0.01], [10, 0.02]], rtol=1e-5)


def test_pairs_end_at_the_terminal_observation():
    """Observations are (environment, step): the successor's step is one more, up to the episode's last."""
    model = make(counting(2, length=5), snd_kwargs=dict(batch_size=8))
    rollouts = []
    model.snd.trainer.train_on_rollout = lambda rollout: rollouts.append(rollout) or {}
    model.learn(32)
    model.snd.prepare = th.as_tensor  # the numbers themselves, not normalised
    pairs = [th.cat(batch.split(batch.frames), dim=1) for batch in model.snd.trainer.minibatches(rollouts[0])]
    pairs = th.cat(pairs).tolist()
    assert len(pairs) == 32
    expected = [[env, t % 5, env, t % 5 + 1] for t in range(16) for env in range(2)]
    assert pairs == expected


def test_snd_is_trained_after_ppo_once_a_rollout():
    order = []
    model = make()
    train, snd_pass = model._update.train, model.snd.trainer.train_on_rollout
    model.snd.trainer.train_on_rollout = lambda rollout: order.append("snd") or snd_pass(rollout)
    model._update.train = lambda: order.append("ppo") or train()
    model.learn(64)
    assert order == ["ppo", "snd", "ppo", "snd"]


class TablePolicy(MlpPolicy):
    """Logits and values are looked up by the observation, which is a row number."""

    logits: th.Tensor
    table: th.Tensor

    def evaluate_actions(self, obs, actions):
        rows = obs[:, 0].long()
        distribution = th.distributions.Categorical(logits=self.logits[rows])
        return self.table[rows], distribution.log_prob(actions), distribution.entropy()


@pytest.mark.numbers
@pytest.mark.parametrize("train", [PPO.train, lambda model: model._update.train()], ids=["of SB3", "of its own"])
def test_loss_golden(train, tmp_path):
    """Both updates give the golden loss on a buffer of two streams."""
    golden = np.load(GOLDEN / "ppo_loss.npz")
    n = len(golden["actions"])

    class Rows(gym.Env):
        observation_space = spaces.Box(0, n, (1,))
        action_space = spaces.Discrete(golden["logits"].shape[1])

        def reset(self, seed=None, options=None):
            return np.zeros(1, dtype=np.float32), {}

    options = dict(n_steps=n, batch_size=n, n_epochs=1, device="cpu", seed=0)
    coefs = dict(clip_range=float(golden["clip_range"]), ent_coef=float(golden["ent_coef"]))
    # weight 0.5 of the sum of both streams' losses is weight 1 of their mean
    model = PPOSND(TablePolicy, Rows(), vf_coef=2 * float(golden["vf_coef"]), **coefs, **options)
    model.policy.logits = th.as_tensor(golden["logits"]).requires_grad_()
    model.policy.table = th.as_tensor(golden["values"]).requires_grad_()
    buffer = model.rollout_buffer
    old = th.distributions.Categorical(logits=th.as_tensor(golden["old_logits"]))
    log_probs = old.log_prob(th.as_tensor(golden["actions"])).numpy()
    buffer.observations.copy_(th.arange(n).reshape(n, 1, 1))
    buffer.actions[:, 0, 0] = golden["actions"]
    buffer.log_probs[:, 0] = log_probs
    buffer.coefs = np.array([1.0, 0.0], dtype=np.float32)
    buffer.advantages[:, 0, 0] = golden["advantages"]
    buffer.returns[:, 0] = golden["returns"]
    buffer.full = True
    model.set_logger(configure(str(tmp_path), []))
    train(model)
    logged = model.logger.name_to_value
    np.testing.assert_allclose(logged["train/policy_gradient_loss"], golden["policy_loss"], rtol=1e-4)
    np.testing.assert_allclose(2 * logged["train/value_loss"], golden["value_loss"], rtol=1e-4)
    np.testing.assert_allclose(-logged["train/entropy_loss"], golden["entropy"], rtol=1e-4)
    np.testing.assert_allclose(logged["train/loss"], golden["loss"], rtol=1e-4)


def next_update(model, rollout_of):
    """The update that follows, on another model's rollout."""
    model.rollout_buffer = rollout_of.rollout_buffer
    model._last_obs = rollout_of._last_obs
    model.set_logger(configure(None, []))
    np.random.seed(11)
    th.manual_seed(11)
    model.train()
    return parameters(model)


@pytest.mark.parametrize("target", TARGETS)
def test_loaded_model_updates_bit_for_bit(target, tmp_path):
    env = image_env() if target == "rnd" else counting()
    policy = "CnnPolicy" if target == "rnd" else "MlpPolicy"
    schedule = {"learning_rate": lambda progress: 1e-3 * progress, "clip_range": lambda progress: 0.3 * progress}
    model = make(env, policy, snd=target, snd_kwargs=dict(eta=0.7, learning_rate=1e-3), **schedule).learn(96)
    model.save(tmp_path / "model")
    loaded = PPOSND.load(tmp_path / "model.zip", env=model.get_env(), device="cpu")
    assert loaded.snd.target_name == target and loaded.snd.scale.eta == 0.7
    assert (loaded.num_timesteps, loaded._n_updates) == (96, 6)
    assert loaded._current_progress_remaining == model._current_progress_remaining
    assert isinstance(loaded.env, VecIntrinsicReward) and loaded.env.snd is loaded.snd
    assert_equal(parameters(model), parameters(loaded))
    before = {name: value.clone() for name, value in parameters(model).items()}
    expected = next_update(model, model)
    assert any(not th.equal(before[name], expected[name]) for name in before)
    assert_equal(expected, next_update(loaded, model))


@pytest.mark.parametrize("fused", [None, True])
def test_models_load_whichever_adam_has_saved_them(fused, tmp_path):
    """As saved before Adam was fused, or since; both go on with the same nets and the same state of the optimisers."""
    saved = make()
    for optimizer in (saved.policy.optimizer, saved.snd.trainer.optimizer):
        for group in optimizer.param_groups:
            group["fused"] = fused
    saved.learn(64).save(tmp_path / "model")
    loaded, other = PPOSND.load(tmp_path / "model", env=counting()), make(policy_kwargs=dict(optimizer_kwargs=dict(eps=1e-5)))
    other.set_parameters(tmp_path / "model")
    for model in (loaded, other):
        before = parameters(model)
        assert_equal(before, parameters(saved))
        weight = model.policy.value_net.weight.clone()
        model.learn(64)
        assert not th.equal(weight, model.policy.value_net.weight)


def test_nets_are_not_pickled(tmp_path):
    import zipfile

    model = make().learn(32)
    model.save(tmp_path / "model")
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        assert {"snd.pth", "snd.trainer.optimizer.pth", "policy.pth", "policy.optimizer.pth"} <= set(archive.namelist())
        data = archive.read("data").decode()
        assert "SND" not in data.replace("PPOSND", "") and len(data) < 50_000
        for name in ("snd.pth", "snd.trainer.optimizer.pth"):
            assert th.load(io.BytesIO(archive.read(name)), weights_only=True)


def test_load_from_memory_with_an_snd_of_ones_own():
    env = counting()
    model = make(env, snd=SND(env.observation_space, "rnd", eta=0.3, batch_size=8, device="cpu")).learn(32)
    file = io.BytesIO()
    model.save(file)
    file.seek(0)
    loaded = PPOSND.load(file, device="cpu", snd="rnd")
    assert loaded.env is None and loaded.get_env() is None
    assert (loaded.snd.scale.eta, loaded.snd.trainer.batch_size) == (0.3, 8)
    assert_equal(parameters(model), parameters(loaded))
    obs = counting().reset()
    assert loaded.predict(obs, deterministic=True)[0].tolist() == model.predict(obs, deterministic=True)[0].tolist()


def test_learning_rate_can_change_on_loading(tmp_path):
    make(snd_kwargs=dict(learning_rate=1e-3)).learn(32).save(tmp_path / "model")
    for kwargs, expected in (({}, 1e-3), (dict(snd_kwargs=dict(learning_rate=1e-5)), 1e-5)):
        model = PPOSND.load(tmp_path / "model", device="cpu", **kwargs)
        assert model.snd.trainer.optimizer.param_groups[0]["lr"] == expected
        assert model.snd.trainer.optimizer.state_dict()["state"]


def test_training_goes_on_after_loading(tmp_path):
    model = make(snd="v").learn(32)
    model.save(tmp_path / "model")
    loaded = PPOSND.load(tmp_path / "model", env=counting(4), device="cpu").learn(64, reset_num_timesteps=False)
    assert loaded.num_timesteps == 96 and loaded.n_envs == 4


def test_equal_seeds_give_equal_runs():
    runs = [parameters(make(image_env(), "CnnPolicy", snd="v").learn(64)) for _ in range(2)]
    assert_equal(*runs)


def test_evaluation_is_left_alone():
    """The environment that ``get_env`` gives has its own rewards, and evaluating on it trains nothing."""
    env = counting()
    model = make(env).learn(32)
    assert model.get_env() is env
    before = {name: value.clone() for name, value in parameters(model).items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # no Monitor
        returns, _ = evaluate_policy(model, model.get_env(), n_eval_episodes=2, return_episode_rewards=True)
    assert returns == [0.0, 50.0]  # five steps of 0, five of 10
    assert_equal(before, parameters(model))


def test_set_env_wraps_again():
    model = make()
    model.set_env(counting())
    assert isinstance(model.env, VecIntrinsicReward) and model.env.snd is model.snd
    model.learn(32)
    with pytest.raises(AssertionError, match="number of environments"):
        model.set_env(counting(3))


def test_logged_keys(tmp_path):
    model = make(ent_coef=0.01)
    model.set_logger(configure(str(tmp_path), []))
    model.learn(32, log_interval=None)
    keys = set(model.logger.name_to_value)
    rollout = {"rollout/novelty_mean", "rollout/intrinsic_reward_mean", "rollout/intrinsic_reward_max"}
    streams = {"train/explained_variance_ext", "train/explained_variance_int"}
    terms = {f"snd/{name}" for name in ("loss", "distill", "target", "invariance", "variance", "covariance", "feature_norm")}
    assert rollout | streams | terms <= keys


def test_gsde():
    make(make_vec_env("Pendulum-v1", 2), use_sde=True, sde_sample_freq=4).learn(32)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(snd="nope"), "Unknown reward snd='nope': choose one of 'v', 'std', 'vic', 'rnd', 'bt', 'vinv'"),
        (dict(snd_kwargs=dict(eta=-1)), "eta=-1 must be a non-negative number"),
        (dict(gamma=-0.1), r"gamma=-0.1 must lie in \[0, 1\]"),
        (dict(gamma_int=1.1), r"gamma_int=1.1 must lie in \[0, 1\]"),
        (dict(policy=PPO.policy_aliases["MlpPolicy"]), "needs a policy with one value per stream, not ActorCriticPolicy"),
        (dict(policy="CnnPolicy"), "CnnPolicy needs images"),
        (dict(snd=SND(spaces.Box(-1, 1, (2,)), device="cpu"), snd_kwargs=dict(eta=1)), "needs the name or class of a reward"),
        (dict(env=VecIntrinsicReward(counting(), device="cpu")), "already has an intrinsic reward"),
    ],
)
def test_bad_input(kwargs, message):
    with pytest.raises(ValueError, match=message):
        make(**kwargs)


@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
@pytest.mark.parametrize("sizes", [dict(batch_size=12), dict(snd_kwargs=dict(batch_size=5)), dict(n_steps=17, batch_size=512)])
@pytest.mark.parametrize("cuda_graphs", [False, True])
@pytest.mark.filterwarnings("ignore:cuda_graphs=True")
def test_minibatches_need_not_divide_the_rollout(sizes, cuda_graphs):
    """The update of PPO is SB3's own, whose last minibatch is smaller."""
    ppo_sizes = {name: value for name, value in sizes.items() if name != "snd_kwargs"}
    models = [
        make(**sizes, cuda_graphs=cuda_graphs).learn(96),
        make(**ppo_sizes, snd=None, cuda_graphs=cuda_graphs).learn(96),
        PPO("MlpPolicy", counting(), **{**SIZES, **ppo_sizes, "seed": 0}).learn(96),
    ]
    if not cuda_graphs:
        assert_equal(*({name: p for name, p in model.policy.named_parameters()} for model in models[1:]))
    assert np.isfinite(models[0].logger.name_to_value["snd/loss"])


@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
def test_a_model_is_evaluated_in_one_environment(tmp_path):
    """Trained in 32 with minibatches of 128, of which one environment's rollout has 4."""
    model = make(counting(32), n_steps=4, batch_size=128).learn(128)
    model.save(tmp_path / "model")
    loaded = PPOSND.load(tmp_path / "model", env=counting(1), device="cpu")
    assert loaded.n_envs == 1 and loaded.rollout_buffer.rewards.shape == (4, 1, 2)
    assert evaluate_policy(loaded, loaded.get_env(), n_eval_episodes=2, warn=False) == (0.0, 0.0)
    assert_equal(parameters(model), parameters(loaded))
    loaded.learn(8)  # in minibatches of four


@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
def test_a_rollout_of_one_transition_is_refused_before_training(tmp_path):
    """Also with a model whose rollouts had two when it was trained."""
    refused = pytest.raises(ValueError, match=r"rollout of one transition .*: raise n_steps or n_envs")
    with refused:
        make(counting(1), n_steps=1, batch_size=2)
    make(counting(2), n_steps=1, batch_size=2).learn(4).save(tmp_path / "model")
    model = PPOSND.load(tmp_path / "model", env=counting(1), device="cpu")
    with refused:
        model.learn(4)
    assert model.num_timesteps == 0  # no step was taken


def rates(model):
    return [group["lr"] for group in model.snd.trainer.optimizer.param_groups]


@pytest.mark.parametrize(
    ("given", "eta", "rate", "normed"),
    [
        ({}, 2.0, 5e-4, True),
        (dict(snd_kwargs=dict(eta=3.0)), 3.0, 5e-4, True),
        (dict(snd_kwargs=dict(learning_rate=1e-3)), 2.0, 1e-3, True),
        (dict(snd_kwargs=dict(norm_reward=False)), 2.0, 5e-4, False),
        (dict(snd_kwargs=None), 2.0, 5e-4, True),
        (dict(snd="vic", snd_kwargs=dict(eta=3.0)), 3.0, 5e-4, True),
    ],
)
def test_loading_keeps_the_settings_that_are_not_given(given, eta, rate, normed, tmp_path):
    model = make(snd_kwargs=dict(eta=2.0, learning_rate=5e-4, norm_reward=True)).learn(32)
    model.save(tmp_path / "model")
    loaded = PPOSND.load(tmp_path / "model", env=counting(), device="cpu", **given)
    assert (loaded.snd.scale.eta, rates(loaded)) == (eta, [rate])
    assert (loaded.snd.scale.return_stats is not None) == normed
    if normed:
        assert loaded.snd.scale.return_stats.var == model.snd.scale.return_stats.var
    assert th.equal(loaded.snd.novelty(np.ones((3, 2))), model.snd.novelty(np.ones((3, 2))))
    loaded.learn(32)
    loaded.save(tmp_path / "again")
    again = PPOSND.load(tmp_path / "again", device="cpu")
    assert (again.snd.scale.eta, rates(again)) == (eta, [rate])


def test_schedules_are_followed_and_saved(tmp_path):
    """Weights, eta and SND's rate fall in a straight line over four rollouts of 32 transitions."""
    fading = LinearSchedule(1.0, 0.0, 1.0)
    snd_kwargs = dict(eta=fading, learning_rate=LinearSchedule(1e-3, 0.0, 1.0))
    kwargs = dict(ext_coef=LinearSchedule(2.0, 1.0, 1.0), int_coef=fading, snd_kwargs=snd_kwargs)
    seen = []

    class Watched(PPOSND):
        def train(self):
            super().train()
            seen.append([*self.rollout_buffer.coefs.tolist(), eta, rates(self)[0]])

        def collect_rollouts(self, *args, **kwargs):
            nonlocal eta
            result = super().collect_rollouts(*args, **kwargs)
            eta = self.snd.scale.eta
            return result

    eta = None
    expected = [[1.75, 0.75, 1.0, 7.5e-4], [1.5, 0.5, 0.75, 5e-4], [1.25, 0.25, 0.5, 2.5e-4], [1, 0, 0.25, 0]]
    model = Watched("MlpPolicy", counting(), **SIZES, seed=0, **kwargs)
    for _ in range(2):  # the second training begins anew
        seen.clear()
        model.learn(128)
        np.testing.assert_allclose(seen, expected, atol=1e-12)
    model.learn(64)
    model.save(tmp_path / "model")
    seen.clear()
    Watched.load(tmp_path / "model", env=counting(), device="cpu").learn(64, reset_num_timesteps=False)
    np.testing.assert_allclose(seen[0], [1 + 1 / 4, 1 / 4, 1 / 2, 2.5e-4], atol=1e-12)


def test_a_constant_schedule_is_a_number():
    numbers = make(ext_coef=1.5, int_coef=0.5, snd_kwargs=dict(eta=0.3, learning_rate=2e-4)).learn(96)
    constant = [ConstantSchedule(value) for value in (1.5, 0.5, 0.3, 2e-4)]
    schedules = make(
        ext_coef=constant[0], int_coef=constant[1], snd_kwargs=dict(eta=constant[2], learning_rate=constant[3])
    ).learn(96)
    assert_equal(parameters(numbers), parameters(schedules))


def test_own_snd_must_fit_the_observations():
    snd = SND(spaces.Box(-1, 1, (3,)), device="cpu")
    for build in (lambda: make(snd=snd), lambda: VecIntrinsicReward(counting(), snd)):
        with pytest.raises(
            ValueError, match=r"made for frames of shape \(3,\) .*, but the environment gives frames of shape \(2,\)"
        ):
            build()


def test_a_wrapped_environment_is_refused_before_it_is_set():
    model = make()
    env = model.get_env()
    with pytest.raises(ValueError, match="already has an intrinsic reward"):
        model.set_env(VecIntrinsicReward(counting(), device="cpu"))
    assert model.get_env() is env


@pytest.mark.parametrize("other", ["std", None])
def test_a_zip_with_another_target(other, tmp_path):
    make().save(tmp_path / "model")
    with pytest.raises(ValueError, match=f"was saved with snd='vic', which cannot be changed to snd={other!r}"):
        PPOSND.load(tmp_path / "model", snd=other, device="cpu")


def test_a_zip_of_another_algorithm(tmp_path):
    PPO("MlpPolicy", counting(), **SIZES).save(tmp_path / "ppo")
    (tmp_path / "text.zip").write_text("no archive")
    for name in ("ppo.zip", "text.zip"):
        with pytest.raises(ValueError, match="was not saved by PPOSND"):
            PPOSND.load(tmp_path / name)


def test_seconds_of_each_phase_are_logged(tmp_path):
    model = make()
    model.set_logger(configure(str(tmp_path), ["csv"]))
    began = time.perf_counter()
    model.learn(96)
    wall = time.perf_counter() - began
    with open(tmp_path / "progress.csv") as file:
        rows = list(csv.DictReader(file))
    names = ("time/rollout_s", "time/ppo_s", "time/snd_s")
    assert len(rows) == 3 and rows[0]["time/ppo_s"] == ""  # written before the first update
    assert all(float(row[name]) > 0 for row in rows[1:] for name in names)
    assert sum(float(row[name] or 0) for row in rows for name in names) < wall


NAN_CASES = [(spaces.Box(-1, 1, (2,)), True)]
NAN_CASES += [(space, False) for space in (spaces.Box(-1, 1, (2,)), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(2))]
NAN_CASES += [(spaces.Discrete(3), False)]


@pytest.mark.parametrize("where", ["weights", "observation"])
@pytest.mark.parametrize(("action_space", "use_sde"), NAN_CASES)
def test_acting_on_nan_ends_as_with_ppo(action_space, use_sde, where):
    """PyTorch's distributions say so for PPO at each call. Here they are asked only if something is not finite."""
    env = AnyEnv(spaces.Box(-np.inf, np.inf, (3,)), action_space)
    messages = []
    for algorithm in (PPO, PPOSND):
        model = algorithm("MlpPolicy", env, use_sde=use_sde, n_steps=8, batch_size=8, device="cpu", seed=0)
        obs = th.zeros(1, 3)
        if where == "weights":
            model.policy.action_net.weight.data.fill_(float("nan"))
        else:
            obs[0, 1] = float("nan")
        with pytest.raises(ValueError, match="nan") as error, th.no_grad():
            model.policy(obs) if algorithm is PPO else model._actor.act(obs)
        messages.append(str(error.value))
    assert messages[0] == messages[1]


def test_a_policy_that_is_replaced_acts():
    """As SB3's users do after pretraining."""
    model = PPOSND("MlpPolicy", AnyEnv(), n_steps=16, batch_size=16, device="cpu", seed=0)
    model.learn(16)
    other = PPOSND("MlpPolicy", AnyEnv(), n_steps=16, batch_size=16, device="cpu", seed=1).policy
    other.action_net.bias.data = th.tensor([99.0, -99.0])
    model.policy = other
    model.learn(16)
    assert not model.rollout_buffer.actions.any()


def test_training_continues_without_a_reset():
    env = make_vec_env(lambda: AnyEnv(), 2)
    model = PPOSND("MlpPolicy", env, n_steps=8, batch_size=8, device="cpu", seed=0).learn(16)
    model.set_env(make_vec_env(lambda: AnyEnv(), 2), force_reset=False)
    model.env.venv.reset()
    model.learn(16, reset_num_timesteps=False)
    assert model.num_timesteps == 32
