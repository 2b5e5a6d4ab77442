"""The command ``enjoy``: ``rl_zoo3.enjoy`` with this package's algo keys, environments and videos.

Knows what the Zoo's commands for saved runs import. Must not know how a run is trained or a frame is drawn.
"""

import argparse
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from sb3_snd.common.extras import require, require_or_exit

require("rl_zoo3", "zoo")

# isort: split
import rl_zoo3.utils
from rl_zoo3.utils import create_test_env

from sb3_snd.envs import as_ordinary
from sb3_snd.rewards.snd import SND
from sb3_snd.runs.checkpoint_files import normalizer_folder
from sb3_snd.runs.video import VecNoveltyStrip, VecVideoFile
from sb3_snd.zoo.command_line import Options, one_sentence, own_parser, replaced
from sb3_snd.zoo.hyperparams import register


def enjoy() -> None:
    """
    Run ``rl_zoo3.enjoy`` with this package's algo keys on the folder that ``train`` writes to.

    Agents of on-policy algorithms sample their actions, as in training, unless ``--deterministic`` is given.
    There are two additional flags: ``--record FILE.mp4`` writes a video of the first ``-n`` steps instead of
    opening a window, and ``--novelty`` draws the novelty of each step below the frames of the video.
    """
    require_or_exit("requests", "zoo")  # rl_zoo3.enjoy imports it, but rl_zoo3 does not depend on it
    import rl_zoo3.enjoy

    register()
    record = {"type": Path, "metavar": "FILE.mp4", "help": "write a video of the first -n steps instead of opening a window"}
    novelty = {"action": "store_true", "help": "draw the novelty of each step below the frames of the video"}
    own = own_parser(sys.argv[1:], record=record, novelty=novelty)
    shared = argparse.ArgumentParser(add_help=False)  # with abbreviations, as in rl_zoo3's parser
    shared.add_argument("--algo", default="ppo")
    shared.add_argument("--deterministic", action="store_true")
    shared.add_argument("-n", "--n-timesteps", type=int, default=1000)
    shared.add_argument("--verbose", type=int, default=1)
    known, left = own.parse_known_args()
    shared.parse_known_args(left, namespace=known)  # the Zoo parses them again
    arguments = ["--folder", "logs", *left]
    algorithm = rl_zoo3.ALGOS.get(known.algo)  # None: rl_zoo3's parser reports the error
    if algorithm is not None and issubclass(algorithm, OnPolicyAlgorithm) and not known.deterministic:
        arguments.append("--stochastic")
    if known.record is not None:
        arguments.append("--no-render")
    with contextlib.ExitStack() as stack:
        stack.enter_context(one_sentence(Options(verbose=known.verbose)))
        check_video(known.record, known.novelty)
        stack.enter_context(replaced([(sys, "argv", [sys.argv[0], *arguments])]))
        stack.enter_context(own_statistics(rl_zoo3.enjoy))
        if known.record is not None and algorithm is not None:
            stack.enter_context(recording(known.record, known.n_timesteps, known.novelty, known.algo))
        rl_zoo3.enjoy.enjoy()


def check_video(path: Path | None, novelty: bool) -> None:
    """
    Refuse flags that make no video.

    :param path: Path of the video; None without ``--record``
    :param novelty: Whether to draw novelty
    :raises ImportError: if a package for videos is missing; the message names the extra
    :raises ValueError: if novelty is to be drawn into no video, or the video is not an mp4 file
    """
    if path is None:
        if novelty:
            raise ValueError("--novelty draws into a video: add --record FILE.mp4.")
        return
    if path.suffix != ".mp4":
        raise ValueError(f"--record {path}: the video is an mp4 file, choose a name that ends in .mp4.")
    require("moviepy", "zoo")


