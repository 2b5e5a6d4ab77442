"""Settings of the documentation's build. Knows Sphinx and the folders, but nothing of what the pages say."""

import zlib
from pathlib import Path

HERE = Path(__file__).parent
INVENTORIES = {
    "stable_baselines3": "https://stable-baselines3.readthedocs.io/en/master/",
    "gymnasium": "https://gymnasium.farama.org/",
    "torch": "https://docs.pytorch.org/docs/stable/",
    "numpy": "https://numpy.org/doc/stable/",
}


def compress(name: str) -> str:
    """
    Compress a readable inventory into the form that Sphinx reads.

    :param name: Name of the text file in ``inventories/``
    :return: path of the compressed file
    """
    source = HERE / "inventories" / f"{name}.txt"
    lines = source.read_text().splitlines(keepends=True)
    built = HERE / "_build" / "inventories" / f"{name}.inv"
    built.parent.mkdir(parents=True, exist_ok=True)
    built.write_bytes("".join(lines[:4]).encode() + zlib.compress("".join(lines[4:]).encode()))
    return str(built)


project = "sb3-snd"
author = "the sb3-snd contributors"
project_copyright = author
release = version = (HERE.parent / "sb3_snd" / "version.txt").read_text().strip()

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.extlinks",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "**.ipynb_checkpoints"]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "cache"  # a notebook that did not change is not executed again
nb_execution_cache_path = str(HERE / "_build" / "notebooks")
nb_execution_raise_on_error = True
nb_execution_timeout = 900
nb_merge_streams = True
nb_output_stderr = "remove"

autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_typehints_format = "short"
# Only our own names must be found: the inventories of other packages are excerpts, and their docstrings are not ours
nitpicky = True
NOT_OURS = r"(?!sb3_snd\b).*"
BASES = r"sb3_snd\..*\.(StreamPPO|InverseModel|SharedNetsTarget|NativeVecEnv|RunBuffers|SelfPPOSND)"  # internal
nitpick_ignore_regex = [(r"py:.*", NOT_OURS), (r"py:class", BASES)]

intersphinx_mapping = {name: (url, compress(name)) for name, url in INVENTORIES.items()}
intersphinx_disabled_reftypes = ["std:doc"]
extlinks = {
    "source": ("https://github.com/sb3-snd/sb3-snd/blob/main/%s", "%s"),
    "arxiv": ("https://arxiv.org/abs/%s", "arXiv %s"),
}

html_theme = "furo"
html_title = f"sb3-snd {release}"
html_copy_source = False
copybutton_exclude = ".linenos, .gp, .go"
