// Parts of the pixels of maps whose channels lie side by side, and sums over pixels. Sums of each
// channel are made of a few pixels at a time, and these are added in order, so they do not depend
// on the number of threads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "pool.h"

namespace mmesbnn {

// Pixels whose sums are float32 numbers.
constexpr int64_t kPixelsOfPart = 64;

inline int64_t parts_of(int64_t pixels) { return (pixels + kPixelsOfPart - 1) / kPixelsOfPart; }

// Calls f(part, first, last) for all parts of pixels.
template <class F>
void for_parts(int64_t pixels, int threads, F f) {
  parallel(parts_of(pixels), threads, [&](int64_t first, int64_t last) {
    for (int64_t part = first; part < last; ++part)
      f(part, part * kPixelsOfPart, std::min(pixels, (part + 1) * kPixelsOfPart));
  });
}

// Sums of `channels` numbers for each part of the pixels.
class PartSums {
 public:
  PartSums(int64_t pixels, int64_t channels)
      : channels_(channels), values_(parts_of(pixels) * channels) {}
  float* of(int64_t part) { return values_.data() + part * channels_; }
  double total(int64_t channel) const {
    double sum = 0.0;
    for (size_t at = channel; at < values_.size(); at += channels_) sum += values_[at];
    return sum;
  }

 private:
  int64_t channels_;
  std::vector<float> values_;
};

}  // namespace mmesbnn
