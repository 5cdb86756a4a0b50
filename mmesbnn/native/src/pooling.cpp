// Training steps of poolings of maps whose pixels of a channel lie side by side.
#include <algorithm>
#include <atomic>
#include <limits>

#include "api.h"
#include "arguments.h"
#include "kernels.h"
#include "map_parts.h"
#include "pool.h"

using namespace mmesbnn;
using namespace mmesbnn::status;

namespace {

// Numbers of maps, and sizes of those of the input and of the result.
struct PoolSizes {
  int64_t maps, height, width, out_height, out_width;

  bool read() const {
    return product({maps, height, width, sizeof(float)}) > 0 &&
           product({maps, out_height, out_width, sizeof(float)}) > 0;
  }
  bool are_even() const { return height % 2 == 0 && width % 2 == 0; }
};

// Windows side by side whose best pixels are found together.
constexpr int64_t kWindowsAtOnce = 64;

// The largest values of square windows, and their places.
struct LargestOf {
  PoolSizes sizes;
  int64_t kernel, stride, padding;

  // A place is a byte. Every window has a pixel, because a padding is smaller than a window.
  bool read() const {
    return sizes.read() && kernel >= 1 && kernel <= 15 && stride >= 1 && stride <= kLargest &&
           padding >= 0 && 2 * padding <= kernel && fits(sizes.height, sizes.out_height) &&
           fits(sizes.width, sizes.out_width);
  }
  bool fits(int64_t entries, int64_t out) const {
    return entries + 2 * padding >= kernel && (entries + 2 * padding - kernel) / stride + 1 == out;
  }

  // The best pixels of windows that begin at `begin`.
  struct Best {
    int64_t begin, end;
    float values[kWindowsAtOnce];
    int32_t places[kWindowsAtOnce];
  };

  // Compares the best of some windows with the first, and each kStride-th pixel behind it. kStride
  // is the stride, or 0 if it is known at run time only.
  template <int64_t kStride>
  void compare(const float* from, int32_t place, int64_t count, float* values,
               int32_t* places) const {
    const int64_t step = kStride > 0 ? kStride : stride;
    for (int64_t i = 0; i < count; ++i) {
      const float value = from[i * step];
      const bool larger = value > values[i] || value != value;  // the last NaN wins, as torch's
      values[i] = larger ? value : values[i];
      places[i] = larger ? place : places[i];
    }
  }

  void find(const float* x, int64_t out_row, Best& best) const {
    const int64_t top = out_row * stride - padding;
    const int64_t upper = std::max<int64_t>(0, -top), lower = std::min(kernel, sizes.height - top);
    // without a larger one the first pixel is the largest, that is of -inf
    for (int64_t i = best.begin; i < best.end; ++i) {
      best.values[i - best.begin] = -std::numeric_limits<float>::infinity();
      best.places[i - best.begin] =
          static_cast<int32_t>(upper * kernel + std::max<int64_t>(0, padding - i * stride));
    }
    for (int64_t y = upper; y < lower; ++y)
      for (int64_t column = 0; column < kernel; ++column) {
        // windows whose pixel of this column lies in the map
        const int64_t left = column - padding, before = left < 0 ? (stride - 1 - left) / stride : 0;
        const int64_t first = std::max(best.begin, before);
        const int64_t last = std::min(best.end, (sizes.width - 1 - left + stride) / stride);
        if (first >= last) continue;
        const float* from = x + ((top + y) * sizes.width + left + first * stride);
        const auto place = static_cast<int32_t>(y * kernel + column);
        const auto use = stride == 2 ? &LargestOf::compare<2> : &LargestOf::compare<0>;
        const int64_t at = first - best.begin;
        (this->*use)(from, place, last - first, best.values + at, best.places + at);
      }
  }

  // Finds the best pixels of a map.
  void run(const float* x, float* out, uint8_t* places) const {
    for (int64_t y = 0; y < sizes.out_height; ++y)
      for (int64_t begin = 0; begin < sizes.out_width; begin += kWindowsAtOnce) {
        Best best;
        best.begin = begin, best.end = std::min(begin + kWindowsAtOnce, sizes.out_width);
        find(x, y, best);
        const int64_t at = y * sizes.out_width + begin;
        for (int64_t i = 0; i < best.end - begin; ++i) {
          out[at + i] = best.values[i];
          places[at + i] = static_cast<uint8_t>(best.places[i]);
        }
      }
  }

