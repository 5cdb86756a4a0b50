"""Cases that OpenVINO's binary convolution computes correctly on every processor.

The CPU plugin's kernel (observed in OpenVINO 2026.4) computes ``u`` columns at a time: 4 with
AVX-512, 2 with AVX2 and SSE4.2, or all columns if there are fewer.

- It refuses horizontal padding wider than ``u``, and padding of kernels wider than 7 with
  strides other than 1.
- With a padded value of 0 it counts the taps inside the map with an unsigned division of a
  difference. With stride 3 or more, this gives a wrong number for a tap whose distance from
  the end of the kernel's row is at least the stride; the tap is not counted. The result is
  **wrong without an error** if ``(k - 1) * dilation >= stride >= 3``, except for strides
  such as 4, where the bits happen to give a negative number.
- With a padded value of 0 it computes at least one row of taps. If the map has fewer rows
  than the dilation, all rows of taps may be outside: **wrong without an error**.
- Numbers of channels that do not fill whole bytes are **wrong without an error**, see
  :func:`mmesbnn.deploy.openvino.ops.binary_conv`.

Without padding, and with a padded value of -1 or 1, it is correct in all other cases.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Columns that the kernel computes at a time on the simplest processors.
COLUMNS = 2

#: Width of the widest kernel that it pads with any stride.
WIDEST = 7


@dataclass(frozen=True)
class Geometry:
    """Geometry of a convolution; pairs are (vertical, horizontal).

    Attributes:
        stride: Rows and columns between neighbouring windows.
        padding: Rows and columns added on each side.
        dilation: Rows and columns between taps.
        groups: Groups of channels.
        pad_value: Value of padded entries.
    """

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    pad_value: int = 0


def pads_rightly(geometry: Geometry, kernel: tuple[int, int], rows: int, columns: int) -> bool:
    """Return whether OpenVINO's kernel pads the map correctly.

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
