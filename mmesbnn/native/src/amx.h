// Matrix registers of x86 processors; see Kernels::spread and Kernels::multiply_bytes.
#pragma once

#include "kernels.h"

namespace mmesbnn {

// Asks the system for matrix registers, which are large; false: it or the processor has none.
bool may_use_amx();

void spread(const uint64_t* words, int64_t step, int64_t count, uint64_t valid, int8_t* out);

void multiply_bytes(const ByteProducts& products);

}  // namespace mmesbnn