  // Returns false if a place lies outside the map.
  bool spread(const float* grad, const uint8_t* places, float* of_x) const {
    for (int64_t y = 0; y < sizes.out_height; ++y)
      for (int64_t x = 0; x < sizes.out_width; ++x, ++grad, ++places) {
        const int64_t row = y * stride - padding + *places / kernel;
        const int64_t column = x * stride - padding + *places % kernel;
        if (row < 0 || row >= sizes.height || column < 0 || column >= sizes.width) return false;
        of_x[row * sizes.width + column] += *grad;
      }
    return true;
  }
};

void average_rows(const float* upper, const float* lower, int64_t count, float* to) {
  // in the order of torch's sum
  for (int64_t i = 0; i < count; ++i)
    to[i] = 0.25f * (((upper[2 * i] + upper[2 * i + 1]) + lower[2 * i]) + lower[2 * i + 1]);
}

void spread_row(const float* from, int64_t count, float* to) {
  for (int64_t i = 0; i < count; ++i) to[2 * i] = to[2 * i + 1] = 0.25f * from[i];
}

void average(const PoolSizes& sizes, const float* x, float* out) {
  for (int64_t y = 0; y < sizes.out_height; ++y) {
    const float* upper = x + 2 * y * sizes.width;
    average_rows(upper, upper + sizes.width, sizes.out_width, out + y * sizes.out_width);
  }
}

void spread(const PoolSizes& sizes, const float* grad, float* of_x) {
  for (int64_t y = 0; y < sizes.out_height; ++y) {
    float* upper = of_x + 2 * y * sizes.width;
    spread_row(grad + y * sizes.out_width, sizes.out_width, upper);
    std::copy(upper, upper + sizes.width, upper + sizes.width);
  }
}

// Pixels of a row of the result that are computed at a time from a PReLU that is not stored.
constexpr int64_t kPooledAtOnce = 256;

// Calls work(first pixel of the upper row, first mean, number of means) for parts of a map.
template <class Work>
void for_row_parts(const PoolSizes& sizes, Work work) {
  for (int64_t y = 0; y < sizes.out_height; ++y)
    for (int64_t begin = 0; begin < sizes.out_width; begin += kPooledAtOnce)
      work(2 * (y * sizes.width + begin), y * sizes.out_width + begin,
           std::min(kPooledAtOnce, sizes.out_width - begin));
}

void average_activated(const PoolSizes& sizes, const float* x, float slope, float* out) {
  for_row_parts(sizes, [&](int64_t from, int64_t to, int64_t count) {
    float rows[2][2 * kPooledAtOnce];
    for (int row = 0; row < 2; ++row)
      chosen_kernels().activate(prelu_of(x + from + row * sizes.width, slope, 2 * count),
                                rows[row]);
    average_rows(rows[0], rows[1], count, out + to);
  });
}

// Returns the gradient of the slope.
double spread_activated(const PoolSizes& sizes, const float* grad, const float* x, float slope,
                        float* of_x) {
  NormSums sums{};
  for_row_parts(sizes, [&](int64_t to, int64_t from, int64_t count) {
    float row[2 * kPooledAtOnce];
    spread_row(grad + from, count, row);
    for (const int64_t at : {to, to + sizes.width})
      chosen_kernels().differentiate(prelu_of(x + at, slope, 2 * count), {row, 0.0f, 0.0f},
                                     of_x + at, &sums);
  });
  return sums.negatives;
}

PoolSizes halved(int64_t maps, int64_t height, int64_t width) {
  return {maps, height, width, height / 2, width / 2};
}

// `work(map)` for every map.
template <class Work>
void for_maps(const PoolSizes& sizes, int threads, Work work) {
  parallel(sizes.maps, threads, [&](int64_t first, int64_t last) {
    for (int64_t map = first; map < last; ++map) work(map);
  });
}

}  // namespace

// The means of 2x2 pixels. x: (maps, height, width), both even; out: (maps, height / 2, width / 2).
API int mmesbnn_average_pool(const float* x, int64_t maps, int64_t height, int64_t width,
                             int threads, float* out) {
  const PoolSizes sizes = halved(maps, height, width);
  if (!sizes.read() || !sizes.are_even() || threads < 1) return kBadSize;
  for_maps(sizes, threads, [&](int64_t map) {
    average(sizes, x + map * height * width, out + map * sizes.out_height * sizes.out_width);
  });
  return kOk;
}

// The gradient of x in mmesbnn_average_pool, for that of `out`.
API int mmesbnn_average_pool_gradient(const float* grad, int64_t maps, int64_t height,
                                      int64_t width, int threads, float* of_x) {
  const PoolSizes sizes = halved(maps, height, width);
  if (!sizes.read() || !sizes.are_even() || threads < 1) return kBadSize;
  for_maps(sizes, threads, [&](int64_t map) {
    spread(sizes, grad + map * sizes.out_height * sizes.out_width, of_x + map * height * width);
  });
  return kOk;
}

