"""Read files in a process with bounded memory, and report the result of each.

``python -m tests.checkpoints.worker FUNCTION`` reads paths from stdin, one a line, and
answers with a line of JSON each: ``refused`` (one sentence), ``read`` (a digest of the
values) or ``bad`` (an error that no user should see). A crash is seen by the caller.
"""

import hashlib
import importlib
import json
import resource
import sys
import warnings
from pathlib import Path


def digest(value):
    """Return a digest of all numbers in ``value``."""
    import numpy as np
    import torch

    total = hashlib.sha256()

    def add(value):
        if isinstance(value, torch.Tensor):
            total.update(f'{value.dtype}{tuple(value.shape)}'.encode())
            flat = value.detach().contiguous().flatten()
            total.update(flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b'')
        elif isinstance(value, np.ndarray):
            total.update(value.tobytes())
        elif isinstance(value, dict):
            for key, inner in value.items():
                add(key)
                add(inner)
        elif isinstance(value, (list, tuple)):
            for inner in value:
                add(inner)
        elif hasattr(value, '_log_history'):
            add(value._log_history)
        else:
            total.update(repr(value).encode('utf-8', 'replace'))

    add(value)
    return total.hexdigest()


def answer(function, path):
    from mmesbnn.errors import MmesbnnError

    try:
        return {'read': digest(function(path))}
    except (MmesbnnError, OSError) as error:
        if '\n' in str(error) or len(str(error)) > 1000:
            return {'bad': f'a long message: {str(error)[:300]}'}
        return {'refused': str(error)}
    except BaseException as error:
        return {'bad': f'{type(error).__name__}: {error}'[:500]}


def main():
    warnings.simplefilter('ignore')
    module, _, name = sys.argv[1].rpartition('.')
    function = getattr(importlib.import_module(module), name)
    spare = int(sys.argv[2])
    used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + spare, used + spare))
    print('ready', flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(function, line.rstrip('\n'))), flush=True)


if __name__ == '__main__':
    main()
