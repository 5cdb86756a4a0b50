"""Rows of results: their file, and a table of each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .contenders import PUBLISHED


def key_of(row: dict[str, Any]) -> tuple[Any, ...]:
    """Return the settings that name a row."""
    return tuple(row[name] for name in ('network', 'batch', 'size', 'dtype', 'device'))


def saved_rows(path: Path) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Read the rows of earlier runs.

    Raises:
        ValueError: If the file is damaged, or that of another command.
    """
    if not path.exists():
        return {}
    try:
        rows = {key_of(row): row for row in json.loads(path.read_bytes())['rows']}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f'{path} is damaged, or that of another command') from error
    for row in rows.values():
        for found in row['forms'].values():
            found.setdefault('processor_s', found['least_s'])  # older files have no such figure
    return rows


def _ratio(row: dict[str, Any], form: str, value: str) -> str:
    base, own = row['forms'].get(PUBLISHED), row['forms'][form]
    if base is None or not base[value] or own[value] is None:
        return ''
    ratio = base[value] / own[value] if value.endswith('_s') else own[value] / base[value]
    return f'{ratio:.2f}'


def table(row: dict[str, Any]) -> str:
    """Format one row: how many times faster than the published style, and its share of bytes."""
    clock = 'processor_s' if row['device'] == 'cpu' else 'least_s'
    lines = [
        f'{row["network"]}, {row["batch"]} x {row["size"]}x{row["size"]}, {row["dtype"]}',
        f'  {"":<32}{"least s":>9}{"median s":>10}{"CPU s":>8}{"images/s":>10}{"faster":>8}'
        f'{"saved MB":>10}{"share":>7}{"peak MB":>9}{"first s":>9}',
    ]
    for form, found in row['forms'].items():
        saved, peak = (
            '' if found[name] is None else f'{found[name] / 1e6:.{digits}f}'
            for name, digits in (('saved_bytes', 1), ('peak_bytes', 0))
        )
        lines.append(
            f'  {form:<32}{found["least_s"]:>9.3f}{found["median_s"]:>10.3f}'
            f'{found["processor_s"]:>8.3f}'
            f'{found["images_per_s"]:>10.1f}{_ratio(row, form, clock):>8}'
            f'{saved:>10}{_ratio(row, form, "saved_bytes"):>7}'
            f'{peak:>9}{found["first_s"]:>9.1f}'
        )
    return '\n'.join(lines)
