"""Draw the pictures of *How it works* as SVG: ``python docs/drawings.py``. They are legible on light and dark pages."""

from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

FOLDER = Path(__file__).parent / "pictures"
LINE = "#7f8c99"  # stands out from white and from black
TEXT = "#16202c"  # on the boxes
COLOURS = {"env": "#f2c879", "net": "#9cc9f0", "own": "#a8dcb5", "run": "#d7c3ec", "plain": "#dde3ea"}


def canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """
    Create an empty drawing.

    :param width: Width in units, of which a box has about three
    :param height: Height in units
    :return: figure and axes
    """
    figure = Figure(figsize=(width * 0.62, height * 0.62))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.axis("off")
    return figure, axes


def box(axes: Axes, x: float, y: float, width: float, height: float, text: str, colour: str) -> None:
    """
    Draw a box with a text in it.

    :param axes: Where to draw
    :param x: Left side
    :param y: Lower side
    :param width: Width
    :param height: Height
    :param text: Text; its first line is bold
    :param colour: Key of ``COLOURS``
    """
    shape = FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0,rounding_size=0.15", fc=COLOURS[colour], ec=LINE)
    axes.add_patch(shape)
    title, _, rest = text.partition("\n")
    middle = y + height / 2
    lift = 0.19 * (1 + rest.count("\n")) if rest else 0
    axes.text(x + width / 2, middle + lift, title, ha="center", va="center", color=TEXT, weight="bold", fontsize=10)
    if rest:
        axes.text(x + width / 2, middle - 0.24, rest, ha="center", va="center", color=TEXT, fontsize=8.5, linespacing=1.3)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], text: str = "", above: float = 0.2) -> None:
    """
    Draw an arrow.

    :param axes: Where to draw
    :param start: Where it begins
    :param end: Where it points
    :param text: Text at its middle
    :param above: Distance of the text from the middle, upwards
    """
    axes.annotate("", end, start, arrowprops=dict(arrowstyle="-|>", color=LINE, lw=1.6, shrinkA=0, shrinkB=0))
    if text:
        x, y = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + above
        axes.text(x, y, text, ha="center", va="center", color=LINE, fontsize=8.5)


def house() -> Figure:
    """Draw the folders, each of which imports only from those below."""
    floors = [
        [("cli.py", "the command sb3-snd", "run"), ("evidence", "a queue of long runs", "run")],
        [("sweep", "many runs", "run"), ("analyze", "feature spaces", "run")],
        [("zoo", "commands of the RL Zoo", "run"), ("report", "tables and curves", "run")],
        [("runs", "checkpoints, logs, video", "run")],
        [("ppo_snd", "PPO with two streams", "own"), ("callbacks.py", "training beside any algorithm", "own")],
        [("wrappers.py", "VecIntrinsicReward: the bonus for any algorithm", "own")],
        [("rewards", "SND, RND, ICM, NGU, E3B, …: scale, scorer, trainer", "net")],
        [("targets", "what SND distils", "net"), ("envs", "Atari, Procgen, MiniGrid, places", "env")],
        [("common", "checks, spaces, layers, number formats, statistics", "plain")],
    ]
    figure, axes = canvas(13, len(floors) * 1.25 + 0.2)
    for number, rooms in enumerate(reversed(floors)):
        width = (12.8 - 0.2 * (len(rooms) - 1)) / len(rooms)
        for place, (name, what, colour) in enumerate(rooms):
            box(axes, 0.1 + place * (width + 0.2), 0.15 + number * 1.25, width, 1.05, f"{name}\n{what}", colour)
    return figure


