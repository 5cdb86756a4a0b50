// Parts of maps whose pixels of a channel lie side by side, for training steps.
#pragma once

#include <algorithm>
#include <cstdint>

#include "arguments.h"
#include "kernels.h"

namespace mmesbnn {

// Pixels of a piece: its maps fit in the first cache, and sums of float32 are short.
constexpr int64_t kPiece = 1024;

// Maps are (batch, channels, pixels), those of the norm's output (batch, copies * channels,
// pixels).
struct MapSizes {
  int64_t batch, channels, copies, pixels;

  bool read() const { return product({batch, channels, copies, pixels, sizeof(float)}) > 0; }
  int64_t wide() const { return copies * channels; }
  double count() const { return static_cast<double>(batch) * static_cast<double>(pixels); }
};

// Calls f(image, begin, count) for all parts of a channel.
template <class F>
void for_parts(const MapSizes& sizes, F f) {
  for (int64_t image = 0; image < sizes.batch; ++image)
    for (int64_t begin = 0; begin < sizes.pixels; begin += kPiece)
      f(image, begin, std::min(kPiece, sizes.pixels - begin));
}

// A PReLU of some numbers.
inline NormPart prelu_of(const float* x, float slope, int64_t count) {
  return {count, x, nullptr, 1.0f, 0.0f, 0.0f, true, slope};
}

}  // namespace mmesbnn
