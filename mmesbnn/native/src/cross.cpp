// Training steps of sums with depthwise convolutions of tokens whose windows are crosses.
#include <new>
#include <vector>

#include "api.h"
#include "arguments.h"
#include "kernels.h"
#include "pixel_parts.h"

using namespace mmesbnn;
using namespace mmesbnn::status;

namespace {

// Maps are (batch, height, width, channels). Taps are (4 reach + 1, channels): that of the pixel
// itself, then for each distance those of the pixels above, below, on the left, and on the right.
struct Cross {
  int64_t batch, height, width, channels, reach;
  const float* taps;
  int threads;

  bool read() const {
    return threads > 0 && reach >= 0 && reach < kLargest / 8 &&
           product({batch, height, width, 4 * reach + 1, channels, sizeof(float)}) > 0;
  }
  int64_t pixels() const { return batch * height * width; }

  // Calls f(tap, other) for the taps around a pixel whose pixels lie in the map; with a `sign` of
  // -1 for those pixels in whose windows it lies.
  template <class F>
  void around(int64_t pixel, int sign, F f) const {
    const int64_t row = pixel / width % height, column = pixel % width;
    for (int64_t far = 1; far <= reach; ++far)
      for (int side = 0; side < 4; ++side) {
        const int64_t away = (side % 2 == 0 ? -far : far) * sign;
        const int64_t at = side < 2 ? row : column, size = side < 2 ? height : width;
        if (at + away < 0 || at + away >= size) continue;
        f(4 * far - 3 + side, pixel + (side < 2 ? away * width : away));
      }
  }

  void add(const float* base, const float* x, const float* shift, float* out) const {
    for_parts(pixels(), threads, [&](int64_t, int64_t first, int64_t last) {
      const Kernels& use = chosen_kernels();
      for (int64_t at = first; at < last; ++at) {
        float* const to = out + at * channels;
        use.activate_pixel({channels, x + at * channels, base + at * channels, taps, shift,
                            nullptr, nullptr},
                           to);
        around(at, 1, [&](int64_t tap, int64_t other) {
          use.accumulate_pixel(x + other * channels, taps + tap * channels, false, channels, to);
        });
      }
    });
  }

  void differentiate(const float* grad, const float* x, float* of_x, float* of_taps,
                     float* of_shift) const {
    const int64_t numbers = (4 * reach + 1) * channels;
    PartSums products(pixels(), numbers), grads(pixels(), channels);
    const std::vector<float> ones(channels, 1.0f);
    for_parts(pixels(), threads, [&](int64_t part, int64_t first, int64_t last) {
      const Kernels& use = chosen_kernels();
      float* const sums = products.of(part);
      for (int64_t at = first; at < last; ++at) {
        const float* const from = grad + at * channels;
        float* const to = of_x + at * channels;
        use.accumulate_pixel(from, ones.data(), false, channels, grads.of(part));
        use.accumulate_pixel(from, taps, true, channels, to);
        use.add_products(from, x + at * channels, channels, sums);
        around(at, -1, [&](int64_t tap, int64_t other) {
          use.accumulate_pixel(grad + other * channels, taps + tap * channels, false, channels, to);
        });
        around(at, 1, [&](int64_t tap, int64_t other) {
          use.add_products(from, x + other * channels, channels, sums + tap * channels);
        });
      }
    });
    for (int64_t i = 0; i < numbers; ++i) of_taps[i] = static_cast<float>(products.total(i));
    for (int64_t c = 0; c < channels; ++c) of_shift[c] = static_cast<float>(grads.total(c));
  }
};

}  // namespace

// out = base + shift + the sum over taps of tap x, at the taps' pixels, with zeros around the map.
// base, x, out: (batch, height, width, channels); taps: (4 reach + 1, channels); shift: (channels).
API int mmesbnn_add_cross(const float* base, const float* x, int64_t batch, int64_t height,
                          int64_t width, int64_t channels, int64_t reach, const float* taps,
                          const float* shift, int threads, float* out) {
  const Cross cross{batch, height, width, channels, reach, taps, threads};
  if (!cross.read()) return kBadSize;
  cross.add(base, x, shift, out);
  return kOk;
}

// The gradients of x, taps and shift for that of `out`; that of the base is the same.
API int mmesbnn_cross_gradients(const float* grad, const float* x, int64_t batch, int64_t height,
                                int64_t width, int64_t channels, int64_t reach, const float* taps,
                                int threads, float* of_x, float* of_taps, float* of_shift) {
  const Cross cross{batch, height, width, channels, reach, taps, threads};
  if (!cross.read()) return kBadSize;
  try {
    cross.differentiate(grad, x, of_x, of_taps, of_shift);
  } catch (const std::bad_alloc&) {
    return kNoMemory;
  }
  return kOk;
}
