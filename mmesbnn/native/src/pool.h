// Threads that share the work of a call: our own, which wait for work and whose number is the
// largest that a call has requested, or those of another library's OpenMP.
#pragma once

#include <cstdint>
#include <functional>

namespace mmesbnn {

// Calls work(first, last) for parts of [0, total), on up to `threads` threads, and waits for all.
void parallel(int64_t total, int threads, const std::function<void(int64_t, int64_t)>& work);

// While it lives, this thread does not use those of OpenMP.
class OwnThreads {
 public:
  OwnThreads();
  ~OwnThreads();
};

}  // namespace mmesbnn
