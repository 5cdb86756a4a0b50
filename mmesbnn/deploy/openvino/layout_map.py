"""Maps of a graph in channels-last order."""

from __future__ import annotations

import math
from collections.abc import Sequence

import openvino as ov

from .nodes import CHANNELS_FIRST, CHANNELS_LAST, key_of, reshaped, sizes_of, transposed


def _inner_sizes(output: ov.Output) -> tuple[int, ...] | None:
    """Return the sizes of all axes except the first, or None if they are unknown."""
    sizes = sizes_of(output)
    if sizes is None:
        return None
    known = [size for size in sizes[1:] if size is not None]
    return tuple(known) if len(known) == len(sizes) - 1 else None


def _channel_axes(output: ov.Output) -> tuple[int, ...] | None:
    inner = _inner_sizes(output)
    if inner is None or len(inner) < 3 or inner[-2:] == (1, 1):
        return None
    return inner[:-2]


def is_map(output: ov.Output) -> bool:
    """Return whether ``output`` is a map ``(N, C.., H, W)`` of known size, not one pixel."""
    return _channel_axes(output) is not None


def channels_of(output: ov.Output) -> tuple[int, ...]:
    """Return the sizes of the channel axes of a map: ``(C,)``, or ``(copies, C)``.

    Raises:
        ValueError: If ``output`` is not a map, see :func:`is_map`.
    """
    channels = _channel_axes(output)
    if channels is None:
        raise ValueError(f'{output}: must be a map (N, C, H, W) of known size')
    return channels


class ChannelsLastMap:
    """Map ``(N, H W, *groups)``.

    Reshaping is free, but the plugin copies a map that is reshaped twice. Each other shape is
    therefore made only once, from the shape before it.

    Args:
        tensor: The map.
        groups: Groups of its channels; ``(C,)`` without groups.
        size: Height and width.
        image: The map as ``(N, H, W, C)``, if there is one. Default None.
    """

    def __init__(
        self,
        tensor: ov.Output,
        groups: Sequence[int],
        size: tuple[int, int],
        image: ov.Output | None = None,
    ) -> None:
        self.tensor, self.groups, self.size = tensor, tuple(groups), size
        self.channels = math.prod(groups)
        self._flat = tensor if len(groups) == 1 else None
        self._image = image

    @classmethod
    def from_planes(cls, planes: ov.Output) -> ChannelsLastMap:
        """Transpose a map ``(N, C, H, W)``."""
        inner = _inner_sizes(planes)
        if inner is None or len(inner) != 3:
            raise ValueError(f'{planes}: must be a map (N, C, H, W) of known size')
        channels, height, width = inner
        image = transposed(planes, CHANNELS_LAST)
        tensor = reshaped(image, 0, height * width, channels)
        return cls(tensor, (channels,), (height, width), image)

    @property
    def pixels(self) -> int:
        """``H W``."""
        return math.prod(self.size)

    def flat(self) -> ov.Output:
        """Return the map as ``(N, H W, C)``."""
        if self._flat is None:
            self._flat = reshaped(self.tensor, 0, 0, self.channels)
        return self._flat

    def image(self) -> ov.Output:
        """Return the map as ``(N, H, W, C)``."""
        if self._image is None:
            self._image = reshaped(self.flat(), 0, *self.size, self.channels)
        return self._image

    def planes(self) -> ov.Output:
        """Return the map as ``(N, C, H, W)``."""
        return transposed(self.image(), CHANNELS_FIRST)

    def grouped(self, groups: tuple[int, ...]) -> ov.Output:
        """Return the map as ``(N, H W, *groups)``."""
        if groups == self.groups:
            return self.tensor
        if len(groups) == 1:
            return self.flat()
        return reshaped(self.flat(), 0, 0, *groups)


class KnownMaps:
    """Outputs of a graph that have a channels-last form."""

    def __init__(self) -> None:
        self._maps: dict[tuple[str, int], ChannelsLastMap] = {}
        self._planes: dict[tuple[str, int], ov.Output] = {}

    def add(self, output: ov.Output, form: ChannelsLastMap) -> None:
        """Add the channels-last form of ``output``."""
        self._maps[key_of(output)] = form

    def add_planes(self, output: ov.Output) -> None:
        """Add a channels-last form of ``output``, which itself stays in planes."""
        self.add(output, ChannelsLastMap.from_planes(output))
        self._planes[key_of(output)] = output

    def of(self, output: ov.Output) -> ChannelsLastMap | None:
        """Return the channels-last form of ``output``, None if it has none."""
        return self._maps.get(key_of(output))

    def all_of(self, outputs: Sequence[ov.Output]) -> list[ChannelsLastMap] | None:
        """Return the channels-last forms of ``outputs``, None if one has none."""
        forms = [form for form in map(self.of, outputs) if form is not None]
        return forms if len(forms) == len(outputs) else None

    def planes(self, output: ov.Output) -> ov.Output:
        """Return ``output`` in its own order, computed from its channels-last form if any."""
        form, key = self.of(output), key_of(output)
        if form is None:
            return output
        if key not in self._planes:
            planes, channels = form.planes(), channels_of(output)
            if len(channels) > 1:
                planes = reshaped(planes, 0, *channels, *form.size)
            self._planes[key] = planes
        return self._planes[key]
