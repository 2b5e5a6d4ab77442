"""Algo keys of this package and their YAML files, which need no extra to be found.

Knows the folder ``hyperparams/``. Must not know rl_zoo3.
"""

from pathlib import Path

#: algo key -> YAML file with its entries
ALGO_KEYS = {
    "ppo_baseline": "ppo_baseline.yml",
    "ppo_rnd": "ppo_rnd.yml",
    "ppo_snd_v": "ppo_snd_v.yml",
    "ppo_snd_v_original": "ppo_snd_v_original.yml",
    "ppo_snd_std": "ppo_snd_std.yml",
    "ppo_snd_vic": "ppo_snd_vic.yml",
    "ppo_snd": "ppo_snd_vic.yml",  # the paper's best model under a short key
    "ppo_snd_bt": "ppo_snd_bt.yml",
    "ppo_snd_vinv": "ppo_snd_vinv.yml",
    "ppo_snd_e3b": "ppo_snd_e3b.yml",
    "ppo_sp": "ppo_sp.yml",
    "ppo_icm": "ppo_icm.yml",
    "ppo_disagreement": "ppo_disagreement.yml",
    "ppo_rnd_openai": "ppo_rnd_openai.yml",
    "ppo_counts": "ppo_counts.yml",
    "ppo_re3": "ppo_re3.yml",
    "ppo_noveld": "ppo_noveld.yml",
    "ppo_ride": "ppo_ride.yml",
    "ppo_ngu": "ppo_ngu.yml",
    "ppo_e3b": "ppo_e3b.yml",
}


def hyperparams_folder() -> Path:
    """
    Find the folder of this package's YAML files, in a wheel or in a checkout.

    :return: path of the folder
    """
    package = Path(__file__).parent.parent
    return next(folder for folder in (package / "hyperparams", package.parent / "hyperparams") if folder.is_dir())


def config_path(algo: str) -> Path:
    """
    Name the YAML file for an algo key.

    :param algo: Algo key of this package or of the Zoo
    :return: path of the file; it does not exist if this package has no entries for the key
    """
    return hyperparams_folder() / ALGO_KEYS.get(algo, f"{algo}.yml")