// The means of 2x2 pixels of a PReLU of x: (batch, channels, height, width), both even; slope:
// (channels); out: (batch, channels, height / 2, width / 2).
API int mmesbnn_average_activated(const float* x, int64_t batch, int64_t channels, int64_t height,
                                  int64_t width, const float* slope, int threads, float* out) {
  if (product({batch, channels}) < 0) return kBadSize;
  const PoolSizes sizes = halved(batch * channels, height, width);
  if (!sizes.read() || !sizes.are_even() || threads < 1) return kBadSize;
  for_maps(sizes, threads, [&](int64_t map) {
    average_activated(sizes, x + map * height * width, slope[map % channels],
                      out + map * sizes.out_height * sizes.out_width);
  });
  return kOk;
}

// The gradients of x and slope in mmesbnn_average_activated, for that of `out`.
API int mmesbnn_average_activated_gradients(const float* grad, const float* x, int64_t batch,
                                            int64_t channels, int64_t height, int64_t width,
                                            const float* slope, int threads, float* of_x,
                                            float* of_slope) {
  if (product({batch, channels}) < 0) return kBadSize;
  const PoolSizes sizes = halved(batch * channels, height, width);
  if (!sizes.read() || !sizes.are_even() || threads < 1) return kBadSize;
  parallel(channels, threads, [&](int64_t first, int64_t last) {
    for (int64_t channel = first; channel < last; ++channel) {
      double sum = 0.0;
      for (int64_t map = channel; map < sizes.maps; map += channels)
        sum += spread_activated(sizes, grad + map * sizes.out_height * sizes.out_width,
                                x + map * height * width, slope[channel],
                                of_x + map * height * width);
      of_slope[channel] = static_cast<float>(sum);
    }
  });
  return kOk;
}

// The means of `window` numbers side by side. x: (count, window); out: (count).
API int mmesbnn_average_neighbours(const float* x, int64_t count, int64_t window, int threads,
                                   float* out) {
  if (product({count, window, sizeof(float)}) < 0 || threads < 1) return kBadSize;
  const float part = 1.0f / static_cast<float>(window);
  parallel(count, threads, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      float sum = 0.0f;
      for (int64_t j = 0; j < window; ++j) sum += x[i * window + j];
      out[i] = part * sum;
    }
  });
  return kOk;
}

// The gradient of x in mmesbnn_average_neighbours, for that of `out`.
API int mmesbnn_average_neighbours_gradient(const float* grad, int64_t count, int64_t window,
                                            int threads, float* of_x) {
  if (product({count, window, sizeof(float)}) < 0 || threads < 1) return kBadSize;
  const float part = 1.0f / static_cast<float>(window);
  parallel(count, threads, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i)
      std::fill(of_x + i * window, of_x + (i + 1) * window, part * grad[i]);
  });
  return kOk;
}

// The largest pixels of square windows. x: (maps, height, width), padded with numbers that are
// never the largest; out, places: (maps, out_height, out_width). A place is row * kernel + column
// in the window, of the first of the largest pixels, or of the last NaN.
API int mmesbnn_max_pool(const float* x, int64_t maps, int64_t height, int64_t width,
                         int64_t kernel, int64_t stride, int64_t padding, int64_t out_height,
                         int64_t out_width, int threads, float* out, uint8_t* places) {
  const LargestOf pool{{maps, height, width, out_height, out_width}, kernel, stride, padding};
  if (!pool.read() || threads < 1) return kBadSize;
  for_maps(pool.sizes, threads, [&](int64_t map) {
    const int64_t at = map * out_height * out_width;
    pool.run(x + map * height * width, out + at, places + at);
  });
  return kOk;
}

// The gradient of x in mmesbnn_max_pool, for that of `out`.
API int mmesbnn_max_pool_gradient(const float* grad, const uint8_t* places, int64_t maps,
                                  int64_t height, int64_t width, int64_t kernel, int64_t stride,
                                  int64_t padding, int64_t out_height, int64_t out_width,
                                  int threads, float* of_x) {
  const LargestOf pool{{maps, height, width, out_height, out_width}, kernel, stride, padding};
  if (!pool.read() || threads < 1) return kBadSize;
  std::atomic<bool> inside{true};
  for_maps(pool.sizes, threads, [&](int64_t map) {
    const int64_t at = map * out_height * out_width;
    float* to = of_x + map * height * width;
    std::fill(to, to + height * width, 0.0f);
    if (!pool.spread(grad + at, places + at, to)) inside = false;
  });
  return inside ? kOk : kBadSize;
}
