// The choice of an instruction set.
#include <atomic>
#include <cstring>

#include "api.h"
#include "kernels.h"

using mmesbnn::Kernels;
using namespace mmesbnn::status;

namespace {

// Fastest first.
const Kernels* const kAll[] = {&mmesbnn::kAmx,  &mmesbnn::kAvx512, &mmesbnn::kAvx512bw,
                               &mmesbnn::kAvx2, &mmesbnn::kNeon,   &mmesbnn::kPortable};
std::atomic<const Kernels*> chosen{nullptr};

}  // namespace

const Kernels& mmesbnn::chosen_kernels() {
  const Kernels* now = chosen.load();
  if (now == nullptr) {
    for (const Kernels* each : kAll) {
      if (each->supported()) {
        now = each;
        break;
      }
    }
    chosen.store(now);
  }
  return *now;
}

// Names of the instruction sets that this processor has, the fastest first, with commas between.
API int mmesbnn_instruction_sets(char* names, size_t size) {
  size_t used = 0;
  for (const Kernels* each : kAll) {
    if (!each->supported()) continue;
    const size_t length = std::strlen(each->name);
    if (used + length + 2 > size) return kBadSize;
    if (used != 0) names[used++] = ',';
    std::memcpy(names + used, each->name, length);
    used += length;
  }
  if (size == 0) return kBadSize;
  names[used] = '\0';
  return kOk;
}

API int mmesbnn_use(const char* name) {
  for (const Kernels* each : kAll) {
    if (std::strcmp(each->name, name) == 0 && each->supported()) {
      chosen.store(each);
      return kOk;
    }
  }
  return kBadSize;
}
