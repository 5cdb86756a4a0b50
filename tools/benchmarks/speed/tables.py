"""Tables of times: for the terminal, and in Markdown for the documentation."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from .names import BITS, NATIVE

Result = dict[str, Any]


def reference(result: Result) -> str:
    """Return the contender that the others are compared with."""
    return NATIVE if NATIVE in result['times_ms'] else BITS


def setting_of(result: Result) -> str:
    """Return the setting of a result in words."""
    cores = '1 core' if result['threads'] == 1 else f'{result["threads"]} cores'
    return f'{cores}, batch {result["batch"]}'


def table(result: Result) -> str:
    """Format medians, least times, medians of first runs, and ratios to the reference."""
    base, times = reference(result), result['times_ms']
    ours = median(times[base])
    lines = [f'  {"":<34}{"median ms":>11}{"least":>9}{"first":>9}  {base} is faster by']
    for name, taken in times.items():
        ratio = '' if name == base else f'{median(taken) / ours:>9.2f} x'
        values = median(taken), min(taken), median(result['first_ms'][name])
        lines.append(f'  {name:<34}' + '{:>11.2f}{:>9.2f}{:>9.2f}'.format(*values) + f'{ratio:>14}')
    return '\n'.join(lines)


def markdown(networks: dict[str, Sequence[Result]]) -> str:
    """Format times per image of several networks as one table.

    Each setting has two columns: the median in ms with the least time in brackets, and the
    median divided by that of the native engine.

    Args:
        networks: Results by the name of a network, in the same settings.
    """
    first = next(iter(networks.values()))
    settings = [setting_of(result) for result in first]
    lines = [
        '| network | form | ' + ' | | '.join(settings) + ' | |',
        '|---|---|' + '---|---|' * len(settings),
    ]
    for network, results in networks.items():
        names = dict.fromkeys(name for result in results for name in result['times_ms'])
        for i, name in enumerate(names):
            cells = [cell for result in results for cell in _cells(name, result)]
            row = [network if i == 0 else '', _bold(name, results), *cells]
            lines.append(f'| {" | ".join(row)} |')
    return '\n'.join(lines)


def _bold(name: str, results: Sequence[Result]) -> str:
    return f'**{name}**' if name == reference(results[0]) else name


def _cells(name: str, result: Result) -> tuple[str, str]:
    """Return both cells of a contender in one setting."""
    times, base = result['times_ms'], reference(result)
    if name not in times:
        return '', ''
    middle, least = (value / result['batch'] for value in (median(times[name]), min(times[name])))
    ratio = median(times[name]) / median(times[base])
    return f'{middle:.1f} ({least:.1f})', '' if name == base else _three_digits(ratio)


def _three_digits(ratio: float) -> str:
    return f'{ratio:.0f}' if ratio >= 99.95 else f'{ratio:.{1 if ratio >= 9.995 else 2}f}'
