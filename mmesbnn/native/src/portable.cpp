// Plain C++, for every processor.
#include <cmath>
#include <cstring>
#include <initializer_list>

#include "kernels.h"
#include "target.h"

namespace mmesbnn {
namespace {

bool always() { return true; }

// Uses no popcount instruction, because not all processors have one; compilers vectorise it.
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

uint64_t compare(const float* x, int count, float threshold, int* found) {
  uint64_t bits = 0;
  bool other = false, nan = false;
  for (int i = 0; i < count; ++i) {
    bits |= static_cast<uint64_t>(x[i] > threshold) << i;
    other |= !(x[i] == 1.0f || x[i] == -1.0f);
    nan |= x[i] != x[i];
  }
  *found |= (other ? kOther : 0) | (nan ? kNaN : 0);
  return bits;
}

namespace wide {

// Four floats, which compilers keep in a vector register if the processor has them.
struct V {
  float at[4];
};
constexpr int kWidth = 4;
constexpr bool kManyRegisters = false;

template <class F>
inline V of_each(F f) {
  return {{f(0), f(1), f(2), f(3)}};
}

inline V load(const float* p) { return of_each([&](int i) { return p[i]; }); }
inline void store(float* p, V x) {
  for (int i = 0; i < kWidth; ++i) p[i] = x.at[i];
}
inline V set(float x) { return {{x, x, x, x}}; }
inline V add(V a, V b) { return of_each([&](int i) { return a.at[i] + b.at[i]; }); }
inline V sub(V a, V b) { return of_each([&](int i) { return a.at[i] - b.at[i]; }); }
inline V mul(V a, V b) { return of_each([&](int i) { return a.at[i] * b.at[i]; }); }
inline V fma(V a, V b, V c) { return add(mul(a, b), c); }
inline V max(V a, V b) {
  return of_each([&](int i) { return a.at[i] > b.at[i] ? a.at[i] : b.at[i]; });
}
inline V min(V a, V b) {
  return of_each([&](int i) { return a.at[i] < b.at[i] ? a.at[i] : b.at[i]; });
}
inline V prelu(V a, V b) {
  return of_each([&](int i) { return a.at[i] < 0.0f ? a.at[i] * b.at[i] : a.at[i]; });
}
inline V if_above(V a, V limit, V b, V c) {
  return of_each([&](int i) { return a.at[i] > limit.at[i] ? b.at[i] : c.at[i]; });
}
inline V widen(const int16_t* p) {
  return of_each([&](int i) { return static_cast<float>(p[i]); });
}
inline unsigned above(V a, V b) {
  unsigned bits = 0;
  for (int i = 0; i < kWidth; ++i) bits |= static_cast<unsigned>(a.at[i] > b.at[i]) << i;
  return bits;
}

#include "vector_kernels.inc"

}  // namespace wide

}  // namespace

const Kernels kPortable = {
    "portable", always, count, nullptr, nullptr, nullptr, nullptr, compare,
#include "shared_entries.inc"
};

}  // namespace mmesbnn
