"""Graph pass: channels last, so that maps are not copied before and after binary convolutions.

OpenVINO's binary convolution reads and writes the channels of one pixel side by side. Tiled
channels give maps of five axes instead of four. For these, the CPU plugin computes the
element-wise operators between two binary convolutions in planes, and copies every map to
planes and back. The pass changes only the order of the maps in memory::

    (N, C, H, W)          ->  (N, H W, C)
    (N, copies, C, H, W)  ->  (N, H W, copies, C)

At convolutions the maps are transposed; the plugin skips these transposes. Copies of
tiled channels stay a separate axis until combined with a map that is not tiled. So one
kernel broadcasts a small map and applies the affine and activation of every copy.
"""

from __future__ import annotations

import openvino as ov

from .layout_map import ChannelsLastMap, KnownMaps, is_map
from .layout_rules import RULES, replace_mean_of_pixels
from .nodes import rank_of

#: Operators that do not change and always write channels last.
STAYING = frozenset(('BinaryConvolution', 'Convolution', 'GroupConvolution', 'MaxPool', 'AvgPool'))


def _rewritten(node: ov.Node, maps: KnownMaps) -> list[ChannelsLastMap] | None:
    """Return the outputs of ``node`` in channels-last order, None if there is no rule."""
    rule = RULES.get(node.get_type_name())
    reads_maps = any(maps.of(value) is not None for value in node.input_values())
    if rule is None or not reads_maps or not is_map(node.output(0)):
        return None
    return rule(node, maps)


def _keep(node: ov.Node, maps: KnownMaps) -> None:
    """Keep ``node`` unchanged; its inputs become planes."""
    for port, value in zip(node.inputs(), node.input_values()):
        planes = maps.planes(value)
        if planes != value:
            port.replace_source_output(planes)
    # convolutions and pools of three dimensions have five axes, too, but no copies
    if node.get_type_name() in STAYING and rank_of(node.output(0)) == 4 and is_map(node.output(0)):
        maps.add_planes(node.output(0))


def channels_last(graph: ov.Model) -> None:
    """Change the maps between binary convolutions to channels-last order.

    Args:
        graph: Changed in place; height and width of its maps should be known.
    """
    maps = KnownMaps()
    for node in graph.get_ordered_ops():
        if node.get_type_name() == 'ReduceMean':
            replace_mean_of_pixels(node, maps)
        forms = _rewritten(node, maps)
        if forms is None:
            _keep(node, maps)
        else:
            for output, form in zip(node.outputs(), forms):
                maps.add(output, form)
    graph.validate_nodes_and_infer_types()
