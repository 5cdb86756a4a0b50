// AMX. A matrix register has 16 rows of 64 bytes. An instruction adds the products of two of them,
// 16 x 64 bytes and 64 x 16 bytes, to a third one, of 16 x 16 numbers, in 16 cycles.
#include "amx.h"

#if defined(__x86_64__) && defined(__linux__) && (__GNUC__ >= 11 || __clang_major__ >= 12)

#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#define TARGET __attribute__((target("avx512f,avx512bw")))
#define TARGET_MATRICES __attribute__((target("avx512f,avx512bw,amx-tile,amx-int8")))

namespace mmesbnn {
namespace {

constexpr int kRowBytes = 64, kMatrixBytes = kMatrixRows * kRowBytes;
// Words of a window whose weights, as bytes, leave room in the first cache.
constexpr int64_t kMostWords = 9;
constexpr int64_t kOutBytes = kMatrixLanes * sizeof(int32_t);

// What an instruction gets to set the sizes of matrix registers.
struct Sizes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

// Registers: 0 to 3 are sums, 4 and 5 pixels, and 6 and 7 weights.
TARGET_MATRICES void set_sizes() {
  alignas(64) Sizes sizes;
  for (int i = 0; i < 8; ++i) {
    sizes.row_bytes[i] = kRowBytes;
    sizes.rows[i] = kMatrixRows;
  }
  // GCC 12 does not know that the next instruction reads all of them
  asm volatile("" ::"r"(&sizes) : "memory");
  _tile_loadconfig(&sizes);
}

// Weights are negated, so that 0 stands for 1 also in kernels that do not exist.
TARGET void spread_weights(const uint64_t* words, int64_t rows, int8_t* to) {
  const __m512i plus = _mm512_set1_epi8(1), minus = _mm512_set1_epi8(-1);
  for (int64_t i = 0; i < rows; ++i)
    _mm512_store_si512(to + i * kRowBytes, _mm512_mask_blend_epi8(words[i], plus, minus));
}

// Adds the products of some words to the sums of a strip, or of two.
template <bool kTwoStrips, bool kTwoHalves>
TARGET_MATRICES inline void add_products(const ByteProducts& p, int64_t strip, int64_t begin,
                                         int64_t end, const int8_t* weights,
                                         const int8_t* others) {
  const int8_t *const x = p.x + strip * kMatrixBytes, *const y = x + kMatrixBytes;
  int32_t* const of_x = p.out + strip * kMatrixRows * kMatrixLanes;
  int32_t* const of_y = of_x + kMatrixRows * kMatrixLanes;
  if (begin == 0) {
    _tile_zero(0);
    if constexpr (kTwoHalves) _tile_zero(1);
    if constexpr (kTwoStrips) _tile_zero(2);
    if constexpr (kTwoStrips && kTwoHalves) _tile_zero(3);
  } else {
    _tile_loadd(0, of_x, kOutBytes);
    if constexpr (kTwoHalves) _tile_loadd(1, of_x + kMatrixRows, kOutBytes);
    if constexpr (kTwoStrips) _tile_loadd(2, of_y, kOutBytes);
    if constexpr (kTwoStrips && kTwoHalves) _tile_loadd(3, of_y + kMatrixRows, kOutBytes);
  }
  asm volatile("" ::: "memory");  // the instructions do not say which memory they read
  for (int64_t k = begin; k < end; ++k, weights += kMatrixBytes, others += kMatrixBytes) {
    const int64_t step = p.steps[k];
    _tile_loadd(4, x + step, kRowBytes);
    _tile_loadd(6, weights, kRowBytes);
    _tile_dpbssd(0, 4, 6);
    if constexpr (kTwoStrips) {
      _tile_loadd(5, y + step, kRowBytes);
      _tile_dpbssd(2, 5, 6);
    }
    if constexpr (kTwoHalves) {
      _tile_loadd(7, others, kRowBytes);
      _tile_dpbssd(1, 4, 7);
      if constexpr (kTwoStrips) _tile_dpbssd(3, 5, 7);
    }
  }
  _tile_stored(0, of_x, kOutBytes);
  if constexpr (kTwoHalves) _tile_stored(1, of_x + kMatrixRows, kOutBytes);
  if constexpr (kTwoStrips) _tile_stored(2, of_y, kOutBytes);
  if constexpr (kTwoStrips && kTwoHalves) _tile_stored(3, of_y + kMatrixRows, kOutBytes);
}

template <bool kTwoHalves>
void multiply(const ByteProducts& p) {
  alignas(64) int8_t bytes[(kTwoHalves ? 2 : 1) * kMostWords * kMatrixBytes];
  int8_t* const others = bytes + (kTwoHalves ? kMostWords * kMatrixBytes : 0);
  for (int64_t begin = 0; begin < p.words; begin += kMostWords) {
    const int64_t end = begin + kMostWords < p.words ? begin + kMostWords : p.words;
    const uint64_t* weights = p.weights + begin * kMatrixRows;
    spread_weights(weights, (end - begin) * kMatrixRows, bytes);
    if (kTwoHalves)
      spread_weights(weights + p.words * kMatrixRows, (end - begin) * kMatrixRows, others);
    int64_t strip = 0;
    for (; strip + 2 <= p.strips; strip += 2)
      add_products<true, kTwoHalves>(p, strip, begin, end, bytes, others);
    if (strip < p.strips)
      add_products<false, kTwoHalves>(p, strip, begin, end, bytes, others);
  }
}

TARGET_MATRICES void release() { _tile_release(); }

bool has_amx() {
  constexpr unsigned kTiles = 1u << 24, kInt8 = 1u << 25;
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & kTiles) && (d & kInt8);
}

}  // namespace

bool may_use_amx() {
  constexpr int kAskForState = 0x1023, kMatrices = 18;
  static const bool may = has_amx() && syscall(SYS_arch_prctl, kAskForState, kMatrices) == 0;
  return may;
}

TARGET void spread(const uint64_t* words, int64_t step, int64_t count, uint64_t valid,
                   int8_t* out) {
  const __m512i plus = _mm512_maskz_set1_epi8(valid, 1);
  const __m512i minus = _mm512_maskz_set1_epi8(valid, -1);
  for (int64_t i = 0; i < count; ++i)
    _mm512_storeu_si512(out + i * kRowBytes,
                        _mm512_mask_blend_epi8(words[i * step], minus, plus));
}

void multiply_bytes(const ByteProducts& products) {
  set_sizes();
  products.halves == 2 ? multiply<true>(products) : multiply<false>(products);
  release();
}

}  // namespace mmesbnn

#else

namespace mmesbnn {
bool may_use_amx() { return false; }
void spread(const uint64_t*, int64_t, int64_t, uint64_t, int8_t*) {}
void multiply_bytes(const ByteProducts&) {}
}  // namespace mmesbnn

#endif
