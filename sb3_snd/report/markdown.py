"""Markdown of this package's reports. Knows neither runs nor models."""

from collections.abc import Sequence


def table_lines(heads: Sequence[str], rows: Sequence[Sequence[object]], n_left: int = 2) -> list[str]:
    """
    Format a table.

    :param heads: Names of the columns
    :param rows: Cells of each row
    :param n_left: Number of columns that are aligned left; the others are aligned right
    :return: lines of Markdown
    """
    alignment = "|" + "---|" * n_left + "---:|" * (len(heads) - n_left)
    first, *others = (f"| {' | '.join(map(str, cells))} |" for cells in (heads, *rows))
    return [first, alignment, *others]


def plural(n: int, noun: str) -> str:
    """
    Choose the form of a noun.

    :param n: Number of things, at least 1
    :param noun: Noun in the singular
    :return: the noun in the singular for one thing, else in the plural
    """
    return noun if n == 1 else f"{noun}s"
