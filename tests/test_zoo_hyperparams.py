"""YAML entries against the paper's settings, and the models that the manager builds from them."""

import argparse
import inspect
from pathlib import Path

import numpy as np
import pytest
import torch as th
import yaml
from rl_zoo3.exp_manager import ExperimentManager
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecMonitor, is_vecenv_wrapped

from sb3_snd import PPOSND
from sb3_snd.envs import AtariVecEnv, ProcgenEnv, ProcgenVecEnv, VecPositiveReward, VecSignReward
from sb3_snd.ppo_snd.policies import CnnPolicy
from sb3_snd.rewards import REWARDS
from sb3_snd.rewards.product import Product
from sb3_snd.zoo.algo_keys import ALGO_KEYS, config_path
from sb3_snd.zoo.command_line import Options
from sb3_snd.zoo.hyperparams import register
from sb3_snd.zoo.manager import SNDExperimentManager

ATARI = [f"{game}NoFrameskip-v4" for game in ("MontezumaRevenge", "Gravitar", "Venture", "PrivateEye", "Pitfall", "Solaris")]
PROCGEN = [f"procgen-{game}-v0" for game in ("caveflyer", "coinrun", "jumper", "climber")]
SMALL_TASKS = [
    "MountainCarContinuous-v0",
    "MountainCar-v0",
    *(f"MiniGrid-DoorKey-{size}-v0" for size in ("8x8", "6x6", "16x16")),
    *(f"MiniGrid-MultiRoom-{size}-v0" for size in ("N2-S4", "N4-S5", "N6")),
    *(f"MiniGrid-{task}-v0" for task in ("KeyCorridorS3R3", "ObstructedMaze-1Dlhb")),
    "DeepSea-v0",
]
# eta of the paper, in the order of the ten environments
ETA = {
    "rnd": [1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
    "v": [0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5],
    "std": [1, 1, 0.25, 0.5, 1, 0.5, 0.5, 0.25, 1, 1],
    "vic": [0.25, 0.25, 0.25, 0.25, 0.25, 0.25, 0.5, 0.5, 0.5, 0.5],
}
TARGET_OF = {"ppo": None, "ppo_baseline": None, "ppo_rnd": "rnd", "ppo_snd_v": "v", "ppo_snd_std": "std"}
TARGET_OF |= {"ppo_snd_vic": "vic", "ppo_snd": "vic"}
FILE_OF = {"ppo_snd": "ppo_snd_vic"}  # of the other keys, a file has the name
BONUS = {"snd", "episodic", "snd_kwargs", "gamma_int", "ext_coef", "int_coef"}
BASELINES = {"ppo": PPO, "ppo_baseline": PPOSND}
#: rewards that are not in the paper, with entries for the small tasks -> (snd, episodic)
OTHER_REWARDS = {f"ppo_{name}": (name, None) for name in REWARDS if name != "sp"} | {"ppo_snd_e3b": ("vic", "e3b")}
#: models of the authors' program that are not in the paper -> (snd, eta in Atari, eta in Procgen)
OTHER_MODELS = {"ppo_snd_bt": ("bt", 1, 1), "ppo_snd_vinv": ("vinv", 0.5, 0.5), "ppo_sp": ("sp", 1, 1)}
ZOO_KEYS = {"normalize", "n_envs", "n_timesteps", "env_wrapper", "env_kwargs", "frame_stack", "policy"}


@pytest.fixture(scope="module", autouse=True)
def registered():
    register()


def entries(key):
    return yaml.safe_load(config_path(key).read_text())


def build(key, env_id, folder, overrides=None, **kwargs):
    """A model as train.py builds it, with shrunken sizes."""
    small = dict(n_envs=2, n_steps=8, batch_size=16)
    if env_id in ATARI or env_id.startswith("Pong"):
        small["env_wrapper"] = {"sb3_snd.envs.AtariWrapper": {"frame_size": 36}}
    args = argparse.Namespace(algo=key, env=env_id)
    options = dict(eval_freq=-1, hyperparams={**small, **(overrides or {})}, verbose=0, device="cpu", **kwargs)
    manager = SNDExperimentManager(args, key, env_id, str(folder), **options)
    model, _ = manager.setup_experiment()
    return model, manager


def test_every_file_has_the_ten_environments_and_the_small_ones():
    for key in TARGET_OF:
        assert set(entries(key)) == {"atari", *ATARI, *PROCGEN, *SMALL_TASKS}, key
    for key in OTHER_MODELS:
        assert set(entries(key)) == {"atari", *ATARI, *PROCGEN}, key
    for key in OTHER_REWARDS:
        assert set(entries(key)) == {*SMALL_TASKS, *(["atari", *ATARI] if key == "ppo_rnd_openai" else [])}, key
    assert set(ALGO_KEYS) == {*TARGET_OF, *OTHER_MODELS, *OTHER_REWARDS, "ppo_snd_v_original"} - {"ppo"}


@pytest.mark.parametrize("key", [*TARGET_OF, *OTHER_MODELS, *OTHER_REWARDS, "ppo_snd_v_original"])
def test_the_zoo_alone_reads_every_file(key, tmp_path):
    """``python -m rl_zoo3.train --conf-file hyperparams/KEY.yml``, which knows nothing but the file."""
    config = Path(__file__).parent.parent / "hyperparams" / f"{FILE_OF.get(key, key)}.yml"
    wanted = entries(key)
    for env_id in {*wanted, *(["PongNoFrameskip-v4"] if "atari" in wanted else [])} - {"atari"}:
        manager = ExperimentManager(argparse.Namespace(), "ppo", env_id, str(tmp_path), config=str(config))
        assert manager.read_hyperparameters()[0] == wanted[env_id if env_id in wanted else "atari"]


def test_published_settings_of_snd_v_are_an_entry_of_their_own():
    """As ppo_snd_v, but for the three options that the published runs of Montezuma's Revenge had."""
    plain, original = entries("ppo_snd_v"), entries("ppo_snd_v_original")
    assert set(original) == {"atari", ATARI[0]}
    options = {"eta": 0.5, "normalize_input": True, "noise_probability": 1.0, "n_epochs": 4}
    for env_id, entry in original.items():
        assert entry == {**plain[env_id], "snd_kwargs": options}


def test_every_key_is_read():
    known = ZOO_KEYS | set(inspect.signature(PPO).parameters)
    for key in (*TARGET_OF, *OTHER_MODELS, *OTHER_REWARDS):
        allowed = known if key == "ppo" else known | set(inspect.signature(PPOSND).parameters) - {"kwargs"}
        for env_id, entry in entries(key).items():
            assert set(entry) <= allowed, (key, env_id)


@pytest.mark.parametrize("env_id", ATARI + PROCGEN)
@pytest.mark.parametrize("key", TARGET_OF)
def test_entry_holds_the_papers_settings(key, env_id, tmp_path):
    target, atari = TARGET_OF[key], env_id in ATARI
    entry = entries(key)[env_id]
    sizes = [entry[name] for name in ("n_envs", "n_steps", "n_epochs", "batch_size", "n_timesteps")]
    assert sizes == [128, 128, 4, 512, 128e6 if atari else 64e6]
    exploration = {"distribution_mode": "exploration", "random_action_probability": 0.01}
    assert entry["env_kwargs"] == ({"repeat_action_probability": 0.25} if atari else exploration)

    model, manager = build(key, env_id, tmp_path)
    assert manager.full_timesteps == entry["n_timesteps"]
    assert model.observation_space.shape == ((4, 36, 36) if atari else (6, 64, 64))
    assert (model.learning_rate(1.0), model.clip_range(1.0)) == (1e-4, 0.1)
    assert (model.gae_lambda, model.max_grad_norm, model.ent_coef, model.clip_range_vf) == (0.95, 0.5, 0.001, None)
    assert not model.normalize_advantage
    assert isinstance(model.policy, CnnPolicy) and model.policy.optimizer.defaults["eps"] == 1e-8
    width = 128 if atari else 64
    assert model.policy.features_extractor.net[6].out_channels == width
    if target is None:
        assert type(model) is BASELINES[key]
        assert (model.gamma, model.vf_coef) == (0.998 if env_id.startswith("Gravitar") else 0.99, 0.5)
        return
    assert type(model) is PPOSND
    assert (model.gamma, model.gamma_int, model.ext_coef, model.int_coef) == (0.998, 0.99, 2.0, 1.0)
    assert model.vf_coef == 1.0 and model.intrinsic_episodic
    assert model.snd.target_name == target
    assert model.snd.scale.eta == ETA[target][(ATARI + PROCGEN).index(env_id)]
    assert model.snd.trainer.optimizer.defaults["lr"] == 1e-4
    assert model.snd.trainer.batch_size == model.batch_size
    if target in ("vic", "std"):
        assert model.snd.target.encoder[6].out_channels == width
        assert model.snd.learner[6].out_channels == (64 if target == "std" and not atari else 128)


@pytest.mark.parametrize("key", [*TARGET_OF, *OTHER_REWARDS])
def test_tasks_of_minigrid_differ_in_their_length(key):
    """And in the scale of the bonus, so that it suffices to build one of them."""
    first, *others = (entries(key)[env_id] for env_id in SMALL_TASKS if env_id.startswith("MiniGrid"))
    for entry in others:
        scale = {**entry["snd_kwargs"], "eta": first["snd_kwargs"]["eta"]} if "snd_kwargs" in entry else None
        same = {"n_timesteps": first["n_timesteps"], **({"snd_kwargs": scale} if scale else {})}
        assert {**entry, **same} == first


@pytest.mark.parametrize("env_id", [*SMALL_TASKS[:3], "DeepSea-v0"])
@pytest.mark.parametrize("key", TARGET_OF)
def test_small_tasks_are_the_same_for_every_model(key, env_id, tmp_path):
    """The baseline's entry is the models' without the bonus, so that they compare; every entry trains."""
    entry, baseline = entries(key)[env_id], entries("ppo")[env_id]
    assert {name: value for name, value in entry.items() if name not in BONUS} == baseline
    assert TARGET_OF[key] is not None or not BONUS & set(entry) - {"snd"}
    model, manager = build(key, env_id, tmp_path)
    assert Path(manager.config).name == f"{FILE_OF.get(key, key)}.yml" and "rl_zoo3" not in manager.config
    assert (model.gamma, model.normalize_advantage) == (0.99, True)
    if TARGET_OF[key] is not None:
        assert model.snd.target_name == TARGET_OF[key] and model.snd.scale.return_stats is not None
        assert model.gamma_int == 0.99
    model.learn(16)


@pytest.mark.parametrize("env_id", [SMALL_TASKS[1], SMALL_TASKS[2]])
@pytest.mark.parametrize("key", OTHER_REWARDS)
def test_small_tasks_are_the_same_for_every_other_reward(key, env_id, tmp_path):
    """Without the bonus they are the baseline's; counts are told places, which no policy sees."""
    name, episodic = OTHER_REWARDS[key]
    told = {"MiniGrid": ["sb3_snd.envs.MiniGridMap", "sb3_snd.envs.MiniGridWrapper"], "DeepSea": None}
    for task in SMALL_TASKS:
        entry, baseline = entries(key)[task], entries("ppo")[task]
        wrapper = {"env_wrapper": told.get(task.split("-")[0], "sb3_snd.envs.PlaceInfo")}
        changed = wrapper if key == "ppo_counts" else {}
        assert {name: value for name, value in entry.items() if name not in BONUS} == {**baseline, **changed}, task
        assert (entry["snd"], entry.get("episodic")) == (name, episodic)
    model, _ = build(key, env_id, tmp_path)
    made = model.snd.lifelong if episodic else model.snd
    assert made.spec == name and isinstance(model.snd, Product) is (episodic is not None)
    assert model.snd.scale.eta == entries(key)[env_id]["snd_kwargs"]["eta"]
    model.learn(16)


@pytest.mark.procgen
@pytest.mark.parametrize("key", OTHER_MODELS)
def test_other_models_have_the_papers_settings(key, tmp_path):
    """Those of SND-VIC, with the scale of the authors' program."""
    name, *etas = OTHER_MODELS[key]
    for number, env_ids in enumerate(([*ATARI, "atari"], PROCGEN)):
        for env_id in env_ids:
            wanted = dict(entries("ppo_snd_vic")[env_id], snd=name)
            wanted["snd_kwargs"] = {**wanted["snd_kwargs"], "eta": etas[number]}
            assert entries(key)[env_id] == wanted
    for env_id in (ATARI[0], PROCGEN[0]):
        assert build(key, env_id, tmp_path)[0].snd.spec == name


def test_rnd_has_its_authors_settings(tmp_path):
    """arXiv 1810.12894, tables 5 and 6; the random steps at the beginning are those of their program."""
    entry = entries("ppo_rnd_openai")[ATARI[0]]
    assert [entry[name] for name in ("n_envs", "n_steps", "n_epochs", "batch_size")] == [128, 128, 4, 128 * 128 // 4]
    assert entry["n_timesteps"] == pytest.approx(30_000 * 128 * 128, rel=1e-2)
    assert entry["env_kwargs"] == {"repeat_action_probability": 0.25, "reward": "sign"}
    model = build("ppo_rnd_openai", ATARI[0], tmp_path)[0]
    assert (model.gamma, model.gamma_int, model.gae_lambda, model.ent_coef) == (0.999, 0.99, 0.95, 0.001)
    assert (model.ext_coef, model.int_coef, model.clip_range(1.0), model.learning_rate(1.0)) == (2, 1, 0.1, 1e-4)
    assert not model.intrinsic_episodic and model.snd.warm_up_steps == 6400
    assert model.snd.trainer.n_epochs == 4


def test_entries_of_the_two_baselines_differ_in_what_names_the_algorithm():
    policies = {"sb3_snd.policies.CnnPolicy": {"policy": "CnnPolicy", "precision": "auto"}, "MlpPolicy": {}}
    policies["sb3_snd.policies.GridPolicy"] = {}
    stock = entries("ppo")
    assert entries("ppo_baseline") == {
        env_id: {**entry, "snd": None, **policies[entry["policy"]]} for env_id, entry in stock.items()
    }


@pytest.mark.numbers
@pytest.mark.parametrize("env_id", [ATARI[0], PROCGEN[2], *SMALL_TASKS[:2], "DeepSea-v0"])
def test_both_baselines_are_the_same_algorithm(env_id, tmp_path):
    """One seed gives the same net in any precision, and in float32 the same training, bit for bit."""
    float32 = {"precision": "float32"} if env_id not in SMALL_TASKS else {}
    nets, trained = [], []
    for key, overrides, algorithm in (("ppo", {}, PPO), ("ppo_baseline", float32, PPOSND), ("ppo_baseline", {}, PPOSND)):
        model = build(key, env_id, tmp_path, overrides, seed=5)[0]
        assert type(model) is algorithm and model.policy.optimizer.defaults["fused"] is (env_id not in SMALL_TASKS or None)
        nets.append({name: tensor.clone() for name, tensor in model.policy.state_dict().items()})
        model.learn(48)
        optimizer = model.policy.optimizer.state_dict()["state"]
        moments = {f"{name}.{number}": value for number, state in optimizer.items() for name, value in state.items()}
        trained.append({**model.policy.state_dict(), **moments})
    for stock, *others in (nets, trained[:2]):
        for other in others:
            assert list(stock) == list(other) and all(map(th.equal, stock.values(), other.values()))
    assert not all(map(th.equal, nets[0].values(), trained[0].values()))


@pytest.mark.procgen
@pytest.mark.parametrize("fast", [True, False])
def test_the_fast_baseline_computes_in_bfloat16_where_that_is_fast(fast, tmp_path, monkeypatch):
    monkeypatch.setattr(th.cpu, "_is_avx512_bf16_supported", lambda: fast)
    monkeypatch.setattr(th.cpu, "_is_amx_tile_supported", lambda: False)
    for env_id in (ATARI[0], PROCGEN[2]):
        trunk = build("ppo_baseline", env_id, tmp_path)[0].policy.features_extractor.net
        assert trunk.reduced is fast and trunk[2].weight.is_contiguous(memory_format=th.channels_last)


def test_native_environment_by_default(tmp_path):
    model, _ = build("ppo_snd", ATARI[0], tmp_path)
    env = model.get_env()
    assert isinstance(env.unwrapped, AtariVecEnv) and is_vecenv_wrapped(env, VecMonitor)
    assert env.unwrapped.max_episode_frames == 18_000
    ordinary = build("ppo_snd", ATARI[0], tmp_path, options=Options(native=False))[0].get_env()
    assert not isinstance(ordinary.unwrapped, AtariVecEnv)
    assert ordinary.observation_space == env.observation_space
    assert ordinary.get_attr("unwrapped")[0].spec.kwargs["repeat_action_probability"] == 0.25


@pytest.mark.procgen
def test_native_procgen_by_default(tmp_path):
    env = build("ppo", PROCGEN[0], tmp_path)[0].get_env()
    assert isinstance(env.unwrapped, ProcgenVecEnv) and is_vecenv_wrapped(env, VecMonitor)
    assert env.unwrapped.random_action_probability == 0.01
    assert env.unwrapped.engine_kwargs["distribution_mode"] == "exploration"
    ordinary = build("ppo", PROCGEN[0], tmp_path, options=Options(native=False))[0].get_env()
    assert isinstance(ordinary.get_attr("unwrapped")[1], ProcgenEnv)
    assert ordinary.observation_space == env.observation_space and ordinary.action_space == env.action_space
    np.testing.assert_array_equal(ordinary.reset(), env.reset())  # one fixed level


@pytest.mark.procgen
def test_env_kwargs_of_the_command_line_change_those_of_the_entry(tmp_path):
    given = {"distribution_mode": "easy", "num_levels": 3}
    manager = build("ppo", PROCGEN[1], tmp_path, env_kwargs=given)[1]
    changed = {"distribution_mode": "easy", "num_levels": 3, "random_action_probability": 0.01}
    assert manager.env_kwargs == manager.eval_env_kwargs == manager.args.env_kwargs == changed
    saved = yaml.unsafe_load(next(tmp_path.glob("**/config.yml")).read_text())
    assert dict(saved)["env_kwargs"] == changed

    manager = build("ppo", PROCGEN[1], tmp_path, eval_env_kwargs={"random_action_probability": 0.0})[1]
    evaluation = manager.create_envs(1, eval_env=True).unwrapped
    assert evaluation.random_action_probability == 0.0
    assert evaluation.engine_kwargs["distribution_mode"] == "exploration"
    manager = build("ppo", ATARI[0], tmp_path)[1]
    assert manager.eval_env_kwargs == {"repeat_action_probability": 0.25}
    manager = build("ppo", "CartPole-v1", tmp_path, env_kwargs={"sutton_barto_reward": True})[1]
    assert manager.env_kwargs == {"sutton_barto_reward": True}


def test_games_that_may_punish_have_the_sign_of_their_reward(tmp_path):
    """The paper's entries have its 0 or 1. Nothing else tells the two kinds of entries apart."""
    for key in (*TARGET_OF, "ppo_snd_v_original"):
        own = entries(key)
        assert own["atari"] == {**own[ATARI[0]], "env_kwargs": {"repeat_action_probability": 0.25, "reward": "sign"}}
    for env_id, wrapper in ((ATARI[0], VecPositiveReward), ("PongNoFrameskip-v4", VecSignReward)):
        env = build("ppo", env_id, tmp_path)[0].get_env()
        while not isinstance(env, VecPositiveReward):
            env = env.venv
        assert type(env) is wrapper


@pytest.mark.parametrize("native", [True, False])
def test_an_entry_that_names_no_argument_makes_the_same_environment_everywhere(native, tmp_path):
    env = build("ppo", ATARI[0], tmp_path, dict(env_kwargs={}), options=Options(native=native))[0].get_env()
    base = env.unwrapped if native else env.get_attr("unwrapped")[0].spec.kwargs
    assert (base.repeat_action_probability if native else base["repeat_action_probability"]) == 0.25
    saved = dict(yaml.unsafe_load(next(tmp_path.glob("**/config.yml")).read_text()))
    assert saved["env_kwargs"] == {"repeat_action_probability": 0.25}


def test_evaluation_has_arguments_of_its_own_one_by_one_too(tmp_path):
    given = dict(
        env_kwargs={"max_episode_steps": 7, "num_threads": 1, "frame_size": 36},
        eval_env_kwargs={"max_episode_steps": 3, "frame_size": 36},
        options=Options(native=False),
    )
    for _ in range(2):  # settings do not wear off
        manager = build("ppo", "ALE/Pong-v5", tmp_path, **given)[1]
        for eval_env, n_steps in ((False, 7), (True, 3), (True, 3), (False, 7)):
            env = manager.create_envs(1, eval_env)
            ale = env.get_attr("ale")[0]
            assert ale.getInt("max_num_frames_per_episode") == 4 * n_steps
            assert env.observation_space.shape[1:] == (36, 36)


@pytest.mark.procgen
def test_evaluation_draws_actions_where_the_best_one_may_lead_nowhere(tmp_path):
    """In Atari and MiniGrid it is the Zoo that does so."""
    for env_id, deterministic in ((PROCGEN[0], False), (ATARI[0], False), (SMALL_TASKS[2], False), (SMALL_TASKS[1], True)):
        manager = SNDExperimentManager(argparse.Namespace(), "ppo", env_id, str(tmp_path))
        assert manager.deterministic_eval is deterministic


def test_other_atari_games_and_the_zoos_own_entries(tmp_path):
    assert build("ppo_snd", "PongNoFrameskip-v4", tmp_path)[0].snd.scale.eta == 0.25
    model, manager = build("ppo", "CartPole-v1", tmp_path)
    assert "rl_zoo3" in manager.config and type(model) is PPO
    assert model.policy_class is PPO.policy_aliases["MlpPolicy"]


@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
def test_the_zoos_entries_may_truncate_a_minibatch(tmp_path):
    assert build("ppo", "CartPole-v1", tmp_path, dict(n_envs=1, n_steps=8, batch_size=256))[0].batch_size == 256
