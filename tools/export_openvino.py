"""Run tools/export.py, which had this name before."""

import runpy
from pathlib import Path

if __name__ == '__main__':
    runpy.run_path(str(Path(__file__).with_name('export.py')), run_name='__main__')
