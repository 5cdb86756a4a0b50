// What both gradients of a binary convolution share: signs as entries of tables, and their sums.
#pragma once

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>

#include "arguments.h"
#include "kernels.h"
#include "transpose.h"

static_assert(mmesbnn::kSumTerms == 8, "signs of a row are the bytes of a word");

namespace mmesbnn {

// Bit i of a byte in byte i of a word.
struct SpreadBits {
  uint64_t of[256] = {};
  constexpr SpreadBits() {
    for (int byte = 0; byte < 256; ++byte)
      for (int i = 0; i < 8; ++i) of[byte] |= uint64_t(byte >> i & 1) << 8 * i;
  }
};
inline constexpr SpreadBits kSpreadBits;

constexpr int kWordRows = 64;
constexpr int kWordSigns = kWordRows * kSumTerms;

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
