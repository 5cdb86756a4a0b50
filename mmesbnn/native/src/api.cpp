// The C interface: checks every size, then runs the kernels of the chosen instruction set.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <memory>
#include <new>

#include "api.h"
#include "arguments.h"
#include "byte_conv.h"
#include "transpose.h"

using mmesbnn::Kernels;
using mmesbnn::kLanes;
using mmesbnn::kNaN;
using mmesbnn::kOther;
using mmesbnn::blocks_for;
using mmesbnn::product;
using mmesbnn::words_for;
using namespace mmesbnn::status;

namespace {

bool are_finite(const float* from, int64_t count) {
  return std::all_of(from, from + count, [](float one) { return std::isfinite(one); });
}

// Numbers whose magnitudes are added as float32.
constexpr int64_t kFloatSum = 1024;

float mean_magnitude(const float* from, int64_t count) {
  double sum = 0.0;
  for (int64_t i = 0; i < count; i += kFloatSum)
    sum += mmesbnn::chosen_kernels().add_magnitudes(from + i, std::min(kFloatSum, count - i));
  return static_cast<float>(sum / static_cast<double>(count));
}

bool has_nan(const float* from, int64_t count) {
  int found = 0;
  for (int64_t i = 0; i < count; ++i) found |= from[i] != from[i];
  return found != 0;
}

// Packs which weights of a kernel (channels, taps) are above `threshold` as words (taps, words),
// which are kLanes apart; `rows` holds (taps, 64) numbers. Returns false if an entry is not `scale`
// or its negative, or with a scale of 0 not a number.
bool pack_kernel(const float* kernel, float scale, float threshold, int64_t channels, int64_t taps,
                 float* rows, uint64_t* to) {
  if (!(scale >= 0.0f) || std::isinf(scale)) return false;
  const Kernels& use = mmesbnn::chosen_kernels();
  for (int64_t begin = 0; begin < channels; begin += 64, to += kLanes) {
    const int64_t count = std::min<int64_t>(64, channels - begin);
    const float* from = kernel + begin * taps;
    int others = 0;
    if (scale > 0.0f)
      for (int64_t i = 0; i < count * taps; ++i) others |= std::fabs(from[i]) != scale;
    else
      others = has_nan(from, count * taps);
    if (others) return false;
    if (taps > 1) {
      for (int64_t c = 0; c < count; ++c)
        for (int64_t tap = 0; tap < taps; ++tap) rows[tap * 64 + c] = from[c * taps + tap];
      from = rows;
    }
    int found = 0;
    for (int64_t tap = 0; tap < taps; ++tap)
      to[tap * words_for(channels) * kLanes] =
          use.compare(from + tap * 64, static_cast<int>(count), threshold, &found);
  }
  return true;
}

// Pixels whose signs are packed at a time: so many that the numbers of a channel lie in a few
// lines of the cache one after another.
constexpr int64_t kPackedPixels = 128;

// Packs signs of up to 64 channels, `plane` numbers apart, of up to kPackedPixels pixels as words
// that are `step` apart. thresholds: one per channel, or null for 0. sums: those of the numbers of
// each channel, or null.
void pack_part(const float* x, int64_t plane, int64_t channels, int64_t pixels,
               const float* thresholds, int* found, uint64_t* out, int64_t step, double* sums) {
  uint64_t bits[kPackedPixels / 64][64] = {};
  const Kernels& use = mmesbnn::chosen_kernels();
  for (int64_t c = 0; c < channels; ++c) {
    const float* from = x + c * plane;
    for (int64_t at = 0; at < pixels; at += 64)
      bits[at / 64][c] =
          use.compare(from + at, static_cast<int>(std::min<int64_t>(64, pixels - at)),
                      thresholds ? thresholds[c] : 0.0f, found);
    if (sums) sums[c] = use.add_up(from, pixels);
  }
  for (auto& square : bits) mmesbnn::transpose<64>(square);
  for (int64_t p = 0; p < pixels; ++p) out[p * step] = bits[p / 64][p % 64];
}

int64_t tiles_of(int64_t pixels) { return (pixels + kPackedPixels - 1) / kPackedPixels; }

// Packs signs of maps. Returns whether every entry is -1 or 1, or with thresholds a number.
// sums: those of tiles, (batch, tiles, groups * channels), or null.
bool pack_maps(const float* x, int64_t batch, int64_t groups, int64_t channels, int64_t pixels,
               const float* thresholds, int threads, uint64_t* out, double* sums) {
  const int64_t words = words_for(channels), tiles = tiles_of(pixels);
  std::atomic<bool> odd{false};
  mmesbnn::parallel(batch * tiles, threads, [&](int64_t first, int64_t last) {
    int found = 0;
    for (int64_t item = first; item < last; ++item) {
      const int64_t image = item / tiles, begin = item % tiles * kPackedPixels;
      for (int64_t part = 0; part < groups * words; ++part) {
        const int64_t inner = part % words * 64, channel = part / words * channels + inner;
        pack_part(x + (image * groups * channels + channel) * pixels + begin, pixels,
                  std::min<int64_t>(64, channels - inner), std::min(kPackedPixels, pixels - begin),
                  thresholds ? thresholds + channel : nullptr, &found,
                  out + (image * pixels + begin) * groups * words + part, groups * words,
                  sums ? sums + item * groups * channels + channel : nullptr);
      }
    }
    if (found & (thresholds ? kNaN : kOther)) odd.store(true);
  });
  return !odd.load();
}

// The same of pixels whose channels lie side by side.
bool pack_rows(const float* x, int64_t pixels, int64_t groups, int64_t channels,
               const float* thresholds, int threads, uint64_t* out) {
  const int64_t words = words_for(channels);
  const Kernels& use = mmesbnn::chosen_kernels();
  std::atomic<bool> odd{false};
  mmesbnn::parallel(pixels, threads, [&](int64_t first, int64_t last) {
    int found = 0;
    for (int64_t row = first * groups; row < last * groups; ++row)
      for (int64_t word = 0; word < words; ++word) {
        const float* from = x + row * channels + word * 64;
        const int count = static_cast<int>(std::min<int64_t>(64, channels - word * 64));
        float above[64];
        if (thresholds != nullptr) {
          // a difference of two numbers is above 0 exactly where the first is above the second
          const float* threshold = thresholds + row % groups * channels + word * 64;
          for (int c = 0; c < count; ++c) above[c] = from[c] - threshold[c];
          from = above;
        }
        out[row * words + word] = use.compare(from, count, 0.0f, &found);
      }
    if (found & (thresholds ? kNaN : kOther)) odd.store(true);
  });
  return !odd.load();
}

// means[image][channel] = the sum of a channel's sums of tiles, divided by `pixels`. Adds up sums.
void divide_sums(double* sums, int64_t batch, int64_t tiles, int64_t channels, double pixels,
                 float* means) {
  for (; batch > 0; --batch, sums += tiles * channels, means += channels) {
    for (int64_t at = channels; at < tiles * channels; ++at) sums[at % channels] += sums[at];
    for (int64_t c = 0; c < channels; ++c) means[c] = static_cast<float>(sums[c] / pixels);
  }
}

}  // namespace

