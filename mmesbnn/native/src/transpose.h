// A square of bits, or of groups of bits, on its side.
#pragma once

#include <cstdint>

namespace mmesbnn {

// Divides each row into COUNT groups of bits, the first one in its lowest bits, and swaps group j of
// row i with group i of row j.
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

}  // namespace mmesbnn
