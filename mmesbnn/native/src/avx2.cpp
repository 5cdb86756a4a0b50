// AVX2: counts of half bytes come from a table in a register.
#include <cmath>
#include <cstring>
#include <initializer_list>

#include "kernels.h"
#include "target.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include <immintrin.h>

#define TARGET __attribute__((target("avx2")))

namespace mmesbnn {
namespace {

bool supported() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

TARGET inline __m256i byte_counts(__m256i v, __m256i table, __m256i low) {
  const __m256i first = _mm256_shuffle_epi8(table, _mm256_and_si256(v, low));
  const __m256i second =
      _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(v, 4), low));
  return _mm256_add_epi8(first, second);
}

// Bytes hold up to 255, so 31 counts of up to 8 fit before they are widened.
constexpr int kWordsInBytes = 31;

template <int ROWS>
TARGET inline void tile(const uint64_t* x, size_t row_stride, const uint64_t* weights, int words,
                        int32_t* out, size_t out_stride) {
  const __m256i table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1,
                                         2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
  const __m256i low = _mm256_set1_epi8(15);
  const __m256i zero = _mm256_setzero_si256();
  __m256i sums[ROWS][2];
  for (int r = 0; r < ROWS; ++r) sums[r][0] = sums[r][1] = zero;
  for (int begin = 0; begin < words; begin += kWordsInBytes) {
    const int end = begin + kWordsInBytes < words ? begin + kWordsInBytes : words;
    __m256i bytes[ROWS][2];
    for (int r = 0; r < ROWS; ++r) bytes[r][0] = bytes[r][1] = zero;
    for (int k = begin; k < end; ++k) {
      const auto* w = reinterpret_cast<const __m256i*>(weights + static_cast<size_t>(k) * kLanes);
      const __m256i left = _mm256_loadu_si256(w);
      const __m256i right = _mm256_loadu_si256(w + 1);
      for (int r = 0; r < ROWS; ++r) {
        const __m256i entry = _mm256_set1_epi64x(static_cast<long long>(x[r * row_stride + k]));
        bytes[r][0] = _mm256_add_epi8(bytes[r][0],
                                      byte_counts(_mm256_xor_si256(entry, left), table, low));
        bytes[r][1] = _mm256_add_epi8(bytes[r][1],
                                      byte_counts(_mm256_xor_si256(entry, right), table, low));
      }
    }
    for (int r = 0; r < ROWS; ++r)
      for (int half = 0; half < 2; ++half)
        sums[r][half] = _mm256_add_epi64(sums[r][half], _mm256_sad_epu8(bytes[r][half], zero));
  }
  for (int r = 0; r < ROWS; ++r) {
    for (int half = 0; half < 2; ++half) {
      alignas(32) int64_t wide[4];
      _mm256_store_si256(reinterpret_cast<__m256i*>(wide), sums[r][half]);
      for (int i = 0; i < 4; ++i)
        out[r * out_stride + half * 4 + i] = static_cast<int32_t>(wide[i]);
    }
  }
}

TARGET void count(const uint64_t* x, size_t row_stride, int rows, const uint64_t* weights,
                  int words, int blocks, int32_t* out, size_t out_stride) {
  const size_t size = static_cast<size_t>(words) * kLanes;
  for (int block = 0; block < blocks; ++block) {
    const uint64_t* w = weights + block * size;
    int32_t* target = out + static_cast<size_t>(block) * kLanes;
    int row = 0;
    for (; row + 2 <= rows; row += 2)
      tile<2>(x + row * row_stride, row_stride, w, words, target + row * out_stride, out_stride);
    for (; row < rows; ++row)
      tile<1>(x + row * row_stride, row_stride, w, words, target + row * out_stride, out_stride);
  }
}

