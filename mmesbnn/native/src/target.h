// Functions between BEGIN_TARGET and END_TARGET may use instructions that not all processors have.
#pragma once

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

// Asks for the cache line at an address, which need not exist.
#if defined(__GNUC__)
#define FETCH(address) __builtin_prefetch(address, 1)
#else
#define FETCH(address) static_cast<void>(address)
#endif
