"""Markdown of this package's reports. Knows neither runs nor models."""

import re
from collections.abc import Sequence
from urllib.parse import quote


def table_lines(heads: Sequence[str], rows: Sequence[Sequence[object]], n_left: int = 2) -> list[str]:
    """
    Format a table.

    :param heads: Names of the columns
    :param rows: Cells of each row
    :param n_left: Number of columns that are aligned left; the others are aligned right
    :return: lines of Markdown
    """
    # A bar would end the cell, even in code
    lines = [[str(cell).replace("|", "\\|") for cell in cells] for cells in (heads, *rows)]
    alignment = "|" + "---|" * n_left + "---:|" * (len(heads) - n_left)
    first, *others = (f"| {' | '.join(cells)} |" for cells in lines)
    return [first, alignment, *others]


def escape(name: object) -> str:
    """
    Escape a name that users choose, so that it reads as it is.

    :param name: Name, such as a Gymnasium id
    :return: Markdown text
    """
    # An underscore within a word has no meaning
    return re.sub(r"[\\`*\[\]<>&~]|(?<!\w)_|_(?!\w)", r"\\\g<0>", " ".join(str(name).split()))


def code(name: object) -> str:
    """
    Format a name that users choose as code.

    :param name: Name, such as an algo key or a path
    :return: Markdown text
    """
    text = " ".join(str(name).split())
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    return f"{fence}{text}{fence}" if len(fence) == 1 else f"{fence} {text} {fence}"


def picture(caption: str, name: str) -> str:
    """
    Format a picture.

    :param caption: Text that replaces the picture where it cannot be shown
    :param name: Name of its file, in the folder of the report
    :return: Markdown text
    """
    return f"![{escape(caption)}]({quote(name)})"


def plural(n: int, noun: str) -> str:
    """
    Choose the form of a noun.

    :param n: Number of things, at least 1
    :param noun: Noun in the singular
    :return: the noun in the singular for one thing, else in the plural
    """
    return noun if n == 1 else f"{noun}s"
