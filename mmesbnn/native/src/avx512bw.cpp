// AVX-512 without VPOPCNTDQ: counts of half bytes come from a table, as with AVX2.
#include "avx512bw.h"

#include "kernels.h"

#if defined(__x86_64__) && defined(__GNUC__)

#include <immintrin.h>

#define TARGET __attribute__((target("avx512f,avx512vl,avx512dq,avx512bw")))

namespace mmesbnn {
namespace {

TARGET inline __m512i byte_counts(__m512i v, __m512i table, __m512i low) {
  const __m512i first = _mm512_shuffle_epi8(table, _mm512_and_si512(v, low));
  const __m512i second =
      _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16(v, 4), low));
  return _mm512_add_epi8(first, second);
}

// Bytes hold up to 255, so 31 counts of up to 8 fit before they are widened.
constexpr int kWordsInBytes = 31;

template <int ROWS>
TARGET inline void tile(const uint64_t* x, size_t row_stride, const uint64_t* weights, int words,
                        int32_t* out, size_t out_stride) {
  const __m512i table = _mm512_broadcast_i32x4(
      _mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
  const __m512i low = _mm512_set1_epi8(15), zero = _mm512_setzero_si512();
  __m512i sums[ROWS];
  for (__m512i& sum : sums) sum = zero;
  for (int begin = 0; begin < words; begin += kWordsInBytes) {
    const int end = begin + kWordsInBytes < words ? begin + kWordsInBytes : words;
    __m512i bytes[ROWS];
    for (__m512i& some : bytes) some = zero;
    for (int k = begin; k < end; ++k) {
      const __m512i w = _mm512_loadu_si512(weights + static_cast<size_t>(k) * kLanes);
      for (int r = 0; r < ROWS; ++r) {
        const __m512i entry = _mm512_set1_epi64(static_cast<long long>(x[r * row_stride + k]));
        bytes[r] = _mm512_add_epi8(bytes[r], byte_counts(_mm512_xor_si512(entry, w), table, low));
      }
    }
    for (int r = 0; r < ROWS; ++r)
      sums[r] = _mm512_add_epi64(sums[r], _mm512_sad_epu8(bytes[r], zero));
  }
  for (int r = 0; r < ROWS; ++r)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + r * out_stride),
                        _mm512_cvtepi64_epi32(sums[r]));
}

// The number of differing bits of each half of a byte and any four bits, twice: for the lanes of
// a half that lie side by side.
struct Tables {
  alignas(64) uint8_t differing[256][2][2][16] = {};
  constexpr Tables() {
    for (int byte = 0; byte < 256; ++byte)
      for (int half = 0; half < 2; ++half)
        for (int other = 0; other < 16; ++other) {
          const int bits = (byte >> 4 * half & 15) ^ other;
          differing[byte][half][0][other] = differing[byte][half][1][other] =
              static_cast<uint8_t>((bits & 1) + (bits >> 1 & 1) + (bits >> 2 & 1) + (bits >> 3));
        }
  }
};
constexpr Tables kTables;

// Bytes hold up to 255, so 63 counts of up to 4 fit before they are widened. A register has a
// byte for each half, so that is seven words.
constexpr int kWordsOfNibbles = 7;

TARGET inline __m512i table_of(uint8_t byte) {
  return _mm512_load_si512(kTables.differing[byte]);
}

// Adds sums of 16 bits of both halves of bytes, and writes them as 32 bits.
TARGET inline void write_lanes(__m512i sums, int32_t* to) {
  const __m256i both =
      _mm256_add_epi16(_mm512_castsi512_si256(sums), _mm512_extracti64x4_epi64(sums, 1));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                      _mm256_cvtepu16_epi32(_mm256_castsi256_si128(both)));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + 16),
                      _mm256_cvtepu16_epi32(_mm256_extracti128_si256(both, 1)));
}

template <int ROWS, int GROUPS>
TARGET inline void tile_of_nibbles(const uint64_t* x, size_t row_stride, const uint8_t* weights,
                                   int words, int32_t* out, size_t out_stride) {
  const __m512i zero = _mm512_setzero_si512();
  const size_t word_size = 16 * kNibbleLanes, group_size = words * word_size;
  // of 16 bits; unpacking divides the lanes into 0-7 and 16-23, 8-15 and 24-31
  __m512i sums[ROWS][GROUPS][2];
  for (int r = 0; r < ROWS; ++r)
    for (int g = 0; g < GROUPS; ++g) sums[r][g][0] = sums[r][g][1] = zero;
  for (int begin = 0; begin < words; begin += kWordsOfNibbles) {
    const int end = begin + kWordsOfNibbles < words ? begin + kWordsOfNibbles : words;
    __m512i bytes[ROWS][GROUPS];
    for (int r = 0; r < ROWS; ++r)
      for (int g = 0; g < GROUPS; ++g) bytes[r][g] = zero;
    for (int at = 8 * begin; at < 8 * end; ++at) {
      __m512i w[GROUPS];
      for (int g = 0; g < GROUPS; ++g)
        w[g] = _mm512_loadu_si512(weights + g * group_size + at * size_t{2 * kNibbleLanes});
      for (int r = 0; r < ROWS; ++r) {
        const __m512i table =
            table_of(reinterpret_cast<const uint8_t*>(x + r * row_stride)[at]);
        for (int g = 0; g < GROUPS; ++g)
          bytes[r][g] = _mm512_add_epi8(bytes[r][g], _mm512_shuffle_epi8(table, w[g]));
      }
    }
    for (int r = 0; r < ROWS; ++r)
      for (int g = 0; g < GROUPS; ++g) {
        sums[r][g][0] = _mm512_add_epi16(sums[r][g][0], _mm512_unpacklo_epi8(bytes[r][g], zero));
        sums[r][g][1] = _mm512_add_epi16(sums[r][g][1], _mm512_unpackhi_epi8(bytes[r][g], zero));
      }
  }
  for (int r = 0; r < ROWS; ++r)
    for (int g = 0; g < GROUPS; ++g)
      for (int part = 0; part < 2; ++part)
        write_lanes(sums[r][g][part], out + r * out_stride + g * kNibbleLanes + part * 8);
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

}  // namespace

TARGET void count_by_bytes(const uint64_t* x, size_t row_stride, int rows,
                           const uint64_t* weights, int words, int blocks, int32_t* out,
                           size_t out_stride) {
  const size_t size = static_cast<size_t>(words) * kLanes;
  for (int block = 0; block < blocks; ++block) {
    const uint64_t* w = weights + block * size;
    int32_t* target = out + static_cast<size_t>(block) * kLanes;
    int row = 0;
    for (; row + 4 <= rows; row += 4)
      tile<4>(x + row * row_stride, row_stride, w, words, target + row * out_stride, out_stride);
    for (; row < rows; ++row)
      tile<1>(x + row * row_stride, row_stride, w, words, target + row * out_stride, out_stride);
  }
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

}  // namespace mmesbnn

#endif
