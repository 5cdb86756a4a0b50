// NEON on 64-bit ARM, where it is always available.
#include <cmath>
#include <cstring>
#include <initializer_list>

#include "kernels.h"
#include "target.h"

#if defined(__aarch64__)

#include <arm_neon.h>

namespace mmesbnn {
namespace {

bool always() { return true; }

// Bytes hold up to 255, so 31 counts of up to 8 fit before they are widened.
constexpr int kWordsInBytes = 31;

void count(const uint64_t* x, size_t row_stride, int rows, const uint64_t* weights, int words,
           int blocks, int32_t* out, size_t out_stride) {
  const size_t size = static_cast<size_t>(words) * kLanes;
  for (int block = 0; block < blocks; ++block) {
    for (int row = 0; row < rows; ++row) {
      const uint64_t* entries = x + row * row_stride;
      const uint64_t* w = weights + block * size;
      uint64x2_t sums[4] = {};
      for (int begin = 0; begin < words; begin += kWordsInBytes) {
        const int end = begin + kWordsInBytes < words ? begin + kWordsInBytes : words;
        uint8x16_t bytes[4] = {};
        for (int k = begin; k < end; ++k, w += kLanes) {
          const uint64x2_t entry = vdupq_n_u64(entries[k]);
          for (int i = 0; i < 4; ++i) {
            const uint64x2_t differing = veorq_u64(entry, vld1q_u64(w + 2 * i));
            bytes[i] = vaddq_u8(bytes[i], vcntq_u8(vreinterpretq_u8_u64(differing)));
          }
        }
        for (int i = 0; i < 4; ++i)
          sums[i] = vaddq_u64(sums[i], vpaddlq_u32(vpaddlq_u16(vpaddlq_u8(bytes[i]))));
      }
      int32_t* target = out + row * out_stride + static_cast<size_t>(block) * kLanes;
      for (int i = 0; i < 4; ++i) {
        target[2 * i] = static_cast<int32_t>(vgetq_lane_u64(sums[i], 0));
        target[2 * i + 1] = static_cast<int32_t>(vgetq_lane_u64(sums[i], 1));
      }
    }
  }
}

uint64_t compare(const float* x, int count, float threshold, int* found) {
  return kPortable.compare(x, count, threshold, found);
}

namespace wide {

constexpr int kWidth = 4;
constexpr bool kManyRegisters = true;
using V = float32x4_t;
inline V load(const float* p) { return vld1q_f32(p); }
inline void store(float* p, V x) { vst1q_f32(p, x); }
inline V set(float x) { return vdupq_n_f32(x); }
inline V add(V a, V b) { return vaddq_f32(a, b); }
inline V sub(V a, V b) { return vsubq_f32(a, b); }
inline V mul(V a, V b) { return vmulq_f32(a, b); }
inline V fma(V a, V b, V c) { return vfmaq_f32(c, a, b); }
// Comparisons, because NEON's own maximum treats NaN and the sign of 0 as no other set does.
inline V max(V a, V b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
inline V min(V a, V b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
inline unsigned above(V a, V b) {
  const uint32x4_t places = {1, 2, 4, 8};
  return vaddvq_u32(vandq_u32(vcgtq_f32(a, b), places));
}
inline V prelu(V a, V b) {
  return vbslq_f32(vcltq_f32(a, vdupq_n_f32(0.0f)), vmulq_f32(a, b), a);
}
inline V if_above(V a, V limit, V b, V c) { return vbslq_f32(vcgtq_f32(a, limit), b, c); }
inline V widen(const int16_t* p) { return vcvtq_f32_s32(vmovl_s16(vld1_s16(p))); }

#include "vector_kernels.inc"

}  // namespace wide

}  // namespace

const Kernels kNeon = {
    "neon", always, count, nullptr, nullptr, nullptr, nullptr, compare,
#include "shared_entries.inc"
};

}  // namespace mmesbnn

#else

namespace mmesbnn {
const Kernels kNeon = {"neon", [] { return false; }};
}  // namespace mmesbnn

#endif
