"""Let torch's safe unpickler read the checkpoints that mmengine writes.

Since torch 2.6 ``torch.load`` refuses whatever is not plain tensors and numbers, and
mmengine's checkpoints hold its log history. The check is worth keeping, so what these
files need is allowed by name, and nothing more.
"""

from __future__ import annotations

from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.utils import digit_version

_STATISTICS = ('min', 'max', 'current', 'mean')


def _history_method(owner: Any, name: Any) -> Any:
    """What a checkpoint may use ``getattr`` for: a statistic of ``HistoryBuffer``.

    The real ``getattr`` would lead from any allowed class to ``os.system``.
    """
    if owner is HistoryBuffer and name in _STATISTICS:
        return getattr(HistoryBuffer, name)
    raise UnpicklingError(
        f'the checkpoint asks for {name!r} of {owner!r}: of all attributes only '
        f'{", ".join(_STATISTICS)} of HistoryBuffer are allowed'
    )


def _numpy_globals() -> list[Any]:
    """What numpy's arrays and scalars pickle as, before numpy 2.0 and since."""
    functions = {
        '_reconstruct': np.empty(0).__reduce__()[0],
        'scalar': np.float64(0).__reduce__()[0],
    }
    renamed = [
        (function, f'numpy.{core}.multiarray.{name}')
        for name, function in functions.items()
        for core in ('core', '_core')
    ]
    kinds = [type(np.dtype(kind)) for kind in (np.float64, np.int64)]
    return [*renamed, np.ndarray, np.dtype, *kinds]


def allow_mmengine_checkpoints() -> None:
    """Allow-list for ``torch.load(weights_only=True)`` what mmengine 0.10 saves.

    These are ``HistoryBuffer``, ``builtins.getattr`` (replaced by a function that knows
    its four statistics only), and numpy's arrays, scalars, dtypes. Files that hold
    anything else are refused as before. Does nothing before torch 2.6, which neither
    needs nor understands the list. Called when mmesbnn is imported.
    """
    if digit_version(torch.__version__) < digit_version('2.6.0'):
        return
    torch.serialization.add_safe_globals(
        [HistoryBuffer, (_history_method, 'builtins.getattr'), *_numpy_globals()]
    )
