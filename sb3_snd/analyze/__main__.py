"""
``sb3-snd analyze MODEL.zip ... --out analysis/``: compare how the target networks of trained models
represent the same states, following the paper's analysis of feature spaces (Pecháč, Chovanec, Farkaš, arXiv
2302.11563).
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import gymnasium as gym
import stable_baselines3
import torch as th
from stable_baselines3.common.utils import set_random_seed

import sb3_snd
from sb3_snd.analyze import figures, tables
from sb3_snd.analyze.feature_spaces import feature_space_of, table_row
from sb3_snd.analyze.models import Model, choose_collector, load_models, make_env, short_labels
from sb3_snd.analyze.states import ReferenceStates, collect, make_views
from sb3_snd.common.extras import require
from sb3_snd.envs import find_places
from sb3_snd.report.html import write_html
from sb3_snd.report.markdown import code, escape, plural
from sb3_snd.report.tables import write_csv


def analyze(
    paths: Sequence[Path],
    out: Path,
    n_states: int = 10_000,
    seed: int = 0,
    device: str = "auto",
    n_envs: int = 8,
    env_id: str | None = None,
) -> Path:
    """
    Write a report on the feature spaces of trained models.

    :param paths: Models in log folders of the Zoo, all for the same environment
    :param out: Folder for ``report.md``, the same as one page in ``analysis.html``, pictures (PNG and SVG) and the table (CSV)
    :param n_states: Number of reference states
    :param seed: Seed of environments, actions and maps
    :param device: PyTorch device
    :param n_envs: Number of environments in which the best model acts
    :param env_id: Gymnasium id, for models outside log folders
    :return: path of the report
    :raises ImportError: if a package is missing; the message names the extra
    :raises ValueError: if the models cannot be analysed together
    """
    for module, extra in (("rl_zoo3", "zoo"), ("matplotlib", "plots"), ("pandas", "plots"), ("scipy", "plots")):
        require(module, extra)
    if n_states < 2 or n_envs < 1:
        raise ValueError(f"--states {n_states} --n-envs {n_envs}: at least two states and one environment are required.")
    models = load_models(list(dict.fromkeys(paths)), env_id, device)
    labels = short_labels(models)
    chosen, reason = choose_collector(models)
    collector = models[chosen]
    env = make_env(collector, n_envs, seed)
    nets = [each for each in zip(labels, models, strict=True) if each[1].snd is not None]
    views, keys = make_views([model for _, model in nets], collector, env)
    set_random_seed(seed)
    env.reset()  # some environments have places only after a reset
    states = collect(collector.algorithm, env, views, n_states, find_places(env))
    env.close()
    out.mkdir(parents=True, exist_ok=True)
    feature_spaces = [
        feature_space_of(label, model.snd, states.frames[key])  # type: ignore[arg-type]
        for (label, model), key in zip(nets, keys, strict=True)
    ]
    table = [table_row(space, states) for space in feature_spaces]
    write_csv(out / "features.csv", table)
    figures.draw(feature_spaces, states, seed, out)
    text = [
        f"# Feature spaces in {escape(collector.env_id)}\n",
        *_models(models, labels),
        "",
        f"*{escape(labels[chosen])}* collected the {n_states:,} reference states: {escape(reason)}."
        f" {_origin(n_envs, seed, states)}",
        "",
        _versions(collector.algorithm.device),
        "",
        tables.markdown(table),
        "",
        figures.markdown(),
    ]
    path = out / "report.md"
    path.write_text("\n".join(text) + "\n", encoding="utf-8")
    write_html(path, out / "analysis.html")
    return path


def _models(models: Sequence[Model], labels: Sequence[str]) -> list[str]:
    missing = ", which has no SND and so no feature space"
    return [
        f"- *{escape(label)}*: {code(model.path)}{missing if model.snd is None else ''}"
        for label, model in zip(labels, models, strict=True)
    ]


def _origin(n_envs: int, seed: int, states: ReferenceStates) -> str:
    return (
        f"Its actions were drawn from its policy, as in training, in {n_envs} environments with seed {seed}."
        f" Transitions that end an episode are left out. {_places(states)}"
    )


def _places(states: ReferenceStates) -> str:
    if states.places is None:
        return "Where they lie in the environment is not known."
    n_places = len({states.places[row] for row in states.rows})
    return f"They lie in {n_places:,} {plural(n_places, 'place')}."


def _versions(device: th.device) -> str:
    return (
        f"Device {device}; torch {th.__version__}, stable_baselines3 {stable_baselines3.__version__},"
        f" sb3_snd {sb3_snd.__version__}."
    )


def main(argv: list[str] | None = None) -> None:
    """
    Run the command.

    :param argv: Arguments of the command line
    """
    parser = argparse.ArgumentParser("sb3-snd analyze", description=__doc__)
    parser.add_argument("models", nargs="+", type=Path, help="models in log folders of the RL Zoo, for one environment")
    parser.add_argument("--out", type=Path, default=Path("analysis"))
    parser.add_argument("--states", type=int, default=10_000, help="number of reference states")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--n-envs", type=int, default=8, help="number of environments in which the best model acts")
    parser.add_argument("--env", help="Gymnasium id, for models outside log folders")
    args = parser.parse_args(argv)
    try:
        path = analyze(args.models, args.out, args.states, args.seed, args.device, args.n_envs, args.env)
    except (ImportError, ValueError, gym.error.Error) as error:
        sys.exit(f"sb3-snd analyze: {error}")
    print(f"analysis: {path}, {path.with_name('analysis.html')}")


if __name__ == "__main__":
    main()
