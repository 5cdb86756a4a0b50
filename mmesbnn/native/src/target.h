// Functions between BEGIN_TARGET and END_TARGET may use instructions that not all processors have.
#pragma once

#include <cstddef>

#define MMESBNN_PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define BEGIN_TARGET(names) \
  MMESBNN_PRAGMA(clang attribute push(__attribute__((target(names))), apply_to = function))
#define END_TARGET _Pragma("clang attribute pop")
#else
#define BEGIN_TARGET(names) \
  _Pragma("GCC push_options") MMESBNN_PRAGMA(GCC target(names))
#define END_TARGET _Pragma("GCC pop_options")
#endif

// Asks for `count` cache lines, `step` bytes apart, which need not exist. Not inline: in a loop of
// vector instructions, compilers would use their registers differently. Without the empty
// instruction GCC leaves out the calls, as those of a function without effects.
#if defined(__GNUC__)
[[maybe_unused, gnu::noinline]] static void fetch(const char* at, size_t step, int count) {
  for (int i = 0; i < count; ++i) __builtin_prefetch(at + i * step, 1);
  asm volatile("");
}

// Lets a place be computed when it is needed. GCC computes those of all pixels before the first
// one is read, more than there are registers.
inline void one_by_one(const char*& at) { asm("" : "+r"(at)); }
#else
inline void fetch(const char*, size_t, int) {}
inline void one_by_one(const char*&) {}
#endif
