// Checks of sizes that come from outside.
#pragma once

#include <cstdint>
#include <initializer_list>

#include "binary_conv.h"

namespace mmesbnn {

constexpr int64_t kLargest = int64_t{1} << 40;

// The product of positive sizes, or -1 if one is not positive or the product is too large.
inline int64_t product(std::initializer_list<int64_t> sizes) {
  int64_t result = 1;
  for (const int64_t size : sizes) {
    if (size <= 0 || size > kLargest / result) return -1;
    result *= size;
  }
  return result;
}

// Floats from an image, a channel and a pixel of a real-valued map to the next one. In memory the
// pixels of a channel lie side by side, or with `channels_last` the channels of a pixel.
struct Strides {
  int64_t image, channel, pixel;
};

inline Strides strides_of(int64_t channels, int64_t pixels, bool channels_last) {
  return {channels * pixels, channels_last ? 1 : pixels, channels_last ? channels : 1};
}

// Sizes of a convolution, as the C interface gets them.
struct ConvSizes {
  int64_t batch, height, width, groups, channels, kernels;  // the last two are those of a group
  int64_t out_height, out_width;
  Window window;

  // geometry: kernel, stride, padding, dilation, each (vertical, horizontal). Returns false if
  // the sizes do not fit.
  bool read(const int32_t* geometry) {
    if (product({batch, height, width, groups, channels}) < 0) return false;
    for (int i = 0; i < 2; ++i) {
      window.kernel[i] = geometry[i];
      window.stride[i] = geometry[2 + i];
      window.padding[i] = geometry[4 + i];
      window.dilation[i] = geometry[6 + i];
      if (window.kernel[i] < 1 || window.stride[i] < 1 || window.padding[i] < 0 ||
          window.dilation[i] < 1)
        return false;
      const int64_t room = (i == 0 ? height : width) + 2 * int64_t{window.padding[i]} -
                           window.reach(i) - 1;
      const int64_t expected = room < 0 ? 0 : room / window.stride[i] + 1;
      if (expected != (i == 0 ? out_height : out_width) || expected == 0) return false;
    }
    const int64_t taps = product({window.kernel[0], window.kernel[1]});
    return taps > 0 && product({out_height, out_width}) > 0 &&
           product({batch, groups, kernels, out_height * out_width}) > 0 &&
           product({channels, taps}) > 0 && channels * taps <= int64_t{1} << 30;
  }
};

}  // namespace mmesbnn
