"""Load a checkpoint and restore the run that wrote it.

Knows SB3's algorithms and the entries of a checkpoint. Must not know when a checkpoint is written.
"""

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from sb3_snd.runs.checkpoint_files import NETS, STATE
from sb3_snd.runs.checkpoints import find_snd
from sb3_snd.runs.env_state import set_env_state


def load_run(
    path: Path, algorithm: type[BaseAlgorithm], env: VecEnv, seed: int, **kwargs: Any
) -> tuple[BaseAlgorithm, dict[str, Any], str]:
    """
    Restore a run to the state in a checkpoint.

    :param path: Path of the checkpoint, from :func:`~sb3_snd.runs.checkpoint_files.find_checkpoint`
    :param algorithm: Class of the saved model
    :param env: New environment, constructed like that of the run
    :param seed: Seed of the run
    :param kwargs: Additional arguments of ``algorithm.load``
    :return: the model, to be trained with ``reset_num_timesteps=False``; the value for ``resumed`` of
        ``RunCheckpoint``; and the reason why all episodes restart, or an empty string if they continue
    :raises ValueError: if the environment has different wrappers
    """
    with zipfile.ZipFile(path) as archive:
        state = pickle.loads(archive.read(STATE))
        nets = archive.read(NETS) if NETS in archive.namelist() else None
    model = algorithm.load(path, env=env, force_reset=False, **kwargs)
    assert model.env is not None
    snd = find_snd(model)
    if nets is not None and snd is not None:
        snd.load(io.BytesIO(nets))  # type: ignore[arg-type]
    reason = set_env_state(model.env, state["env"])
    if reason:
        model._last_obs = None  # makes learn() reset the environments
        model.env.seed(seed + model.num_timesteps)  # otherwise the run's first episodes would be repeated
    return model, {**state, "restart": bool(reason)}, reason
