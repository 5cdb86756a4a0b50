// Plain C++, for every processor.
#include "kernels.h"

namespace mmesbnn {
namespace {

bool always() { return true; }

// Without the processor's own instruction, which not all have; compilers vectorise it.
inline int population(uint64_t v) {
  v -= (v >> 1) & 0x5555555555555555u;
  v = (v & 0x3333333333333333u) + ((v >> 2) & 0x3333333333333333u);
  v = (v + (v >> 4)) & 0x0f0f0f0f0f0f0f0fu;
  v += v >> 8;
  v += v >> 16;
  v += v >> 32;
  return static_cast<int>(v & 0x7f);
}

void count(const uint64_t* x, size_t row_stride, int rows, const uint64_t* weights, int words,
           int blocks, int32_t* out, size_t out_stride) {
  for (int row = 0; row < rows; ++row) {
    const uint64_t* entries = x + row * row_stride;
    const uint64_t* w = weights;
    for (int block = 0; block < blocks; ++block) {
      int32_t sums[kLanes] = {};
      for (int k = 0; k < words; ++k, w += kLanes) {
        for (int lane = 0; lane < kLanes; ++lane) sums[lane] += population(entries[k] ^ w[lane]);
      }
      int32_t* target = out + row * out_stride + static_cast<size_t>(block) * kLanes;
      for (int lane = 0; lane < kLanes; ++lane) target[lane] = sums[lane];
    }
  }
}

uint64_t compare(const float* x, int count, float threshold, bool* other) {
  uint64_t bits = 0;
  bool odd = false;
  for (int i = 0; i < count; ++i) {
    bits |= static_cast<uint64_t>(x[i] > threshold) << i;
    odd |= !(x[i] == 1.0f || x[i] == -1.0f);
  }
  *other |= odd;
  return bits;
}

}  // namespace

const Kernels kPortable = {"portable", always, count, compare};

}  // namespace mmesbnn
