"""The table of feature spaces and the definitions of its columns.

Formats rows of numbers. Must not compute any.
"""

from collections.abc import Sequence

from sb3_snd.analyze.feature_spaces import PERCENTILES
from sb3_snd.report.markdown import code, escape, table_lines

DEFINITIONS = """\
- *Features*: what the target net Φ makes of a reference state, and their number.
- *Spectrum*: squared singular values of the centred features of all reference states, and their percentiles. The steeper
  they fall, the fewer directions the features take.
- *Effective rank*: how many directions that is, exponential of the entropy of the singular values, normalised to the sum 1
  (Roy and Vetterli, 2007).
- *Step*: ‖Φ(s′) − Φ(s)‖ from a reference state s to its successor s′, mean ± population standard deviation.
- *Norm*: ‖Φ(s)‖, mean ± population standard deviation.
- *Novelty*: the distillation error of the learner net, mean; each target has its own scale.
- *Common*: the share of the mean squared norm that all reference states have in common, ‖mean‖² / mean(‖·‖²), first of the
  features, then of the learner's error. Novelty that is common to all states leads the agent nowhere."""


def markdown(table: Sequence[dict[str, object]]) -> str:
    """
    Format the table and the definitions of its columns.

    :param table: Rows from :func:`~sb3_snd.analyze.feature_spaces.table_row`
    :return: Markdown text
    """
    heads = ["model", "target", "features", *(f"spectrum, {percent} %" for percent in PERCENTILES)]
    heads += ["effective rank", "step", "norm", "novelty", "common, features", "common, novelty"]
    rows = []
    for row in table:
        cells = [escape(row["model"]), code(row["target"]), row["features"]]
        cells += [f"{row[f'spectrum_{percent}']:.3g}" for percent in PERCENTILES]
        cells += [f"{row['effective_rank']:.1f}"]
        cells += [f"{row[f'mean_{name}']:.3g} ± {row[f'std_{name}']:.3g}" for name in ("step", "norm")]
        cells += [f"{row['mean_novelty']:.3g}", *(f"{row[f'common_{name}']:.0%}" for name in ("features", "novelty"))]
        rows.append(cells)
    return "\n".join(["## Features", "", *table_lines(heads, rows), "", DEFINITIONS])
