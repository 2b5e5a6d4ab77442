"""Entries of ``hyperparams/`` and their environments, without the RL Zoo, and an environment that costs nothing."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from sb3_snd.common.extras import require_or_exit
from sb3_snd.envs import make_atari_env, make_procgen_env
from sb3_snd.ppo_snd.frame_stacks import find_stack
from sb3_snd.zoo import algo_keys

require_or_exit("yaml", "zoo")

import yaml  # noqa: E402

#: keys of an entry that are not arguments of the model
NOT_OF_THE_MODEL = ("env_wrapper", "env_kwargs", "frame_stack", "n_envs", "n_timesteps")


def read_entry(algo: str, env_id: str) -> dict[str, Any]:
    """
    Read an entry of ``hyperparams/``. End the process if it has no native environment.

    :param algo: Algo key
    :param env_id: Gymnasium id
    :return: the entry
    """
    entries = yaml.safe_load(algo_keys.config_path(algo).read_text())
    entry = entries.get(env_id)
    if entry is None or not ("AtariWrapper" in entry.get("env_wrapper", "") or env_id.startswith("procgen-")):
        native = ", ".join(name for name in entries if "NoFrameskip" in name or name.startswith("procgen-"))
        sys.exit(f"{Path(sys.argv[0]).name}: there is no environment {env_id}. Known are {native}.")
    return entry


def make_env(entry: dict[str, Any], env_id: str, n_envs: int, seed: int, **kwargs: Any) -> VecEnv:
    """
    Make the native vector environment of an entry. End the process if an argument is invalid.

    :param entry: Entry from :func:`read_entry`
    :param env_id: Gymnasium id
    :param n_envs: Number of environments
    :param seed: Seed of the environments
    :param kwargs: Arguments that replace those of the entry
    :return: the environment
    """
    make = make_procgen_env if env_id.startswith("procgen-") else make_atari_env
    kwargs = {"n_stack": entry.get("frame_stack", 1), **entry.get("env_kwargs", {}), **kwargs}
    try:
        return make(env_id, n_envs, seed=seed, **kwargs)
    except (TypeError, ValueError) as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")


class StillEnv(VecEnv):
    """
    Environment that costs nothing. It shows stacks of eight random screens in turn. There are no rewards, and
    episodes never end.

    :param venv: Environment with the same spaces and number of environments; it is closed
    :param seed: Seed of the screens
    """

    def __init__(self, venv: VecEnv, seed: int) -> None:
        self.zero_padded_stack = find_stack(venv)
        super().__init__(venv.num_envs, venv.observation_space, venv.action_space)
        venv.close()
        n_frames, shape = 8, venv.observation_space.shape
        assert shape is not None
        frame = shape[0] // self.zero_padded_stack, *shape[1:]
        screens = np.random.default_rng(seed).integers(256, size=(n_frames, self.num_envs, *frame), dtype=np.uint8)
        stack = range(1 - self.zero_padded_stack, 1)
        self._observations = [np.concatenate([screens[(t + k) % n_frames] for k in stack], axis=1) for t in range(n_frames)]
        none = np.zeros_like(screens[0])
        self._first = [
            np.concatenate([screens[t + k] if t + k >= 0 else none for k in stack], axis=1)
            for t in range(self.zero_padded_stack - 1)
        ]
        self._step = 0

    def _show(self) -> np.ndarray:
        step = self._step
        return self._first[step] if step < len(self._first) else self._observations[step % len(self._observations)]

    def reset(self) -> np.ndarray:
        self._step = 0
        return self._show()

    def step_async(self, actions: np.ndarray) -> None:
        self._step += 1

    def step_wait(self) -> Any:
        none = np.zeros(self.num_envs, dtype=np.float32)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        return self._show(), none, none.astype(bool), infos

    def close(self) -> None:
        """Do nothing, as there is nothing to close."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self, attr_name, None)] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        setattr(self, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        raise NotImplementedError

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False] * self.num_envs
