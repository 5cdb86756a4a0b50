"""Names of the nodes that binary convolutions consist of.

A binary layer becomes one or more convolutions, each with a comparison before it that
turns the map into bits. Passes find the comparisons, and their layers, by these names.
"""

from __future__ import annotations

_COMPARISON = 'mmesbnn.binarize:'


def convolution_name(layer: str, index: int) -> str:
    """Name the ``index``-th binary convolution of ``layer``."""
    return f'{layer}#{index}'


def comparison_name(layer: str, index: int) -> str:
    """Name the comparison before the ``index``-th binary convolution of ``layer``."""
    return _COMPARISON + convolution_name(layer, index)


def layer_of_comparison(name: str) -> str | None:
    """Return the layer in a name of :func:`comparison_name`, or None for other names."""
    if not name.startswith(_COMPARISON):
        return None
    return name.removeprefix(_COMPARISON).rpartition('#')[0]
