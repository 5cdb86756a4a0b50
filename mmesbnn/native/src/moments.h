// What norms of both layouts share: statistics of parts of a map, and names of signs' derivatives.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels.h"

namespace mmesbnn {

// Functions that stand for the derivative of a sign.
enum Surrogate { kWindow = 0, kTriangle = 1 };

// Returns whether a norm has either x or sums with scales.
inline bool is_one_map(const float* x, const int16_t* sums, const float* scales) {
  return x ? !sums && !scales : sums && scales;
}

// Moments of all numbers, from those of parts (Chan et al., 1979).
class AllMoments {
 public:
  void add(const Moments& part, int64_t count) {
    const double number = static_cast<double>(count), away = part.mean - mean_;
    seen_ += number;
    mean_ += away * number / seen_;
    squares_ += part.squares + away * away * number * (seen_ - number) / seen_;
  }
  // Mean, inverse of the standard deviation, and variance, `apart` from each other.
  void write(double eps, int64_t apart, float* to) const {
    const double variance = squares_ / seen_;
    to[0] = static_cast<float>(mean_);
    to[apart] = static_cast<float>(1.0 / std::sqrt(variance + eps));
    to[2 * apart] = static_cast<float>(variance);
  }

 private:
  double seen_ = 0.0, mean_ = 0.0, squares_ = 0.0;
};

}  // namespace mmesbnn