// Signs of x (batch, groups * channels, pixels) as words (batch, pixels, groups, words); with
// `channels_last` the channels of x are its last axis. thresholds: one per channel, or null for 0.
// With `strict` every entry must be -1 or 1; with thresholds it must not be NaN, and they finite.
// means: those of x over pixels, (batch, groups * channels), or null; not with `channels_last`.
API int mmesbnn_pack_signs(const float* x, int64_t batch, int64_t groups, int64_t channels,
                           int64_t pixels, int channels_last, const float* thresholds, int strict,
                           int threads, uint64_t* out, float* means) {
  if (product({batch, groups, channels, pixels, sizeof(double)}) < 0 || threads < 1 ||
      (channels_last && means))
    return kBadSize;
  const int64_t wide = groups * channels, tiles = tiles_of(pixels);
  std::unique_ptr<double[]> sums;
  if (means) {
    sums.reset(new (std::nothrow) double[batch * tiles * wide]);
    if (!sums) return kNoMemory;
  }
  const bool binary =
      channels_last
          ? pack_rows(x, batch * pixels, groups, channels, thresholds, threads, out)
          : pack_maps(x, batch, groups, channels, pixels, thresholds, threads, out, sums.get());
  if (means) divide_sums(sums.get(), batch, tiles, wide, static_cast<double>(pixels), means);
  const bool clear = !thresholds || are_finite(thresholds, groups * channels);
  return strict && !(binary && clear) ? kNotBinary : kOk;
}

// Weights (groups * kernels, channels, taps) as words (groups, blocks, taps, words, lanes), and
// the magnitude of each kernel's entries. kNotBinary if a kernel's entries differ in magnitude.
// With a threshold for each kernel the entries are any numbers, whose bits say which are above it,
// and magnitudes are 1, or with `scaled` means of the entries'; kNotBinary if an entry is NaN, or
// if a threshold or mean is not finite, or a mean 0.
API int mmesbnn_pack_weights(const float* weight, int64_t groups, int64_t kernels_per_group,
                             int64_t channels, int64_t taps, const float* thresholds, int scaled,
                             int threads, uint64_t* out, float* scales) {
  if (product({groups, kernels_per_group, channels, taps}) < 0 || threads < 1) return kBadSize;
  const int64_t words = words_for(channels), blocks = blocks_for(kernels_per_group);
  std::atomic<bool> odd{false}, full{false};
  mmesbnn::parallel(groups * blocks, threads, [&](int64_t first, int64_t last) {
    std::unique_ptr<float[]> rows(new (std::nothrow) float[taps * 64]);
    if (!rows) return full.store(true);
    std::memset(out + first * taps * words * kLanes, 0,
                sizeof(uint64_t) * (last - first) * taps * words * kLanes);
    for (int64_t block = first; block < last; ++block)
      for (int64_t lane = 0; lane < kLanes; ++lane) {
        const int64_t kernel = block % blocks * kLanes + lane;
        if (kernel >= kernels_per_group) break;
        const int64_t at = block / blocks * kernels_per_group + kernel;
        const float* w = weight + at * channels * taps;
        const float scale = thresholds ? 0.0f : std::fabs(w[0]);
        scales[at] = !thresholds ? scale : scaled ? mean_magnitude(w, channels * taps) : 1.0f;
        uint64_t* to = out + block * taps * words * kLanes + lane;
        const float threshold = thresholds ? thresholds[at] : 0.0f;
        if (scales[at] == 0.0f || !std::isfinite(scales[at]) || !std::isfinite(threshold))
          odd.store(true);
        if (!pack_kernel(w, scale, threshold, channels, taps, rows.get(), to)) odd.store(true);
        if (odd.load()) return;
      }
  });
  if (full.load()) return kNoMemory;
  return odd.load() ? kNotBinary : kOk;
}

