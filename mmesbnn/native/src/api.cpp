// The C interface: checks every size, then runs the kernels of the chosen instruction set.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <new>
#include <vector>

#include "api.h"
#include "binary_conv.h"

using mmesbnn::Kernels;
using mmesbnn::kLanes;
using mmesbnn::blocks_for;
using mmesbnn::words_for;
using namespace mmesbnn::status;

namespace {

constexpr int64_t kLargest = int64_t{1} << 40;

// The product of positive sizes, or -1 if one is not positive or the product is too large.
int64_t product(std::initializer_list<int64_t> sizes) {
  int64_t result = 1;
  for (const int64_t size : sizes) {
    if (size <= 0 || size > kLargest / result) return -1;
    result *= size;
  }
  return result;
}

// Swaps bit j of row i with bit i of row j.
void transpose(uint64_t rows[64]) {
  uint64_t mask = 0x00000000ffffffffu;
  for (int width = 32; width != 0; width >>= 1, mask ^= mask << width) {
    for (int i = 0; i < 64; i = ((i | width) + 1) & ~width) {
      const uint64_t moved = ((rows[i] >> width) ^ rows[i | width]) & mask;
      rows[i] ^= moved << width;
      rows[i | width] ^= moved;
    }
  }
}

// Eight signs for each byte.
struct Bytes {
  float signs[256][8];
  Bytes() {
    for (int byte = 0; byte < 256; ++byte)
      for (int i = 0; i < 8; ++i) signs[byte][i] = byte >> i & 1 ? 1.0f : -1.0f;
  }
};

// Writes the signs of the lowest `count` bits.
void expand(uint64_t bits, int count, float* to) {
  static const Bytes bytes;
  for (; count >= 8; count -= 8, to += 8, bits >>= 8)
    std::memcpy(to, bytes.signs[bits & 255], sizeof bytes.signs[0]);
  std::memcpy(to, bytes.signs[bits & 255], sizeof(float) * count);
}

}  // namespace

// Signs of x (batch, groups * channels, pixels) as words (batch, pixels, groups, words).
// thresholds: one per channel, or null for 0. With `strict` every entry must be -1 or 1.
API int mmesbnn_pack_signs(const float* x, int64_t batch, int64_t groups, int64_t channels,
                           int64_t pixels, const float* thresholds, int strict, int threads,
                           uint64_t* out) {
  if (product({batch, groups, channels, pixels}) < 0 || threads < 1) return kBadSize;
  const int64_t words = words_for(channels), tiles = (pixels + 63) / 64;
  const Kernels& use = mmesbnn::chosen_kernels();
  std::atomic<bool> odd{false};
  mmesbnn::parallel(batch * tiles, threads, [&](int64_t first, int64_t last) {
    bool other = false;
    for (int64_t item = first; item < last; ++item) {
      const int64_t image = item / tiles, begin = item % tiles * 64;
      const int count = static_cast<int>(std::min<int64_t>(64, pixels - begin));
      for (int64_t g = 0; g < groups; ++g) {
        for (int64_t word = 0; word < words; ++word) {
          uint64_t bits[64] = {};
          const int used = static_cast<int>(std::min<int64_t>(64, channels - word * 64));
          for (int c = 0; c < used; ++c) {
            const int64_t channel = g * channels + word * 64 + c;
            const float* row = x + (image * groups * channels + channel) * pixels + begin;
            bits[c] = use.compare(row, count, thresholds ? thresholds[channel] : 0.0f, &other);
          }
          transpose(bits);
          for (int p = 0; p < count; ++p)
            out[((image * pixels + begin + p) * groups + g) * words + word] = bits[p];
        }
      }
    }
    if (other) odd.store(true);
  });
  return strict && odd.load() ? kNotBinary : kOk;
}

// The inverse: -1 and 1 of words (batch, pixels, groups, words) as x (batch, groups * channels,
// pixels).
API int mmesbnn_unpack_signs(const uint64_t* words, int64_t batch, int64_t groups,
                             int64_t channels, int64_t pixels, int threads, float* x) {
  if (product({batch, groups, channels, pixels}) < 0 || threads < 1) return kBadSize;
  const int64_t count = words_for(channels), tiles = (pixels + 63) / 64;
  mmesbnn::parallel(batch * tiles, threads, [&](int64_t first, int64_t last) {
    for (int64_t item = first; item < last; ++item) {
      const int64_t image = item / tiles, begin = item % tiles * 64;
      const int used = static_cast<int>(std::min<int64_t>(64, pixels - begin));
      for (int64_t g = 0; g < groups; ++g) {
        for (int64_t word = 0; word < count; ++word) {
          uint64_t bits[64] = {};
          for (int p = 0; p < used; ++p)
            bits[p] = words[((image * pixels + begin + p) * groups + g) * count + word];
          transpose(bits);
          const int64_t left = std::min<int64_t>(64, channels - word * 64);
          for (int64_t c = 0; c < left; ++c) {
            const int64_t channel = g * channels + word * 64 + c;
            expand(bits[c], used, x + (image * groups * channels + channel) * pixels + begin);
          }
        }
      }
    }
  });
  return kOk;
}

