// What both gradients of a binary convolution share: signs as entries of tables, and their sums.
#pragma once

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>

#include "arguments.h"
#include "kernels.h"
#include "transpose.h"

#if defined(__SSE2__) && defined(__x86_64__)
#include <emmintrin.h>
#endif

static_assert(mmesbnn::kSumTerms == 8, "signs of a row are the bytes of a word");

namespace mmesbnn {

constexpr int kWordRows = 64;
constexpr int kWordSigns = kWordRows * kSumTerms;

#if defined(__SSE2__) && defined(__x86_64__)

// Adds `value` to the 64 bytes whose bit in a word is 1.
inline void add_bits(uint64_t word, char value, __m128i bytes[4]) {
  const __m128i places = _mm_set1_epi64x(static_cast<long long>(0x8040201008040201u));
  const __m128i all = _mm_cvtsi64_si128(static_cast<long long>(word));
  const __m128i twice = _mm_unpacklo_epi8(all, all);
  const __m128i four[2] = {_mm_unpacklo_epi16(twice, twice), _mm_unpackhi_epi16(twice, twice)};
  for (int i = 0; i < 4; ++i) {
    const __m128i eight = i % 2 ? _mm_unpackhi_epi32(four[i / 2], four[i / 2])
                                : _mm_unpacklo_epi32(four[i / 2], four[i / 2]);
    const __m128i ones = _mm_cmpeq_epi8(_mm_and_si128(eight, places), places);
    bytes[i] = _mm_or_si128(bytes[i], _mm_and_si128(ones, _mm_set1_epi8(value)));
  }
}

// rows[i][8 j + t] = byte j of columns[t], for the two bytes of a row i < 8.
inline void interleave(const __m128i columns[kSumTerms], __m128i rows[8]) {
  __m128i pairs[8], fours[8];
  for (int i = 0; i < 4; ++i) {
    pairs[i] = _mm_unpacklo_epi8(columns[2 * i], columns[2 * i + 1]);
    pairs[4 + i] = _mm_unpackhi_epi8(columns[2 * i], columns[2 * i + 1]);
  }
  for (int half = 0; half < 2; ++half)
    for (int i = 0; i < 2; ++i) {
      const __m128i *left = pairs + 4 * half + 2 * i, *right = left + 1;
      fours[4 * half + i] = _mm_unpacklo_epi16(*left, *right);
      fours[4 * half + 2 + i] = _mm_unpackhi_epi16(*left, *right);
    }
  for (int i = 0; i < 4; ++i) {
    rows[2 * i] = _mm_unpacklo_epi32(fours[2 * i], fours[2 * i + 1]);
    rows[2 * i + 1] = _mm_unpackhi_epi32(fours[2 * i], fours[2 * i + 1]);
  }
}

// Writes kWordSigns bytes for Kernels::add_entries: byte t of row i has bit i of the four words of
// term t.
inline void write_signs(const uint64_t* const words[kSumTerms][4], uint8_t* to) {
  __m128i bytes[kSumTerms][4];
  for (int term = 0; term < kSumTerms; ++term) {
    for (__m128i& some : bytes[term]) some = _mm_setzero_si128();
    for (int i = 0; i < 4; ++i)
      add_bits(*words[term][i], static_cast<char>(kSumStep << i), bytes[term]);
  }
  for (int part = 0; part < 4; ++part) {
    __m128i columns[kSumTerms], rows[8];
    for (int term = 0; term < kSumTerms; ++term) columns[term] = bytes[term][part];
    interleave(columns, rows);
    std::memcpy(to + part * sizeof rows, rows, sizeof rows);
  }
}

#else

// Bit i of a byte in byte i of a word.
struct SpreadBits {
  uint64_t of[256] = {};
  constexpr SpreadBits() {
    for (int byte = 0; byte < 256; ++byte)
      for (int i = 0; i < 8; ++i) of[byte] |= uint64_t(byte >> i & 1) << 8 * i;
  }
};
inline constexpr SpreadBits kSpreadBits;

// Writes kWordSigns bytes for Kernels::add_entries: byte t of row i has bit i of the four words of
// term t.
inline void write_signs(const uint64_t* const words[kSumTerms][4], uint8_t* to) {
  for (int byte = 0; byte < 8; ++byte, to += 8 * kSumTerms) {
    uint64_t rows[kSumTerms];
    for (int term = 0; term < kSumTerms; ++term) {
      uint64_t four = 0;
      for (int i = 0; i < 4; ++i) four |= kSpreadBits.of[*words[term][i] >> 8 * byte & 255] << i;
      rows[term] = four * kSumStep;
    }
    transpose<8>(rows);
    std::memcpy(to, rows, sizeof rows);
  }
}

#endif

inline int64_t batches_for(int64_t terms) { return (terms + kSumTerms - 1) / kSumTerms; }

inline int terms_of_batch(int64_t batch, int64_t terms) {
  return static_cast<int>(std::min<int64_t>(kSumTerms, terms - batch * kSumTerms));
}

// Memory that a thread keeps from call to call, because new pages take as long as the sums of a
// small convolution. Pieces begin at a line of the cache and hold anything.
class Arena {
 public:
  // The arenas of this thread, all of whose memory is free: for a call, and for the parts of a call
  // that this thread computes.
  static Arena& of_a_call() {
    thread_local Arena arena;
    arena.used_ = 0;
    return arena;
  }
  static Arena& of_a_part() {
    thread_local Arena arena;
    arena.used_ = 0;
    return arena;
  }

  // To be called once, before all get(). Returns false if there is not enough memory.
  bool reserve(std::initializer_list<int64_t> bytes) {
    int64_t size = kLine;
    for (const int64_t piece : bytes) size += rounded(piece);
    if (size <= size_) return true;
    size_ = 0;
    memory_.reset();
    memory_.reset(new (std::nothrow) char[size]);
    if (memory_) size_ = size;
    return size_ > 0;
  }

  template <class T>
  T* get(int64_t count) {
    const int64_t first = rounded(reinterpret_cast<uintptr_t>(memory_.get())) -
                          static_cast<int64_t>(reinterpret_cast<uintptr_t>(memory_.get()));
    T* piece = reinterpret_cast<T*>(memory_.get() + first + used_);
    used_ += rounded(count * sizeof(T));
    return piece;
  }

 private:
  static constexpr int64_t kLine = 64;
  static int64_t rounded(int64_t bytes) { return (bytes + kLine - 1) / kLine * kLine; }

  std::unique_ptr<char[]> memory_;
  int64_t size_ = 0, used_ = 0;
};

// Rows that an item of work computes: so many that making a table takes little of its time, and so
// few that their sums fit in the second cache and every thread has items.
inline int64_t rows_of_an_item(int64_t rows, int64_t most, int64_t items, int threads) {
  int64_t size = std::min(rows, most);
  while (size > 32 && items * ((rows + size - 1) / size) < 2 * threads) size = (size + 1) / 2;
  return size;
}

}  // namespace mmesbnn
