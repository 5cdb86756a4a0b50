"""Print the lowest version of each package that ``setup.py`` requires, as pins for pip.

Use::

    python tools/dev/lowest.py > lowest.txt && pip install -c lowest.txt .
"""

from __future__ import annotations

import re
from pathlib import Path
from unittest import mock

SETUP = Path(__file__).resolve().parents[2] / 'setup.py'


def lowest(requirements: list[str]) -> list[str]:
    """Return ``name==version`` for each ``name>=version,...``.

    Raises:
        ValueError: If a requirement has no lower bound.
    """
    pins = []
    for requirement in requirements:
        found = re.fullmatch(r'([\w-]+)>=([\d.]+)(,.*)?', requirement)
        if not found:
            raise ValueError(f'{requirement!r} in setup.py must begin with NAME>=VERSION')
        pins.append(f'{found[1]}=={found[2]}')
    return pins


def main() -> None:
    source = SETUP.read_text(encoding='utf-8')
    with mock.patch('setuptools.setup') as setup:
        exec(compile(source, str(SETUP), 'exec'), {'__file__': str(SETUP), '__name__': 'setup'})
    print('\n'.join(lowest(setup.call_args.kwargs['install_requires'])))


if __name__ == '__main__':
    main()
