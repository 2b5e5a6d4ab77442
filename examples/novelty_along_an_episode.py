"""Load a model, play one episode and draw the novelty of each state: ``novelty_along_an_episode.py model.zip ENV_ID``."""

import sys

import numpy as np
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv

from sb3_snd import PPOSND
from sb3_snd.common.extras import require_or_exit

require_or_exit("matplotlib", "plots")

from matplotlib.figure import Figure  # noqa: E402


def main(path: str, env: str | VecEnv, picture: str = "novelty.png", max_steps: int = 1000) -> list[float]:
    """
    Play one episode and draw the novelty of its states.

    :param path: Path of a model of ``PPOSND``, saved by ``save`` or ``sb3-snd train``
    :param env: Gymnasium id, or a vector environment with one environment made as for training
    :param picture: Path of the picture
    :param max_steps: Maximum number of steps
    :return: novelty of each state
    """
    model = PPOSND.load(path, device="cpu")
    venv = make_vec_env(env, seed=0) if isinstance(env, str) else env
    obs, novelty = venv.reset(), []
    for _ in range(max_steps):
        novelty.append(model.snd.novelty(obs).item())
        action, _ = model.predict(obs)
        obs, _, dones, _ = venv.step(action)
        if dones[0]:
            break
    figure = Figure(figsize=(8, 3), layout="constrained")
    axes = figure.subplots()
    axes.plot(novelty)
    axes.set(xlabel="step of the episode", ylabel="novelty", title=f"most novel at step {np.argmax(novelty)}")
    figure.savefig(picture)
    return novelty


if __name__ == "__main__":
    main(*sys.argv[1:])
