"""Packaging of sb3-snd. The folder ``hyperparams/`` is part of the package, so that it is found after installation."""

from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent

extras = {
    "atari": ["ale-py>=0.12.1,<0.13", "opencv-python-headless>=4.8"],
    "zoo": ["rl_zoo3>=2.9,<3", "tensorboard>=2.9.1", "tqdm", "rich", "requests", "moviepy>=1.0.3"],
    "plots": ["rl_zoo3[plots]>=2.9,<3", "matplotlib>=3.7", "tqdm"],
    "procgen": [
        "procgen>=0.10.7; python_version < '3.11'",
        "procgen-mirror>=0.10.7; python_version >= '3.11' and python_version < '3.13'",
        "setuptools<82",  # gym3, which Procgen requires, has a video writer that imports pkg_resources
    ],
    "minigrid": ["minigrid>=3"],
    "sweep": ["ray>=2.40", "rich"],
    "test": ["pytest>=8", "hypothesis>=6", "ruff>=0.15", "mypy>=1.11", "types-PyYAML", "codespell>=2.4"],
}
apart = ("sweep", "test")  # not in "all", as Ray is large
extras["all"] = sorted({requirement for name, wanted in extras.items() if name not in apart for requirement in wanted})

setup(
    name="sb3-snd",
    version=(here / "sb3_snd" / "version.txt").read_text().strip(),
    description="Self-supervised Network Distillation: exploration for Stable-Baselines3",
    long_description=(here / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    packages=[*find_packages(include=["sb3_snd", "sb3_snd.*"]), "sb3_snd.hyperparams"],
    package_dir={"sb3_snd.hyperparams": "hyperparams"},
    package_data={
        "sb3_snd": ["py.typed", "version.txt"],
        "sb3_snd.report": ["published/*.csv"],
        "sb3_snd.hyperparams": ["*.yml"],
    },
    install_requires=["stable_baselines3>=2.9,<3", "torch>=2.8,<3"],
    extras_require=extras,
    classifiers=[
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
    ],
)