// Convolution of packed signs with packed weights:
//   out[n, o, y, x] = scales[o] * sum over taps and channels of sign * sign.
// pad_value: -1, 0 (a padded pixel adds nothing) or 1. With `channels_last` the channels of `out`
// are its last axis. With `sums` the sums without scales are written there instead; it is null, or
// out and scales are.
// geometry: kernel, stride, padding, dilation, each (vertical, horizontal).
API int mmesbnn_convolve(const uint64_t* x, int64_t batch, int64_t height, int64_t width,
                         int64_t groups, int64_t channels, const uint64_t* weights,
                         int64_t kernels_per_group, const int32_t* geometry, int pad_value,
                         const float* scales, int64_t out_height, int64_t out_width,
                         int channels_last, int threads, float* out, int16_t* sums) {
  mmesbnn::ConvSizes sizes{batch,   height,            width,      groups,   channels,
                           kernels_per_group, out_height, out_width, {}};
  if (!sizes.read(geometry) || threads < 1 || pad_value < -1 || pad_value > 1) return kBadSize;
  if (sums ? channels * sizes.window.taps() > INT16_MAX || out || scales : !out || !scales)
    return kBadSize;
  const int64_t pixels = out_height * out_width;
  mmesbnn::BinaryConv conv{};
  conv.window = sizes.window;
  conv.height = height, conv.width = width;
  conv.out_height = out_height, conv.out_width = out_width;
  conv.groups = groups, conv.channels = channels, conv.kernels = kernels_per_group;
  conv.pad_value = pad_value, conv.weights = weights;
  try {
    conv.prepare(batch * pixels);
  } catch (const std::bad_alloc&) {
    return kNoMemory;
  }
  const mmesbnn::Strides strides =
      mmesbnn::strides_of(groups * kernels_per_group, pixels, channels_last != 0);
  const auto store = [&](int64_t image, int64_t group, int64_t begin, int count,
                         const mmesbnn::Sums& found) {
    const int64_t channel = group * kernels_per_group + found.first;
    const int64_t first =
        image * strides.image + channel * strides.channel + begin * strides.pixel;
    // Calls f(p, o, place) in the order of memory.
    const auto each = [&](auto f) {
      if (channels_last)
        for (int p = 0; p < count; ++p)
          for (int64_t o = 0; o < found.kernels; ++o) f(p, o, first + p * strides.pixel + o);
      else
        for (int64_t o = 0; o < found.kernels; ++o)
          for (int p = 0; p < count; ++p) f(p, o, first + o * strides.channel + p);
    };
    if (sums)
      each([&](int64_t p, int64_t o, int64_t at) { sums[at] = static_cast<int16_t>(found(p, o)); });
    else
      each([&](int64_t p, int64_t o, int64_t at) {
        out[at] = scales[channel + o] * static_cast<float>(found(p, o));
      });
  };
  return mmesbnn::convolve(conv, x, batch, threads, store) ? kOk : kNoMemory;
}

// out[i, c, p] = scales[c] sums[i, c, p], the result of mmesbnn_convolve from its sums.
// sums, out: (images, channels, pixels). Where the channels are the last axis, `pixels` is 1.
API int mmesbnn_scale_sums(const int16_t* sums, int64_t images, int64_t channels, int64_t pixels,
                           const float* scales, int threads, float* out) {
  if (mmesbnn::product({images, channels, pixels, sizeof(float)}) < 0 || threads < 1)
    return kBadSize;
  if (pixels == 1) {
    mmesbnn::parallel(images, threads, [=](int64_t first, int64_t last) {
      for (int64_t i = first * channels; i < last * channels; i += channels)
        mmesbnn::chosen_kernels().scale_pixel(sums + i, scales, channels, out + i);
    });
    return kOk;
  }
  mmesbnn::parallel(images * channels, threads, [=](int64_t first, int64_t last) {
    for (int64_t row = first; row < last; ++row)
      mmesbnn::chosen_kernels().scale(sums + row * pixels, scales[row % channels], pixels,
                                      out + row * pixels);
  });
  return kOk;
}
