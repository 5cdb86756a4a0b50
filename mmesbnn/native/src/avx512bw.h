// Counts for processors with AVX-512 that lack VPOPCNTDQ; see Kernels::count and count_nibbles.
#pragma once

#include <cstddef>
#include <cstdint>

namespace mmesbnn {

void count_by_bytes(const uint64_t* x, size_t row_stride, int rows, const uint64_t* weights,
                    int words, int blocks, int32_t* out, size_t out_stride);

void count_nibbles(const uint64_t* x, size_t row_stride, int rows, const uint8_t* weights,
                   int words, int groups, int32_t* out, size_t out_stride);

}  // namespace mmesbnn
