// Macros and return values of the C interface.
#pragma once

#if defined(_WIN32)
#define API extern "C" __declspec(dllexport)
#else
#define API extern "C" __attribute__((visibility("default")))
#endif

namespace mmesbnn {
namespace status {

enum Status { kOk = 0, kBadSize = -1, kNoMemory = -2, kNotBinary = 1 };

}  // namespace status
}  // namespace mmesbnn
