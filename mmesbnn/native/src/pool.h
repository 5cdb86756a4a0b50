// Threads that wait for work. Their number is the largest that a call has requested.
#pragma once

#include <cstdint>
#include <functional>

namespace mmesbnn {

// Calls work(first, last) for parts of [0, total), on up to `threads` threads, and waits for all.
void parallel(int64_t total, int threads, const std::function<void(int64_t, int64_t)>& work);

}  // namespace mmesbnn
