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
constexpr int64_t kMostWords = 12;
// Words from the one that is multiplied to the one whose weights become bytes meanwhile.
constexpr int64_t kAhead = 2;
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
TARGET inline void spread_weights(const uint64_t* words, int8_t* to) {
  const __m512i plus = _mm512_set1_epi8(1), minus = _mm512_set1_epi8(-1);
  for (int i = 0; i < kMatrixRows; ++i)
    _mm512_store_si512(to + i * kRowBytes, _mm512_mask_blend_epi8(words[i], plus, minus));
}

// The words `begin` to `end` of windows, and room for their weights as bytes.
struct Piece {
  int64_t begin, end;
  int8_t *weights, *others;  // of the first half, and of the second one
};

template <bool kTwoHalves>
TARGET inline void spread_word(const ByteProducts& p, const Piece& piece, int64_t k) {
  if (k >= piece.end) return;
  const int64_t at = (k - piece.begin) * kMatrixBytes;
  spread_weights(p.weights + k * kMatrixRows, piece.weights + at);
  if (kTwoHalves) spread_weights(p.weights + (p.words + k) * kMatrixRows, piece.others + at);
}

// Adds the products of a piece to the sums of a strip, or of two. With kSpread its weights become
// bytes; the processor does that while the matrix units, which are slower, multiply others.
template <bool kTwoStrips, bool kTwoHalves, bool kSpread>
TARGET_MATRICES void add_products(const ByteProducts& p, const Piece& piece, int64_t strip) {
  const int8_t *const x = p.x + strip * kMatrixBytes, *const y = x + kMatrixBytes;
  int32_t* const of_x = p.out + strip * kMatrixRows * kMatrixLanes;
  int32_t* const of_y = of_x + kMatrixRows * kMatrixLanes;
  if (piece.begin == 0) {
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
  if constexpr (kSpread)
    for (int64_t k = 0; k < kAhead; ++k) spread_word<kTwoHalves>(p, piece, piece.begin + k);
  for (int64_t k = piece.begin; k < piece.end; ++k) {
    if constexpr (kSpread) spread_word<kTwoHalves>(p, piece, k + kAhead);
    asm volatile("" ::: "memory");  // the instructions do not say which memory they read
    const int64_t step = p.steps[k], at = (k - piece.begin) * kMatrixBytes;
    _tile_loadd(4, x + step, kRowBytes);
    _tile_loadd(6, piece.weights + at, kRowBytes);
    _tile_dpbssd(0, 4, 6);
    if constexpr (kTwoStrips) {
      _tile_loadd(5, y + step, kRowBytes);
      _tile_dpbssd(2, 5, 6);
    }
    if constexpr (kTwoHalves) {
      _tile_loadd(7, piece.others + at, kRowBytes);
      _tile_dpbssd(1, 4, 7);
      if constexpr (kTwoStrips) _tile_dpbssd(3, 5, 7);
    }
  }
  _tile_stored(0, of_x, kOutBytes);
  if constexpr (kTwoHalves) _tile_stored(1, of_x + kMatrixRows, kOutBytes);
  if constexpr (kTwoStrips) _tile_stored(2, of_y, kOutBytes);
  if constexpr (kTwoStrips && kTwoHalves) _tile_stored(3, of_y + kMatrixRows, kOutBytes);
}

template <bool kTwoHalves, bool kSpread>
int64_t add_strips(const ByteProducts& p, const Piece& piece, int64_t strip) {
  if (strip + 2 > p.strips)
    return add_products<false, kTwoHalves, kSpread>(p, piece, strip), strip + 1;
  return add_products<true, kTwoHalves, kSpread>(p, piece, strip), strip + 2;
}

template <bool kTwoHalves>
void multiply(const ByteProducts& p) {
  alignas(64) int8_t bytes[(kTwoHalves ? 2 : 1) * kMostWords * kMatrixBytes];
  int8_t* const others = bytes + (kTwoHalves ? kMostWords * kMatrixBytes : 0);
  for (int64_t begin = 0; begin < p.words; begin += kMostWords) {
    const int64_t end = begin + kMostWords < p.words ? begin + kMostWords : p.words;
    const Piece piece{begin, end, bytes, others};
    int64_t strip = add_strips<kTwoHalves, true>(p, piece, 0);
    while (strip < p.strips) strip = add_strips<kTwoHalves, false>(p, piece, strip);
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
