"""Translation of a graph by rules for its nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import openvino as ov

from ..openvino.nodes import key_of
from .axes import NotCovered, named, shape_of, split_shape
from .borders import Bits, Bordered
from .expressions import MapValue, channels_of, reads_of
from .network import Network, Value

Rule: TypeAlias = Callable[['Translation', ov.Node], 'Value | None']


class Translation:
    """Translation of a graph, node by node in its order.

    Args:
        rules: Rule of each type of node. It returns the value of the node; None if it keeps
            its results itself.

    Attributes:
        network: Result so far.
        bits: Comparisons, by their outputs.
    """

    def __init__(self, rules: Mapping[str, Rule]) -> None:
        self.network = Network()
        self.bits: dict[tuple[str, int], Bits] = {}
        self._rules = rules
        self._values: dict[tuple[str, int], Value] = {}
        self._bordered: dict[tuple[str, int], Bordered] = {}

    def follow(self, graph: ov.Model) -> Network:
        """Translate a whole graph.

        Args:
            graph: For one image; its binary convolutions read comparisons.

        Raises:
            NotCovered: If there is no rule for an operator.
        """
        for node in graph.get_ordered_ops():
            kind = node.get_type_name()
            if kind in ('Constant', 'Result'):
                continue
            if kind not in self._rules:
                raise NotCovered(f'no native form of {named(node)}')
            value = self._rules[kind](self, node)
            if value is not None:
                self._keep(node, value)
        if self.network.image is None or not graph.outputs:
            raise NotCovered('the network has no input or no output')
        # outputs keep their order in the graph
        for node in graph.get_results():
            output = self.network.stored(self.value(node.input_value(0)))
            self.network.outputs.append(output)
        return self.network

    def _keep(self, node: ov.Node, value: Value) -> None:
        axes, size = split_shape(shape_of(node.output(0)), node)
        # the same numbers can be channels for a rule and pixels for the next one
        if (channels_of(value.expression), (value.height, value.width)) != (axes, size):
            raise NotCovered(f'{named(node)} makes pixels of channels, or the reverse')
        if len(node.output(0).get_target_inputs()) > 1:
            value = self.network.kept(value)
        self._values[key_of(node.output(0))] = value

    def value(self, output: ov.Output) -> Value:
        """Return the value of an output."""
        try:
            return self._values[key_of(output)]
        except KeyError:
            raise NotCovered(
                f'{named(output.get_node())} is read by what needs a map of numbers'
            ) from None

    def is_read_once(self, output: ov.Output, source: MapValue) -> bool:
        """Return whether one operator alone reads an output, and with it a map.

        The output may be the map in other axes. Then the map has an output of its own, which others
        can read.

        Args:
            output: Output whose value reads the map.
            source: The map.
        """
        if len(output.get_target_inputs()) != 1:
            return False
        before = [one for one in output.get_node().input_values() if self._reads(one, source)]
        return all(self.is_read_once(one, source) for one in before)

    def _reads(self, output: ov.Output, source: MapValue) -> bool:
        value = self._values.get(key_of(output))
        return value is not None and any(x.map is source for x in reads_of(value.expression))

    def with_border(self, output: ov.Output) -> Bordered:
        """Return the value of an output for operators that also take padded maps."""
        return self._bordered.get(key_of(output)) or Bordered(self.value(output))

    def keep_border(self, output: ov.Output, result: Bordered) -> None:
        """Keep a result; one with padding is kept for operators that take it."""
        if result.outside is None and not result.extra:
            self._values[key_of(output)] = result.value
        else:
            self._bordered[key_of(output)] = result