@contextlib.contextmanager
def recording(path: Path, n_steps: int, novelty: bool, algo: str) -> Iterator[None]:
    """
    Record what ``rl_zoo3.enjoy`` plays within this context as a video.

    :param path: Path of the video, ``*.mp4``
    :param n_steps: Maximum number of steps
    :param novelty: Whether to draw novelty below the frames
    :param algo: Algo key
    :raises ValueError: during playback, if ``novelty`` is True and the model has no ``SND``
    """
    import rl_zoo3.enjoy

    make_env, algorithm = rl_zoo3.enjoy.create_test_env, rl_zoo3.ALGOS[algo]
    loaded: list[BaseAlgorithm] = []

    class Remembered(algorithm):  # type: ignore[misc, valid-type]
        """Remember the loaded model: the environment is made first and needs the model's ``SND`` later."""

        @classmethod
        def load(cls, *args: Any, **kwargs: Any) -> BaseAlgorithm:
            loaded.append(algorithm.load(*args, **kwargs))
            return loaded[-1]

    def get_snd() -> SND:
        snd = getattr(loaded[-1], "snd", None)
        if not isinstance(snd, SND):
            raise ValueError(f"A model of {algo} has no SND whose novelty could be drawn: remove --novelty.")
        return snd

    def create_recorded_env(env_id: str, **kwargs: Any) -> VecEnv:
        kwargs["env_kwargs"]["render_mode"] = "rgb_array"
        env = make_env(env_id, **kwargs)
        return VecVideoFile(VecNoveltyStrip(env, get_snd) if novelty else env, path, n_steps)

    rl_zoo3.ALGOS[algo] = Remembered
    try:
        with replaced([(rl_zoo3.enjoy, "create_test_env", create_recorded_env)]):
            yield
    finally:
        rl_zoo3.ALGOS[algo] = algorithm


def make_test_env(
    env_id: str, *, hyperparams: dict[str, Any], env_kwargs: dict[str, Any] | None = None, **kwargs: Any
) -> VecEnv:
    """
    See ``rl_zoo3.create_test_env``. Atari and Procgen accept the arguments of native vector environments.

    :param env_id: Gymnasium id
    :param hyperparams: Saved hyperparameters of a run
    :param env_kwargs: Arguments of the environment
    :param kwargs: Additional arguments of ``rl_zoo3.create_test_env``
    :return: vector environment of ordinary environments
    :raises ValueError: if ordinary environments do not support an argument
    """
    wrapper, made = as_ordinary(env_id, hyperparams.get("env_wrapper"), env_kwargs or {})
    return create_test_env(env_id, hyperparams={**hyperparams, "env_wrapper": wrapper}, env_kwargs=made, **kwargs)


@contextlib.contextmanager
def own_statistics(*modules: ModuleType) -> Iterator[None]:
    """
    Make the Zoo use the statistics saved next to each model and the ``env_kwargs`` of its run, within this
    context. Some of the Zoo's commands do not read ``env_kwargs`` from ``config.yml``.

    :param modules: Further modules that have imported ``get_model_path`` and ``create_test_env``
    """
    utils = rl_zoo3.utils
    find = utils.get_model_path
    chosen = [Path()]

    def get_model_path(*args: Any, **kwargs: Any) -> tuple[str, str, str]:
        found = find(*args, **kwargs)
        chosen[0] = Path(found[1])
        return found

    def make_env(env_id: str, stats_path: str | None = None, **kwargs: Any) -> VecEnv:
        hyperparams = kwargs.pop("hyperparams", None) or {}
        env_kwargs = {**(hyperparams.pop("env_kwargs", None) or {}), **(kwargs.pop("env_kwargs", None) or {})}
        with normalizer_folder(chosen[0], stats_path) as folder:
            return make_test_env(env_id, hyperparams=hyperparams, env_kwargs=env_kwargs, stats_path=folder, **kwargs)

    own = {"get_model_path": get_model_path, "create_test_env": make_env}
    holders = [(module, name) for module in (utils, rl_zoo3, *modules) for name in own if name in vars(module)]
    with replaced([(module, name, own[name]) for module, name in holders]):
        yield
