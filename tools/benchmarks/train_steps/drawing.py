"""Pictures of time and memory per image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmesbnn.whole_files import whole_file

from .contenders import DTYPES, NETWORKS, PUBLISHED


def _bars(axis: Any, row: dict[str, Any], value: str, unit: str) -> None:
    """Draw one measurement of all forms of a row, per image."""
    forms = list(row['forms'])[::-1]
    colours = ['tab:gray' if form.startswith(PUBLISHED) else 'tab:red' for form in forms]
    factor = 1e-6 if value == 'saved_bytes' else 1e3
    values = [factor * (row['forms'][form][value] or 0) / row['batch'] for form in forms]
    bars = axis.barh(forms, values, color=colours)
    axis.bar_label(bars, [f'{x:.1f}' if x else '' for x in values], padding=2)
    axis.margins(x=0.3)  # room for the labels of the bars
    axis.set_title(f'{row["network"]}, {row["dtype"]}', fontsize=10)
    axis.set_xlabel(unit)


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw milliseconds and saved megabytes per image; a line for every network.

    Args:
        rows: Of one device, batch and size.
        path: The PNG file to write.
    """
    from matplotlib.figure import Figure

    clock = 'processor_s' if rows[0]['device'] == 'cpu' else 'least_s'
    columns = [
        (dtype, value, unit)
        for value, unit in ((clock, 'ms per image'), ('saved_bytes', 'saved MB per image'))
        for dtype in DTYPES
        if any(row['dtype'] == dtype for row in rows)
    ]
    networks = [name for name in NETWORKS if any(row['network'] == name for row in rows)]
    figure = Figure(figsize=(3.75 * len(columns), 0.6 + 1.8 * len(networks)), layout='constrained')
    axes: Any = figure.subplots(len(networks), len(columns), squeeze=False)
    found = {(row['network'], row['dtype']): row for row in rows}
    for line, network in zip(axes, networks):
        for axis, (dtype, value, unit) in zip(line, columns):
            if (network, dtype) in found:
                _bars(axis, found[network, dtype], value, unit)
            else:
                axis.set_axis_off()
    with whole_file(path) as partial:
        figure.savefig(partial, dpi=80, format='png')


def draw_all(rows: list[dict[str, Any]], folder: Path, ending: str) -> None:
    """Draw a picture for every device, batch and size: cpu_4x224.png, ..."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(f'{row["device"]}_{row["batch"]}x{row["size"]}{ending}.png', []).append(
            row
        )
    for name, group in groups.items():
        draw(group, folder / name)