// The number of differing bits of each half of a byte and any four bits.
struct Tables {
  alignas(32) uint8_t differing[256][2][16] = {};
  constexpr Tables() {
    for (int byte = 0; byte < 256; ++byte)
      for (int half = 0; half < 2; ++half)
        for (int other = 0; other < 16; ++other) {
          const int bits = (byte >> 4 * half & 15) ^ other;
          differing[byte][half][other] =
              static_cast<uint8_t>((bits & 1) + (bits >> 1 & 1) + (bits >> 2 & 1) + (bits >> 3));
        }
  }
};
constexpr Tables kTables;

// Bytes hold up to 255, so 63 counts of up to 4 fit before they are widened: three words.
constexpr int kWordsOfNibbles = 3;

TARGET inline __m256i table_of(const uint8_t* table) {
  return _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(table)));
}

template <int ROWS, int GROUPS>
TARGET inline void tile_of_nibbles(const uint64_t* x, size_t row_stride, const uint8_t* weights,
                                   int words, int32_t* out, size_t out_stride) {
  const __m256i zero = _mm256_setzero_si256();
  const size_t word_size = 16 * kNibbleLanes, group_size = words * word_size;
  // of 16 bits; unpacking divides the lanes into 0-7 and 16-23, 8-15 and 24-31
  __m256i sums[ROWS][GROUPS][2];
  for (int r = 0; r < ROWS; ++r)
    for (int g = 0; g < GROUPS; ++g) sums[r][g][0] = sums[r][g][1] = zero;
  for (int begin = 0; begin < words; begin += kWordsOfNibbles) {
    const int end = begin + kWordsOfNibbles < words ? begin + kWordsOfNibbles : words;
    __m256i bytes[ROWS][GROUPS];
    for (int r = 0; r < ROWS; ++r)
      for (int g = 0; g < GROUPS; ++g) bytes[r][g] = zero;
    for (int at = 8 * begin; at < 8 * end; ++at) {
      const uint8_t(*tables[ROWS])[16];
      for (int r = 0; r < ROWS; ++r)
        tables[r] = kTables.differing[reinterpret_cast<const uint8_t*>(x + r * row_stride)[at]];
      for (int half = 0; half < 2; ++half) {
        __m256i w[GROUPS];
        for (int g = 0; g < GROUPS; ++g) {
          w[g] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(
              weights + g * group_size + (2 * at + half) * size_t{kNibbleLanes}));
          // in a register, or compilers read it once for each row
          __asm__("" : "+x"(w[g]));
        }
        for (int r = 0; r < ROWS; ++r) {
          const __m256i table = table_of(tables[r][half]);
          for (int g = 0; g < GROUPS; ++g)
            bytes[r][g] = _mm256_add_epi8(bytes[r][g], _mm256_shuffle_epi8(table, w[g]));
        }
      }
    }
    for (int r = 0; r < ROWS; ++r)
      for (int g = 0; g < GROUPS; ++g) {
        sums[r][g][0] =
            _mm256_add_epi16(sums[r][g][0], _mm256_unpacklo_epi8(bytes[r][g], zero));
        sums[r][g][1] =
            _mm256_add_epi16(sums[r][g][1], _mm256_unpackhi_epi8(bytes[r][g], zero));
      }
  }
  for (int r = 0; r < ROWS; ++r)
    for (int g = 0; g < GROUPS; ++g)
      for (int part = 0; part < 2; ++part) {
        int32_t* to = out + r * out_stride + g * kNibbleLanes + part * 8;
        const __m256i both = sums[r][g][part];
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                            _mm256_cvtepu16_epi32(_mm256_castsi256_si128(both)));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + 16),
                            _mm256_cvtepu16_epi32(_mm256_extracti128_si256(both, 1)));
      }
}

template <int GROUPS>
TARGET inline void rows_of_nibbles(const uint64_t* x, size_t row_stride, int rows,
                                   const uint8_t* weights, int words, int32_t* out,
                                   size_t out_stride) {
  int row = 0;
  for (; row + 4 <= rows; row += 4)
    tile_of_nibbles<4, GROUPS>(x + row * row_stride, row_stride, weights, words,
                               out + row * out_stride, out_stride);
  for (; row < rows; ++row)
    tile_of_nibbles<1, GROUPS>(x + row * row_stride, row_stride, weights, words,
                               out + row * out_stride, out_stride);
}