// Weights (groups * kernels, channels, taps) as words (groups, blocks, taps, words, lanes), and
// the magnitude of each kernel's entries. kNotBinary if a kernel's entries differ in magnitude.
API int mmesbnn_pack_weights(const float* weight, int64_t groups, int64_t kernels_per_group,
                             int64_t channels, int64_t taps, uint64_t* out, float* scales) {
  if (product({groups, kernels_per_group, channels, taps}) < 0) return kBadSize;
  const int64_t words = words_for(channels), blocks = blocks_for(kernels_per_group);
  std::memset(out, 0, sizeof(uint64_t) * groups * blocks * taps * words * kLanes);
  for (int64_t g = 0; g < groups; ++g) {
    for (int64_t o = 0; o < kernels_per_group; ++o) {
      const float* w = weight + (g * kernels_per_group + o) * channels * taps;
      const float scale = std::fabs(w[0]);
      if (!(scale > 0.0f) || std::isinf(scale)) return kNotBinary;
      uint64_t* target = out + (g * blocks + o / kLanes) * taps * words * kLanes + o % kLanes;
      for (int64_t c = 0; c < channels; ++c) {
        for (int64_t t = 0; t < taps; ++t) {
          const float value = w[c * taps + t];
          if (std::fabs(value) != scale) return kNotBinary;
          const uint64_t bit = static_cast<uint64_t>(value > 0.0f) << (c % 64);
          target[(t * words + c / 64) * kLanes] |= bit;
        }
      }
      scales[g * kernels_per_group + o] = scale;
    }
  }
  return kOk;
}

// Convolution of packed signs with packed weights:
//   out[n, o, y, x] = scales[o] * sum over taps and channels of sign * sign.
// pad_value: -1, 0 (a padded pixel adds nothing) or 1. scales: null for 1.
// geometry: kernel, stride, padding, dilation, each (vertical, horizontal).
API int mmesbnn_convolve(const uint64_t* x, int64_t batch, int64_t height, int64_t width,
                         int64_t groups, int64_t channels, const uint64_t* weights,
                         int64_t kernels_per_group, const int32_t* geometry, int pad_value,
                         const float* scales, int64_t out_height, int64_t out_width, int threads,
                         float* out) {
  mmesbnn::BinaryConv conv{};
  mmesbnn::Window& window = conv.window;
  for (int i = 0; i < 2; ++i) {
    window.kernel[i] = geometry[i];
    window.stride[i] = geometry[2 + i];
    window.padding[i] = geometry[4 + i];
    window.dilation[i] = geometry[6 + i];
    if (window.kernel[i] < 1 || window.stride[i] < 1 || window.padding[i] < 0 ||
        window.dilation[i] < 1)
      return kBadSize;
    const int64_t size = i == 0 ? height : width;
    const int64_t reach = size + 2 * int64_t{window.padding[i]} -
                          int64_t{window.dilation[i]} * (window.kernel[i] - 1) - 1;
    const int64_t expected = reach < 0 ? 0 : reach / window.stride[i] + 1;
    if (expected != (i == 0 ? out_height : out_width) || expected == 0) return kBadSize;
  }
  const int64_t taps = product({window.kernel[0], window.kernel[1]});
  const int64_t pixels = product({out_height, out_width});
  if (product({batch, height, width, groups, channels}) < 0 || taps < 0 || pixels < 0 ||
      product({batch, groups, kernels_per_group, pixels}) < 0 || threads < 1 || pad_value < -1 ||
      pad_value > 1 || product({channels, taps}) > (int64_t{1} << 30))
    return kBadSize;
  conv.height = height, conv.width = width;
  conv.out_height = out_height, conv.out_width = out_width;
  conv.groups = groups, conv.channels = channels, conv.kernels = kernels_per_group;
  conv.pad_value = pad_value, conv.weights = weights;
  try {
    conv.prepare(batch * pixels);
  } catch (const std::bad_alloc&) {
    return kNoMemory;
  }
  const auto store = [&](int64_t image, int64_t group, int64_t begin, int count,
                         const mmesbnn::Sums& sums) {
    for (int64_t o = 0; o < kernels_per_group; ++o) {
      const int64_t channel = group * kernels_per_group + o;
      const float scale = scales ? scales[channel] : 1.0f;
      float* target = out + (image * groups * kernels_per_group + channel) * pixels + begin;
      for (int p = 0; p < count; ++p)
        target[p] = scale * static_cast<float>(sums(p, o));
    }
  };
  return mmesbnn::convolve_bits(conv, x, batch, threads, store) ? kOk : kNoMemory;
}
