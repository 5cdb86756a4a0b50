// A square of bits, or of groups of bits, on its side.
#pragma once

#include <cstdint>

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

namespace mmesbnn {

// Divides each row into COUNT groups of bits, the first one in its lowest bits, and swaps group j
// of row i with group i of row j.
template <int COUNT>
inline void transpose(uint64_t rows[COUNT]) {
  constexpr int kBits = 64 / COUNT;
  uint64_t mask = 0x00000000ffffffffu;
  for (int width = COUNT / 2; width != 0; width >>= 1, mask ^= mask << kBits * width) {
    for (int i = 0; i < COUNT; i = ((i | width) + 1) & ~width) {
      const uint64_t moved = ((rows[i] >> kBits * width) ^ rows[i | width]) & mask;
      rows[i] ^= moved << kBits * width;
      rows[i | width] ^= moved;
    }
  }
}

constexpr float kOnes[4] = {1.0f, 1.0f, 1.0f, 1.0f};

// Writes factors[j] from[i][j] as to[j][i], for i and j < 4; rows are strides apart.
inline void transpose_scaled(const float* from, int64_t from_stride, const float* factors,
                             float* to, int64_t to_stride) {
#if defined(__SSE2__)
  __m128 rows[4];
  for (int i = 0; i < 4; ++i) rows[i] = _mm_loadu_ps(from + i * from_stride);
  _MM_TRANSPOSE4_PS(rows[0], rows[1], rows[2], rows[3]);
  for (int j = 0; j < 4; ++j)
    _mm_storeu_ps(to + j * to_stride, _mm_mul_ps(rows[j], _mm_set1_ps(factors[j])));
#else
  for (int j = 0; j < 4; ++j)
    for (int i = 0; i < 4; ++i) to[j * to_stride + i] = factors[j] * from[i * from_stride + j];
#endif
}

}  // namespace mmesbnn