TARGET void count_nibbles(const uint64_t* x, size_t row_stride, int rows, const uint8_t* weights,
                          int words, int groups, int32_t* out, size_t out_stride) {
  const size_t size = static_cast<size_t>(words) * 16 * kNibbleLanes;
  int group = 0;
  for (; group + 2 <= groups; group += 2)
    rows_of_nibbles<2>(x, row_stride, rows, weights + group * size, words,
                       out + group * kNibbleLanes, out_stride);
  if (group < groups)
    rows_of_nibbles<1>(x, row_stride, rows, weights + group * size, words,
                       out + group * kNibbleLanes, out_stride);
}

TARGET uint64_t compare(const float* x, int count, float threshold, int* found) {
  const __m256 limit = _mm256_set1_ps(threshold);
  const __m256 one = _mm256_set1_ps(1.0f);
  const __m256 sign = _mm256_set1_ps(-0.0f);
  __m256 other = _mm256_setzero_ps(), nan = other;
  uint64_t bits = 0;
  int i = 0;
  for (; i + 8 <= count; i += 8) {
    const __m256 v = _mm256_loadu_ps(x + i);
    const __m256 size = _mm256_andnot_ps(sign, v);
    other = _mm256_or_ps(other, _mm256_cmp_ps(size, one, _CMP_NEQ_UQ));
    nan = _mm256_or_ps(nan, _mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    bits |= static_cast<uint64_t>(static_cast<unsigned>(
                _mm256_movemask_ps(_mm256_cmp_ps(v, limit, _CMP_GT_OQ))))
            << i;
  }
  *found |= (_mm256_movemask_ps(other) ? kOther : 0) | (_mm256_movemask_ps(nan) ? kNaN : 0);
  if (i < count) {
    const uint64_t rest = kPortable.compare(x + i, count - i, threshold, found);
    bits |= rest << i;
  }
  return bits;
}

BEGIN_TARGET("avx2,fma")

namespace wide {

constexpr int kWidth = 8;
constexpr bool kManyRegisters = false;
using V = __m256;
inline V load(const float* p) { return _mm256_loadu_ps(p); }
inline void store(float* p, V x) { _mm256_storeu_ps(p, x); }
inline V set(float x) { return _mm256_set1_ps(x); }
inline V add(V a, V b) { return _mm256_add_ps(a, b); }
inline V sub(V a, V b) { return _mm256_sub_ps(a, b); }
inline V mul(V a, V b) { return _mm256_mul_ps(a, b); }
inline V fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
inline V max(V a, V b) { return _mm256_max_ps(a, b); }
inline V min(V a, V b) { return _mm256_min_ps(a, b); }
inline unsigned above(V a, V b) {
  return static_cast<unsigned>(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GT_OQ)));
}
inline V prelu(V a, V b) {
  const V negative = _mm256_cmp_ps(a, _mm256_setzero_ps(), _CMP_LT_OQ);
  return _mm256_blendv_ps(a, _mm256_mul_ps(a, b), negative);
}
inline V if_above(V a, V limit, V b, V c) {
  return _mm256_blendv_ps(c, b, _mm256_cmp_ps(a, limit, _CMP_GT_OQ));
}
inline V widen(const int16_t* p) {
  const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(x));
}

#include "vector_kernels.inc"

}  // namespace wide

END_TARGET

}  // namespace

const Kernels kAvx2 = {
    "avx2", supported, count, nullptr, count_nibbles, nullptr, nullptr, compare,
#include "shared_entries.inc"
};

}  // namespace mmesbnn

#else

namespace mmesbnn {
const Kernels kAvx2 = {"avx2", [] { return false; }};
}  // namespace mmesbnn

#endif
