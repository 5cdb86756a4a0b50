"""A compiled network that any number of threads run at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np


class RequestPool:
    """Inference requests of a compiled network, each used by one call at a time.

    OpenVINO's own call of a compiled network shares one request: threads get ``Infer
    Request is busy``, or another call's outputs. Here a call takes an idle request, or
    makes one, so there are as many as calls ever ran at once.

    Args:
        network: An ``openvino.CompiledModel``.
    """

    def __init__(self, network: Any) -> None:
        self.network = network
        self._idle: deque[Any] = deque()  # append and pop are atomic

    def infer(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Outputs in the network's order, as arrays of their own.

        Args:
            arrays: Inputs in the network's order.
        """
        try:
            request = self._idle.pop()
        except IndexError:
            request = self.network.create_infer_request()
        # copies the outputs, since the next run overwrites what the request holds
        values = request.infer(list(arrays), share_inputs=True).to_tuple()
        # after an error it is not put back: it may still be at work
        self._idle.append(request)
        return list(values)
