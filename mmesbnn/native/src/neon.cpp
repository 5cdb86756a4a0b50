// NEON on 64-bit ARM, where it is always there.
#include "kernels.h"

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

uint64_t compare(const float* x, int count, float threshold, bool* other) {
  return kPortable.compare(x, count, threshold, other);
}

}  // namespace

const Kernels kNeon = {"neon", always, count, compare};

}  // namespace mmesbnn

#else

namespace mmesbnn {
const Kernels kNeon = {"neon", [] { return false; }, nullptr, nullptr};
}  // namespace mmesbnn

#endif
