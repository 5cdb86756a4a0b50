// AVX-512. With VPOPCNTDQ: eight channels in a register, one instruction for their counts.
#include <cmath>
#include <cstring>
#include <initializer_list>

#include "amx.h"
#include "avx512bw.h"
#include "kernels.h"
#include "target.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include <immintrin.h>

#define TARGET __attribute__((target("avx512f,avx512vpopcntdq,avx512vl,avx512dq")))
#define TARGET_WITHOUT_POPCOUNT __attribute__((target("avx512f,avx512vl,avx512dq")))

namespace mmesbnn {
namespace {

bool has_vectors() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
}

bool has_popcount() { return has_vectors() && __builtin_cpu_supports("avx512vpopcntdq"); }

bool has_matrices() { return has_popcount() && may_use_amx(); }

TARGET inline __m512i in_all_lanes(uint64_t word) {
  return _mm512_set1_epi64(static_cast<long long>(word));
}

// ROWS x BLOCKS accumulators stay in registers, so a load serves several of them.
template <int ROWS, int BLOCKS>
TARGET inline void tile(const uint64_t* x, size_t row_stride, const uint64_t* weights, int words,
                        int32_t* out, size_t out_stride) {
  __m512i sums[ROWS][BLOCKS];
  for (int r = 0; r < ROWS; ++r)
    for (int b = 0; b < BLOCKS; ++b) sums[r][b] = _mm512_setzero_si512();
  const size_t block = static_cast<size_t>(words) * kLanes;
  for (int k = 0; k < words; ++k) {
    __m512i w[BLOCKS];
    for (int b = 0; b < BLOCKS; ++b)
      w[b] = _mm512_loadu_si512(weights + b * block + static_cast<size_t>(k) * kLanes);
    for (int r = 0; r < ROWS; ++r) {
      const __m512i entry = in_all_lanes(x[r * row_stride + k]);
      for (int b = 0; b < BLOCKS; ++b) {
        const __m512i differing = _mm512_popcnt_epi64(_mm512_xor_si512(entry, w[b]));
        sums[r][b] = _mm512_add_epi64(sums[r][b], differing);
      }
    }
  }
  for (int r = 0; r < ROWS; ++r)
    for (int b = 0; b < BLOCKS; ++b)
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + r * out_stride + b * kLanes),
                          _mm512_cvtepi64_epi32(sums[r][b]));
}

template <int BLOCKS>
TARGET inline void rows_of(const uint64_t* x, size_t row_stride, int rows, const uint64_t* weights,
                           int words, int32_t* out, size_t out_stride) {
  int row = 0;
  for (; row + 4 <= rows; row += 4)
    tile<4, BLOCKS>(x + row * row_stride, row_stride, weights, words, out + row * out_stride,
                    out_stride);
  for (; row < rows; ++row)
    tile<1, BLOCKS>(x + row * row_stride, row_stride, weights, words, out + row * out_stride,
                    out_stride);
}

TARGET void count(const uint64_t* x, size_t row_stride, int rows, const uint64_t* weights,
                  int words, int blocks, int32_t* out, size_t out_stride) {
  const size_t size = static_cast<size_t>(words) * kLanes;
  int block = 0;
  for (; block + 4 <= blocks; block += 4)
    rows_of<4>(x, row_stride, rows, weights + block * size, words, out + block * kLanes,
               out_stride);
  for (; block + 2 <= blocks; block += 2)
    rows_of<2>(x, row_stride, rows, weights + block * size, words, out + block * kLanes,
               out_stride);
  if (block < blocks)
    rows_of<1>(x, row_stride, rows, weights + block * size, words, out + block * kLanes,
               out_stride);
}

// Of three bits, the next word's, the parity before it and the parity after the word behind it: 1
// if two of the two words and the parity are 1.
constexpr int kCarry = 0xd4;

// Reads each weight for two rows, and a word of a row for all blocks. The other way round, four
// rows for two blocks, takes a fifth longer: there GCC moves every parity.
template <int BLOCKS>
TARGET inline void tile_of_pairs(const uint64_t* x, int rows, const uint64_t* weights, int words,
                                 int32_t* out, size_t out_stride) {
  __m512i twos[2][BLOCKS], parity[2][BLOCKS];
  for (int r = 0; r < 2; ++r)
    for (int b = 0; b < BLOCKS; ++b) twos[r][b] = parity[r][b] = _mm512_setzero_si512();
  const size_t block = static_cast<size_t>(words) * kLanes;
  int k = 0;
  for (; k + 2 <= words; k += 2, x += 4)
    for (int b = 0; b < BLOCKS; ++b) {
      const uint64_t* at = weights + b * block + static_cast<size_t>(k) * kLanes;
      const __m512i w = _mm512_loadu_si512(at), prefix = _mm512_loadu_si512(at + kLanes);
      for (int r = 0; r < 2; ++r) {
        const __m512i first = _mm512_xor_si512(w, in_all_lanes(x[r]));
        const __m512i after = _mm512_xor_si512(prefix, in_all_lanes(x[2 + r]));
        const __m512i carry = _mm512_ternarylogic_epi64(first, parity[r][b], after, kCarry);
        twos[r][b] = _mm512_add_epi64(twos[r][b], _mm512_popcnt_epi64(carry));
        parity[r][b] = after;
      }
    }
  for (int b = 0; b < BLOCKS; ++b)
    for (int r = 0; r < rows; ++r) {
      __m512i sum = _mm512_add_epi64(_mm512_slli_epi64(twos[r][b], 1),
                                     _mm512_popcnt_epi64(parity[r][b]));
      if (k < words) {
        const __m512i w = _mm512_loadu_si512(weights + b * block + size_t{1} * k * kLanes);
        sum = _mm512_add_epi64(sum, _mm512_popcnt_epi64(_mm512_xor_si512(w, in_all_lanes(x[r]))));
      }
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + r * out_stride + b * kLanes),
                          _mm512_cvtepi64_epi32(sum));
    }
}

