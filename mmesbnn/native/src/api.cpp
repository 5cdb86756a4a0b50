// The C interface: checks every size, then runs the kernels of the chosen instruction set.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <new>
#include <vector>

#include "kernels.h"
#include "pool.h"

#if defined(_WIN32)
#define API extern "C" __declspec(dllexport)
#else
#define API extern "C" __attribute__((visibility("default")))
#endif

using mmesbnn::Kernels;
using mmesbnn::kLanes;

namespace {

enum Status { kOk = 0, kBadSize = -1, kNoMemory = -2, kNotBinary = 1 };

// Fastest first.
const Kernels* const kAll[] = {&mmesbnn::kAvx512, &mmesbnn::kAvx2, &mmesbnn::kNeon,
                               &mmesbnn::kPortable};
std::atomic<const Kernels*> chosen{nullptr};

const Kernels& kernels() {
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

int64_t words_for(int64_t entries) { return (entries + 63) / 64; }

int64_t blocks_for(int64_t channels) { return (channels + kLanes - 1) / kLanes; }

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

struct Geometry {
  int64_t height, width, out_height, out_width;
  int kernel[2], stride[2], padding[2], dilation[2];
};

}  // namespace

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

// Signs of x (batch, groups * channels, pixels) as words (batch, pixels, groups, words).
// thresholds: one per channel, or null for 0. With `strict` every entry must be -1 or 1.
API int mmesbnn_pack_signs(const float* x, int64_t batch, int64_t groups, int64_t channels,
                           int64_t pixels, const float* thresholds, int strict, int threads,
                           uint64_t* out) {
  if (product({batch, groups, channels, pixels}) < 0 || threads < 1) return kBadSize;
  const int64_t words = words_for(channels), tiles = (pixels + 63) / 64;
  const Kernels& use = kernels();
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
  Geometry g{height, width, out_height, out_width, {}, {}, {}, {}};
  for (int i = 0; i < 2; ++i) {
    g.kernel[i] = geometry[i];
    g.stride[i] = geometry[2 + i];
    g.padding[i] = geometry[4 + i];
    g.dilation[i] = geometry[6 + i];
    if (g.kernel[i] < 1 || g.stride[i] < 1 || g.padding[i] < 0 || g.dilation[i] < 1)
      return kBadSize;
    const int64_t size = i == 0 ? height : width;
    const int64_t reach = size + 2 * int64_t{g.padding[i]} -
                          int64_t{g.dilation[i]} * (g.kernel[i] - 1) - 1;
    const int64_t expected = reach < 0 ? 0 : reach / g.stride[i] + 1;
    if (expected != (i == 0 ? out_height : out_width) || expected == 0) return kBadSize;
  }
  const int64_t taps = product({g.kernel[0], g.kernel[1]});
  const int64_t pixels = product({out_height, out_width});
  if (product({batch, height, width, groups, channels}) < 0 || taps < 0 || pixels < 0 ||
      product({batch, groups, kernels_per_group, pixels}) < 0 || threads < 1 || pad_value < -1 ||
      pad_value > 1 || product({channels, taps}) > (int64_t{1} << 30))
    return kBadSize;
  const int64_t words = words_for(channels), blocks = blocks_for(kernels_per_group);
  const int64_t row = taps * words, lanes = blocks * kLanes;
  const int32_t total = static_cast<int32_t>(channels * taps);
  const Kernels& use = kernels();
  constexpr int kRows = 32;
  const int64_t tiles = (pixels + kRows - 1) / kRows;
  std::atomic<bool> full{false};
  // What a padded tap adds although it should add nothing: it is counted as -1.
  std::vector<int32_t> excess;
  std::vector<uint64_t> ones;
  try {
    if (pad_value == 0 && (g.padding[0] || g.padding[1])) {
      excess.resize(groups * taps * lanes);
      const std::vector<uint64_t> zeros(words);
      std::vector<uint64_t> one_tap(words * kLanes);
      for (int64_t group = 0; group < groups; ++group)
        for (int64_t block = 0; block < blocks; ++block)
          for (int64_t t = 0; t < taps; ++t) {
            const uint64_t* w =
                weights + (((group * blocks + block) * taps + t) * words) * kLanes;
            int32_t* target = &excess[(group * taps + t) * lanes + block * kLanes];
            use.count(zeros.data(), words, 1, w, static_cast<int>(words), 1, target, kLanes);
            for (int lane = 0; lane < kLanes; ++lane)
              target[lane] = static_cast<int32_t>(channels) - 2 * target[lane];
          }
    }
    ones.assign(words, ~uint64_t{0});
    if (channels % 64) ones.back() = (uint64_t{1} << (channels % 64)) - 1;
  } catch (const std::bad_alloc&) {
    return kNoMemory;
  }
  const uint64_t* filler = pad_value == 1 ? ones.data() : nullptr;
  const bool direct = taps == 1 && groups == 1 && g.padding[0] == 0 && g.padding[1] == 0 &&
                      g.stride[0] == 1 && g.stride[1] == 1;
  mmesbnn::parallel(batch * tiles, threads, [&](int64_t first, int64_t last) {
    std::vector<uint64_t> rows;
    std::vector<int32_t> sums;
    std::vector<uint8_t> outside;
    try {
      if (!direct) rows.resize(kRows * row);
      sums.resize(kRows * lanes);
      outside.resize(kRows * taps);
    } catch (const std::bad_alloc&) {
      full.store(true);
      return;
    }
    for (int64_t item = first; item < last; ++item) {
      const int64_t image = item / tiles, begin = item % tiles * kRows;
      const int count = static_cast<int>(std::min<int64_t>(kRows, pixels - begin));
      for (int64_t group = 0; group < groups; ++group) {
        bool any_outside = false;
        const uint64_t* gathered = rows.data();
        if (direct) {
          gathered = x + (image * pixels + begin) * words;
        } else {
          for (int p = 0; p < count; ++p) {
            const int64_t top = (begin + p) / out_width * g.stride[0] - g.padding[0];
            const int64_t left = (begin + p) % out_width * g.stride[1] - g.padding[1];
            uint64_t* target = rows.data() + p * row;
            for (int64_t t = 0; t < taps; ++t, target += words) {
              const int64_t y = top + t / g.kernel[1] * g.dilation[0];
              const int64_t column = left + t % g.kernel[1] * g.dilation[1];
              const bool inside = y >= 0 && y < height && column >= 0 && column < width;
              outside[p * taps + t] = !inside;
              any_outside |= !inside;
              if (inside)
                std::memcpy(target,
                            x + (((image * height + y) * width + column) * groups + group) * words,
                            sizeof(uint64_t) * words);
              else if (filler)
                std::memcpy(target, filler, sizeof(uint64_t) * words);
              else
                std::memset(target, 0, sizeof(uint64_t) * words);
            }
          }
        }
        use.count(gathered, row, count, weights + group * blocks * row * kLanes,
                  static_cast<int>(row), static_cast<int>(blocks), sums.data(), lanes);
        for (int p = 0; p < count; ++p) {
          int32_t* value = sums.data() + p * lanes;
          for (int64_t o = 0; o < kernels_per_group; ++o) value[o] = total - 2 * value[o];
          if (!any_outside || excess.empty()) continue;
          for (int64_t t = 0; t < taps; ++t) {
            if (!outside[p * taps + t]) continue;
            const int32_t* wrong = &excess[(group * taps + t) * lanes];
            for (int64_t o = 0; o < kernels_per_group; ++o) value[o] -= wrong[o];
          }
        }
        for (int64_t o = 0; o < kernels_per_group; ++o) {
          const int64_t channel = group * kernels_per_group + o;
          const float scale = scales ? scales[channel] : 1.0f;
          float* target =
              out + (image * groups * kernels_per_group + channel) * pixels + begin;
          for (int p = 0; p < count; ++p)
            target[p] = scale * static_cast<float>(sums[p * lanes + o]);
        }
      }
    }
  });
  return full.load() ? kNoMemory : kOk;
}
