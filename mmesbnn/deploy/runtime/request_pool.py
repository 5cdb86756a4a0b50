"""Pool of inference requests, so that several threads can run a network at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np


class RequestPool:
    """Pool of a compiled network's inference requests; each runs one call at a time.

    OpenVINO's own call of a compiled network shares one request, so threads get ``Infer
    Request is busy`` or another call's outputs. Here a call takes an idle request or makes
    a new one. The pool has as many requests as calls ever ran at once.

    Args:
        network: An ``openvino.CompiledModel``.
    """

    def __init__(self, network: Any) -> None:
        self.network = network
        self._idle: deque[Any] = deque()  # append and pop are atomic

    def infer(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Run the network; return copies of the outputs, in the network's order.

        Args:
            arrays: Inputs in the network's order.
        """
        try:
            request = self._idle.pop()
        except IndexError:
            request = self.network.create_infer_request()
        # copied, because the next run overwrites the outputs of the request
        values = request.infer(list(arrays), share_inputs=True).to_tuple()
        # after an error the request is not put back, because it may still be running
        self._idle.append(request)
        return list(values)
