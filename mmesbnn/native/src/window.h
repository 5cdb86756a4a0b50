// Windows of a convolution in a map.
#pragma once

#include <cstdint>

namespace mmesbnn {

// Geometry of a convolution; pairs are (vertical, horizontal), padding is above and to the left.
struct Window {
  int32_t kernel[2], stride[2], padding[2], dilation[2];

  int64_t taps() const { return int64_t{kernel[0]} * kernel[1]; }

  // Rows or columns from the first pixel of a window to the last one.
  int64_t reach(int axis) const { return int64_t{dilation[axis]} * (kernel[axis] - 1); }

  // Whether each output pixel is computed from the input pixel at its place.
  bool is_pointwise() const {
    return taps() == 1 && stride[0] == 1 && stride[1] == 1 && padding[0] == 0 && padding[1] == 0;
  }
};

// Where the windows of pixels begin, pixel by pixel; a division for each would take too long.
struct Corners {
  const Window& window;
  int64_t width, y, x;

  Corners(const Window& window, int64_t width, int64_t pixel)
      : window(window), width(width), y(pixel / width), x(pixel % width) {}
  int64_t top() const { return y * window.stride[0] - window.padding[0]; }
  int64_t left() const { return x * window.stride[1] - window.padding[1]; }
  void next() { skip(1); }

  // Goes on by some pixels that lie in the same row as this one.
  void skip(int64_t pixels) {
    if ((x += pixels) == width) x = 0, ++y;
  }
};

// Pixels along an axis whose windows lie inside the map.
struct Inside {
  int64_t first, end;

  Inside(const Window& w, int axis, int64_t size)
      : first((int64_t{w.padding[axis]} + w.stride[axis] - 1) / w.stride[axis]) {
    const int64_t room = size - 1 - w.reach(axis) + w.padding[axis];
    end = room < 0 ? 0 : room / w.stride[axis] + 1;
  }
  bool has(int64_t pixel) const { return pixel >= first && pixel < end; }
};

// Pixels whose windows have no padded pixel, in a map of this size.
struct Interior {
  Inside down, across;

  Interior(const Window& w, int64_t height, int64_t width)
      : down(w, 0, height), across(w, 1, width) {}
  bool has(const Corners& at) const { return down.has(at.y) && across.has(at.x); }
};

}  // namespace mmesbnn
