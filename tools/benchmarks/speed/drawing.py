"""Drawing of the times of all contenders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmesbnn.whole_files import whole_file

from .names import BITS, NATIVE
from .tables import setting_of

#: Panels beside each other. The words of more than two are too small on a page.
COLUMNS = 2


def draw(results: list[dict[str, Any]], path: Path) -> None:
    """Draw one panel for every setting, with one bar for every contender."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot as plt

    most = max(len(result['median_ms']) for result in results)
    columns = min(COLUMNS, len(results))
    rows = -(-len(results) // columns)
    size = (2 + 3.6 * columns, (1.2 + 0.27 * most) * rows)
    figure, panels = plt.subplots(rows, columns, figsize=size, sharey=True, squeeze=False)
    for panel in panels.flat[len(results) :]:
        panel.remove()
    for panel, result in zip(panels.flat, results):
        names = list(result['median_ms'])[::-1]
        values = [result['median_ms'][name] / result['batch'] for name in names]
        colours = ['tab:red' if name.startswith((BITS, NATIVE)) else 'tab:gray' for name in names]
        bars = panel.barh(names, values, color=colours)
        panel.bar_label(bars, [f'{value:.1f}' for value in values], padding=2)
        panel.set_xscale('log')
        panel.margins(x=0.25)
        panel.set_title(setting_of(result))
        panel.set_xlabel('ms per image')
    figure.tight_layout()
    with whole_file(path) as partial:
        figure.savefig(partial, dpi=110, format='png')
