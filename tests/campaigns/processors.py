"""Run a command as if the processor were an older one.

By hand, to run any test as on a processor without AVX-512:

    cc -shared -fPIC -O1 -o older.so tests/campaigns/older_processor.c
    TEST_PROCESSOR=avx2 LD_PRELOAD=./older.so pytest -p no:faulthandler tests
"""

import os
import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name('older_processor.c')

#: The processors of ``older_processor.c``, and this processor.
PROCESSORS = ('sse42', 'avx2', 'avx512', 'avx512_vnni', 'this one')

#: Exit code of a process that cannot hide instructions of its processor.
IMPOSSIBLE = 77


def build(folder):
    """Compile the library that hides instructions; None if there is no compiler."""
    compiler, library = shutil.which('cc'), Path(folder) / 'older.so'
    if compiler is None:
        return None
    command = [compiler, '-shared', '-fPIC', '-O1', '-o', library, SOURCE]
    done = subprocess.run(command, capture_output=True)
    return library if done.returncode == 0 else None


def environment(library, processor):
    """Environment variables with which a process sees ``processor``."""
    if processor == PROCESSORS[-1]:
        return dict(os.environ)
    return {**os.environ, 'LD_PRELOAD': str(library), 'TEST_PROCESSOR': processor}
