// Binary kernels on packed words, one table of functions for each instruction set.
//
// A word holds 64 entries, the first in its lowest bit; 1 stands for +1 and 0 for -1. Bits after
// the last entry are 0 in both operands, so they add nothing to a count of differing bits.
#pragma once

#include <cstddef>
#include <cstdint>

namespace mmesbnn {

// Output channels that lie side by side in packed weights.
constexpr int kLanes = 8;

struct Kernels {
  const char* name;
  bool (*supported)();
  // out[row][channel] = number of differing bits, for `rows` rows of `words` words each
  // (the distance between rows is `row_stride` words) and `blocks` blocks of kLanes channels,
  // packed [block][word][lane].
  void (*count)(const uint64_t* x, size_t row_stride, int rows, const uint64_t* weights, int words,
                int blocks, int32_t* out, size_t out_stride);
  // bits[i] = x[i * stride] > threshold, for i < count <= 64; *other is set if an entry is
  // neither -1 nor 1.
  uint64_t (*compare)(const float* x, int count, float threshold, bool* other);
};

extern const Kernels kPortable;
extern const Kernels kAvx2;
extern const Kernels kAvx512;
extern const Kernels kNeon;

}  // namespace mmesbnn
