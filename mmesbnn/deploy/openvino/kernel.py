"""What OpenVINO's binary convolution computes rightly, on every processor.

The CPU plugin's kernel (seen with OpenVINO 2026.4) computes ``u`` columns at a time, 4
with AVX-512, 2 with AVX2 and SSE4.2, or as many as there are if these are fewer.

- It refuses horizontal padding wider than ``u``, and padding of kernels wider than 7
  with strides other than 1.
- With a padded value of 0 it counts the taps that lie inside the map, by dividing a
  difference without its sign. From stride 3 on the result is no number of columns for
  a tap that is the stride or more away from the end of the kernel's row, and the tap is
  not counted: **wrong in silence** if ``(k - 1) * dilation >= stride >= 3``, but for
  strides such as 4, where the bits happen to say a negative number.
- With a padded value of 0 it computes at least one row of taps. If the map has fewer
  rows than the dilation, all rows of taps may lie outside: **wrong in silence**.
- Channels that make no whole bytes are **wrong in silence**, see
  :func:`mmesbnn.deploy.openvino.ops.binary_conv`.

Without padding and with a padded value of -1 or 1 it is right whatever the rest.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Columns that the kernel computes at a time on the least of processors.
COLUMNS = 2

#: Widest kernel that it pads whatever the stride.
WIDEST = 7


@dataclass(frozen=True)
class Geometry:
    """Where a convolution looks: pairs (vertical, horizontal), groups, padded value."""

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    pad_value: int = 0


def pads_rightly(geometry: Geometry, kernel: tuple[int, int], rows: int, columns: int) -> bool:
    """Whether the kernel may be left to pad the map.

    Args:
        geometry: With padding or without.
        kernel: Height and width of the weights.
        rows: Height of the map that is convolved.
        columns: Width of the result.
    """
    if not any(geometry.padding):
        return True
    if geometry.padding[1] > min(COLUMNS, columns):
        return False
    if kernel[1] > WIDEST and geometry.stride != (1, 1):
        return False
    if geometry.pad_value:
        return True
    stride, reach = geometry.stride[1], (kernel[1] - 1) * geometry.dilation[1]
    return not reach >= stride >= 3 and geometry.dilation[0] <= rows