template <int BLOCKS>
TARGET inline void rows_of_pairs(const uint64_t* x, int rows, const uint64_t* weights, int words,
                                 int32_t* out, size_t out_stride) {
  for (int row = 0; row < rows; row += 2)
    tile_of_pairs<BLOCKS>(x + static_cast<size_t>(row) * words, rows - row < 2 ? 1 : 2, weights,
                          words, out + row * out_stride, out_stride);
}

// Replaces each second word of rows by the xor of all words up to it, and puts two rows side by
// side, [rows / 2][word][2].
TARGET void pair_rows(const uint64_t* x, int rows, int words, uint64_t* to) {
  for (int row = 0; row < rows; row += 2, x += size_t{2} * words) {
    const uint64_t* other = row + 1 < rows ? x + words : x;
    __m128i prefix = _mm_setzero_si128();
    int k = 0;
    for (; k + 2 <= words; k += 2, to += 4) {
      const __m128i a = _mm_loadu_si128(reinterpret_cast<const __m128i*>(x + k));
      const __m128i b = _mm_loadu_si128(reinterpret_cast<const __m128i*>(other + k));
      const __m128i first = _mm_unpacklo_epi64(a, b);
      prefix = _mm_xor_si128(prefix, _mm_xor_si128(first, _mm_unpackhi_epi64(a, b)));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to), first);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 2), prefix);
    }
    if (k < words) *to++ = x[k], *to++ = other[k];
  }
}

TARGET void count_pairs(const uint64_t* x, int rows, const uint64_t* weights, int words,
                        int blocks, uint64_t* room, int32_t* out, size_t out_stride) {
  const size_t size = static_cast<size_t>(words) * kLanes;
  pair_rows(x, rows, words, room);
  int block = 0;
  for (; block + 4 <= blocks; block += 4)
    rows_of_pairs<4>(room, rows, weights + block * size, words, out + block * kLanes, out_stride);
  for (; block + 2 <= blocks; block += 2)
    rows_of_pairs<2>(room, rows, weights + block * size, words, out + block * kLanes, out_stride);
  if (block < blocks)
    rows_of_pairs<1>(room, rows, weights + block * size, words, out + block * kLanes, out_stride);
}

TARGET_WITHOUT_POPCOUNT uint64_t compare(const float* x, int count, float threshold,
                                         int* found) {
  const __m512 limit = _mm512_set1_ps(threshold);
  const __m512 one = _mm512_set1_ps(1.0f);
  uint64_t bits = 0;
  unsigned other = 0, nan = 0;
  for (int i = 0; i < count; i += 16) {
    const int left = count - i;
    const __mmask16 valid = left >= 16 ? 0xffff : static_cast<__mmask16>((1u << left) - 1);
    const __m512 v = _mm512_maskz_loadu_ps(valid, x + i);
    const __mmask16 above = _mm512_mask_cmp_ps_mask(valid, v, limit, _CMP_GT_OQ);
    other |= _mm512_mask_cmp_ps_mask(valid, _mm512_abs_ps(v), one, _CMP_NEQ_UQ);
    nan |= _mm512_mask_cmp_ps_mask(valid, v, v, _CMP_UNORD_Q);
    bits |= static_cast<uint64_t>(above) << i;
  }
  *found |= (other ? kOther : 0) | (nan ? kNaN : 0);
  return bits;
}

BEGIN_TARGET("avx512f,avx512vl,avx512dq,avx512bw")

namespace wide {

constexpr int kWidth = 16;
constexpr bool kManyRegisters = true;
using V = __m512;
inline V load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, V x) { _mm512_storeu_ps(p, x); }
inline V set(float x) { return _mm512_set1_ps(x); }
inline V add(V a, V b) { return _mm512_add_ps(a, b); }
inline V sub(V a, V b) { return _mm512_sub_ps(a, b); }
inline V mul(V a, V b) { return _mm512_mul_ps(a, b); }
inline V fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
inline V max(V a, V b) { return _mm512_max_ps(a, b); }
inline V min(V a, V b) { return _mm512_min_ps(a, b); }
inline unsigned above(V a, V b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
inline V prelu(V a, V b) {
  return _mm512_mask_mul_ps(a, _mm512_cmp_ps_mask(a, _mm512_setzero_ps(), _CMP_LT_OQ), a, b);
}
inline V if_above(V a, V limit, V b, V c) {
  return _mm512_mask_mov_ps(c, _mm512_cmp_ps_mask(a, limit, _CMP_GT_OQ), b);
}
inline V widen(const int16_t* p) {
  const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(x));
}

#include "vector_kernels.inc"

}  // namespace wide

END_TARGET

}  // namespace

const Kernels kAmx = {
    "amx", has_matrices, count, count_pairs, nullptr, spread, multiply_bytes, compare,
#include "shared_entries.inc"
};
const Kernels kAvx512 = {
    "avx512", has_popcount, count, count_pairs, nullptr, nullptr, nullptr, compare,
#include "shared_entries.inc"
};
const Kernels kAvx512bw = {
    "avx512bw", has_vectors, count_by_bytes, nullptr, count_nibbles, nullptr, nullptr, compare,
#include "shared_entries.inc"
};

}  // namespace mmesbnn

#else

namespace mmesbnn {
const Kernels kAmx = {"amx", [] { return false; }};
const Kernels kAvx512 = {"avx512", [] { return false; }};
const Kernels kAvx512bw = {"avx512bw", [] { return false; }};
}  // namespace mmesbnn

#endif
