"""What the nets are trained on: one rollout of all environments.

Knows only shapes.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Rollout(NamedTuple):
    """
    One rollout for the training of SND's nets: ``T`` steps of ``N`` environments, in time order.

    The successor of row ``t * N + n`` (step ``t`` of environment ``n``) is row ``(t + 1) * N + n``. For the
    last step it is the last observation. If the episode ended, it is the terminal observation.
    """

    observations: Any  # (T, N, *obs_shape), an array, a tensor, or a dict of these
    last_observation: Any  # (N, *obs_shape)
    terminal_observations: Mapping[int, Any]  # row -> (*obs_shape)