def observation() -> Figure:
    """Draw what happens to an observation during a step, and after a rollout."""
    figure, axes = canvas(15, 7.4)
    box(axes, 0.1, 5.2, 2.9, 1.5, "environments\nn_envs at once", "env")
    box(axes, 5.0, 5.2, 3.4, 1.5, "newest frame\nnormalised, or one-hot", "plain")
    box(axes, 10.4, 6.15, 4.4, 1.0, "target net\nfeatures of s", "net")
    box(axes, 10.4, 4.7, 3.8, 1.0, "learner net\nits prediction of them", "net")
    box(axes, 10.4, 2.7, 4.4, 1.1, "novelty\nsquared error of the learner", "own")
    box(axes, 5.0, 2.7, 3.4, 1.1, "scale\nclip(eta · novelty, 0, 1)", "own")
    box(axes, 0.1, 2.7, 2.9, 1.1, "intrinsic reward\nfor the algorithm", "own")
    box(axes, 0.1, 0.3, 2.9, 1.1, "rollout\npairs (s, s′)", "run")
    box(axes, 5.0, 0.3, 3.4, 1.1, "training\nminibatches, once a rollout", "run")
    arrow(axes, (3.0, 5.95), (5.0, 5.95), "observation s")
    arrow(axes, (8.4, 6.2), (10.4, 6.6))
    arrow(axes, (8.4, 5.7), (10.4, 5.2))
    arrow(axes, (12.6, 4.7), (12.6, 3.8))
    arrow(axes, (14.6, 6.15), (14.6, 3.8))
    arrow(axes, (10.4, 3.25), (8.4, 3.25))
    arrow(axes, (5.0, 3.25), (3.0, 3.25))
    arrow(axes, (1.55, 5.2), (1.55, 3.8))
    arrow(axes, (1.55, 2.7), (1.55, 1.4))
    arrow(axes, (3.0, 0.85), (5.0, 0.85))
    arrow(axes, (8.4, 0.85), (9.6, 0.85))
    axes.text(
        9.8,
        0.85,
        "both nets learn: the target from its own loss,\nthe learner from the target",
        color=LINE,
        fontsize=9,
        va="center",
    )
    return figure


def streams() -> Figure:
    """Draw the two streams of rewards, values and advantages."""
    figure, axes = canvas(15, 5.6)
    for y, reward, value, gae, colour in (
        (3.4, "extrinsic reward\nof the task", "critic, head 1", "GAE with gamma\nadvantage 1", "env"),
        (0.9, "intrinsic reward\nof the bonus", "critic, head 2", "GAE with gamma_int\nadvantage 2", "own"),
    ):
        box(axes, 0.1, y, 3.0, 1.3, reward, colour)
        box(axes, 4.1, y, 3.2, 1.3, gae, colour)
        box(axes, 4.1, y + (1.55 if y > 2 else -0.85), 3.2, 0.6, value, "net")
        arrow(axes, (3.1, y + 0.65), (4.1, y + 0.65))
        arrow(axes, (5.7, y + (1.55 if y > 2 else -0.25)), (5.7, y + (1.3 if y > 2 else 0)))
    box(axes, 9.0, 2.1, 2.7, 1.4, "weighted sum\none advantage", "plain")
    box(axes, 12.4, 2.1, 2.5, 1.4, "PPO's update\nas ever", "run")
    arrow(axes, (7.3, 4.05), (9.0, 3.2), "ext_coef", 0.3)
    arrow(axes, (7.3, 1.55), (9.0, 2.4), "int_coef", -0.35)
    arrow(axes, (11.7, 2.8), (12.4, 2.8))
    return figure


def main() -> None:
    """Write all pictures, with the same bytes each time."""
    matplotlib.rcParams["svg.hashsalt"] = "sb3-snd"
    matplotlib.rcParams["svg.fonttype"] = "none"
    matplotlib.rcParams["font.sans-serif"] = ["DejaVu Sans"]
    FOLDER.mkdir(exist_ok=True)
    for draw in (house, observation, streams):
        draw().savefig(FOLDER / f"{draw.__name__}.svg", transparent=True, metadata={"Date": None})


if __name__ == "__main__":
    main()
