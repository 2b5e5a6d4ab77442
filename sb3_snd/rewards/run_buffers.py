"""``RunBuffers``: what a module keeps for a run rather than for a model.

Knows buffers only.
"""

import torch as th
from torch import nn


class RunBuffers(nn.Module):
    """Module whose non-persistent buffers are the state of a run. Their sizes may change."""

    _anchor: th.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("_anchor", th.zeros(()), persistent=False)  # moves with the nets and tells their device

    def get_run_state(self) -> dict[str, th.Tensor]:
        """
        Return what belongs to a run and not to the model: all non-persistent buffers.

        :return: tensors by name
        """
        saved = self.state_dict()
        return {name: buffer for name, buffer in self.named_buffers() if name not in saved and not name.endswith("_anchor")}

    def set_run_state(self, state: dict[str, th.Tensor]) -> None:
        """
        Restore what :meth:`get_run_state` returned.

        :param state: Tensors by name
        """
        device, present = self._anchor.device, self.get_run_state()
        for name in {*present, *state}:
            buffer, value = present.get(name), state.get(name)
            if buffer is not None and value is not None and buffer.shape == value.shape:
                buffer.copy_(value)  # a recording may read this memory
                continue
            path, _, attribute = name.rpartition(".")
            kept = None if value is None else value.to(device, copy=True)
            self.get_submodule(path).register_buffer(attribute, kept, persistent=False)
