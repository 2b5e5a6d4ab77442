"""Packaging of sb3-snd. The folder ``hyperparams/`` is part of the package, so that it is found after installation."""

import re
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
version = (here / "sb3_snd" / "version.txt").read_text().strip()
url = "https://github.com/sb3-snd/sb3-snd"

# The package index shows the README, but has no folder that its relative links could point into. What begins with a scheme
# or with # stays.
readme = (here / "README.md").read_text(encoding="utf-8")
readme = re.sub(r"(!\[[^]]*\]\(|<img [^>]*src=\")(?![a-z]+:|#)", rf"\g<1>{url}/raw/v{version}/", readme)
readme = re.sub(r"(\]\(|<a href=\")(?![a-z]+:|#)", rf"\g<1>{url}/blob/v{version}/", readme)

extras = {
    "atari": ["ale-py>=0.12.1,<0.13", "opencv-python-headless>=4.8"],
    "zoo": ["rl_zoo3>=2.9.2,<3", "tensorboard>=2.9.1", "tqdm", "rich", "requests", "moviepy>=1.0.3"],
    "plots": ["rl_zoo3[plots]>=2.9.2,<3", "matplotlib>=3.7", "tqdm", "markdown-it-py>=2.2"],
    "procgen": [
        "procgen>=0.10.7; python_version < '3.11'",
        "procgen-mirror>=0.10.7; python_version >= '3.11' and python_version < '3.13'",
        "setuptools<82",  # gym3, which Procgen requires, has a video writer that imports pkg_resources
    ],
    "minigrid": ["minigrid>=3"],
    "sweep": ["ray>=2.40", "rich"],
    "test": ["pytest>=8", "pytest-xdist>=3.6", "hypothesis>=6", "ruff>=0.15", "mypy>=1.11", "types-PyYAML", "codespell>=2.4"],
    "docs": [f"{name}; python_version >= '3.11'" for name in ("sphinx>=9", "furo", "myst-nb>=1.4", "sphinx-copybutton")],
}
apart = ("sweep", "test", "docs")  # not in "all", as Ray is large
extras["all"] = sorted({requirement for name, wanted in extras.items() if name not in apart for requirement in wanted})

setup(
    name="sb3-snd",
    version=version,
    description="Self-supervised Network Distillation: exploration for Stable-Baselines3",
    long_description=readme,
    long_description_content_type="text/markdown",
    author="the sb3-snd contributors",
    url=url,
    project_urls={
        "Documentation": "https://sb3-snd.readthedocs.io",
        "Source": url,
        "Changelog": f"{url}/blob/main/CHANGELOG.md",
        "Issues": f"{url}/issues",
    },
    license_expression="MIT",
    license_files=["LICENSE"],
    keywords=[
        *("reinforcement-learning", "exploration", "intrinsic-motivation", "curiosity", "sparse-rewards", "novelty"),
        *("self-supervised-learning", "stable-baselines3", "pytorch", "gymnasium", "atari", "procgen", "minigrid"),
    ],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Education",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    python_requires=">=3.10",
    packages=[*find_packages(include=["sb3_snd", "sb3_snd.*"]), "sb3_snd.hyperparams"],
    package_dir={"sb3_snd.hyperparams": "hyperparams"},
    package_data={
        "sb3_snd": ["py.typed", "version.txt"],
        "sb3_snd.evidence": ["*.yml"],
        "sb3_snd.report": ["*.html", "published/*.csv"],
        "sb3_snd.hyperparams": ["*.yml"],
    },
    install_requires=["stable_baselines3>=2.9.2,<3", "torch>=2.8,<3"],
    extras_require=extras,
    entry_points={"console_scripts": ["sb3-snd = sb3_snd.cli:main"]},
)
