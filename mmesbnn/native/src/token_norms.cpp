// Training steps of norms and signs as in norms.cpp, for maps whose channels lie side by side, such
// as tokens.
#include <algorithm>
#include <new>
#include <numeric>
#include <vector>

#include "api.h"
#include "arguments.h"
#include "kernels.h"
#include "moments.h"
#include "pixel_parts.h"

using namespace mmesbnn;
using namespace mmesbnn::status;

namespace {

// Channel c of the residual is that of channels c, c + added, c + 2 added ... of the result. Where
// there is no x, it is scales sums.
struct TokenNorm {
  int64_t pixels, channels, copies;
  const float* x;
  const int16_t* sums;
  const float *scales, *residual;
  int64_t added;
  const float *gain, *bias, *slope, *shift;
  int threads;

  bool read() const {
    return product({pixels, channels, copies, sizeof(float)}) > 0 && is_one_map(x, sums, scales) &&
           (residual == nullptr || (added > 0 && wide() % added == 0));
  }
  int64_t wide() const { return copies * channels; }
  // Channels of the result whose operands lie side by side.
  int64_t piece() const { return residual ? std::gcd(channels, added) : channels; }

  // Factors and summands of each channel of the result, from the statistics.
  std::vector<float> affine(const float* stats) const {
    std::vector<float> both(2 * wide());
    for (int64_t at = 0; at < wide(); ++at) {
      const int64_t channel = at % channels;
      both[at] = gain[at] * stats[channels + channel];
      both[wide() + at] = bias[at] - stats[channel] * both[at];
    }
    return both;
  }
  // Memory of a pixel for each part.
  PartSums pixel_memory() const { return {sums ? pixels : 0, channels}; }
  // Returns a pixel of x.
  const float* x_of(int64_t pixel, int64_t part, PartSums& memory) const {
    if (x) return x + pixel * channels;
    chosen_kernels().scale_pixel(sums + pixel * channels, scales, channels, memory.of(part));
    return memory.of(part);
  }
  NormPixel piece_of(const float* z, int64_t pixel, int64_t at,
                     const std::vector<float>& affine) const {
    return {piece(),
            z + at % channels,
            residual ? residual + pixel * added + at % added : nullptr,
            affine.data() + at,
            affine.data() + wide() + at,
            slope ? slope + at : nullptr,
            shift ? shift + at : nullptr};
  }

  // Statistics of x: distances from the mean of a part are added to those of others.
  void measure(double eps, float* stats) const {
    const int64_t parts = parts_of(pixels);
    PartSums near(pixels, channels), distances(pixels, channels), squares(pixels, channels);
    for_parts(pixels, threads, [&](int64_t part, int64_t first, int64_t last) {
      const Kernels& use = chosen_kernels();
      float *const middle = near.of(part), *const away = distances.of(part);
      const int64_t rows = last - first, at = first * channels;
      if (x)
        use.moments_of_rows(x + at, rows, channels, middle, away, squares.of(part));
      else
        use.moments_of_sums(sums + at, scales, rows, channels, middle, away, squares.of(part));
    });
    for (int64_t c = 0; c < channels; ++c) {
      AllMoments all;
      for (int64_t part = 0; part < parts; ++part) {
        const int64_t count = std::min(kPixelsOfPart, pixels - part * kPixelsOfPart);
        const double error = distances.of(part)[c] / static_cast<double>(count);
        all.add({near.of(part)[c] + error,
                 squares.of(part)[c] - static_cast<double>(count) * error * error},
                count);
      }
      all.write(eps, channels, stats + c);
    }
  }

  void write(const float* stats, float* out) const {
    const std::vector<float> numbers = affine(stats);
    PartSums memory = pixel_memory();
    for_parts(pixels, threads, [&](int64_t part, int64_t first, int64_t last) {
      const Kernels& use = chosen_kernels();
      const int64_t step = piece();
      for (int64_t at = first; at < last; ++at) {
        const float* const z = x_of(at, part, memory);
        for (int64_t from = 0; from < wide(); from += step)
          use.activate_pixel(piece_of(z, at, from, numbers), out + at * wide() + from);
      }
    });
  }

  // `inner` is for the gradients of what the PReLU gets, (pixels, copies * channels).
  void differentiate(const float* stats, const float* grad, float* inner, float* of_x,
                     float* of_residual, float* of_gain, float* of_bias, float* of_slope,
                     float* of_shift) const {
    const std::vector<float> numbers = affine(stats);
    PartSums inners(pixels, wide()), products(pixels, wide());
    PartSums grads(slope ? pixels : 0, wide()), negatives(slope ? pixels : 0, wide());
    const std::vector<float> ones(of_residual ? added : 0, 1.0f);
    PartSums memory = pixel_memory();
    for_parts(pixels, threads, [&](int64_t part, int64_t first, int64_t last) {
      const Kernels& use = chosen_kernels();
      const int64_t step = piece();
      for (int64_t at = first; at < last; ++at) {
        const float* const z = x_of(at, part, memory);
        for (int64_t from = 0; from < wide(); from += step) {
          const int64_t place = at * wide() + from;
          use.differentiate_pixel(
              piece_of(z, at, from, numbers), grad + place, stats + from % channels, inner + place,
              {slope ? grads.of(part) + from : nullptr, inners.of(part) + from,
               products.of(part) + from, slope ? negatives.of(part) + from : nullptr});
        }
        for (int64_t from = 0; of_residual && from < wide(); from += added)
          use.accumulate_pixel(inner + at * wide() + from, ones.data(), from == 0, added,
                               of_residual + at * added);
      }
    });
    std::vector<double> offsets(channels), factors(channels);
    for (int64_t at = 0; at < wide(); ++at) {
      const double inverse = stats[channels + at % channels];
      const double sum = inners.total(at), sum_of_products = products.total(at);
      of_gain[at] = static_cast<float>(sum_of_products * inverse);
      of_bias[at] = static_cast<float>(sum);
      if (slope && of_slope) of_slope[at] = static_cast<float>(negatives.total(at));
      if (of_shift) of_shift[at] = static_cast<float>(slope ? grads.total(at) : sum);
      offsets[at % channels] += gain[at] * sum;
      factors[at % channels] += gain[at] * sum_of_products * inverse * inverse;
    }
    std::vector<float> means(2 * channels);
    for (int64_t c = 0; c < channels; ++c) {
      means[c] = static_cast<float>(offsets[c] / static_cast<double>(pixels));
      means[channels + c] = static_cast<float>(factors[c] / static_cast<double>(pixels));
    }
    const PixelSlope slopes{stats + channels, means.data(), stats, means.data() + channels};
    for_parts(pixels, threads, [&](int64_t part, int64_t first, int64_t last) {
      const Kernels& use = chosen_kernels();
      for (int64_t at = first; at < last; ++at) {
        float* const to = of_x + at * channels;
        for (int64_t copy = 0; copy < copies; ++copy)
          use.accumulate_pixel(inner + at * wide() + copy * channels, gain + copy * channels,
                               copy == 0, channels, to);
        use.centre_pixel(to, x_of(at, part, memory), slopes, channels, to);
      }
    });
  }
};

// Tokens whose channels are divided among heads.
struct Heads {
  int64_t batch, tokens, heads, channels;

  bool read() const { return product({batch, tokens, heads, channels, sizeof(float)}) > 0; }
  // Calls f(place in (batch, tokens, heads, channels), first channel, place in (batch, heads,
  // tokens, channels)) for each head of some of all tokens.
  template <class F>
  void each(int64_t first, int64_t last, F f) const {
    for (int64_t at = first; at < last; ++at)
      for (int64_t head = 0; head < heads; ++head)
        f((at * heads + head) * channels, head * channels,
          ((at / tokens * heads + head) * tokens + at % tokens) * channels);
  }
};

}  // namespace

// As mmesbnn_normalize, for x or sums (pixels, channels) and out (pixels, copies * channels),
// without gates and means. The residual is (pixels, added), where `added` divides copies *
// channels: it is repeated.
API int mmesbnn_normalize_tokens(const float* x, const int16_t* sums, const float* scales,
                                 int64_t pixels, int64_t channels, int64_t copies,
                                 const float* residual, int64_t added, const float* gain,
                                 const float* bias, const float* slope, const float* shift,
                                 double eps, int measured, int threads, float* out, float* stats) {
  const TokenNorm norm{pixels, channels, copies, x,     sums,  scales, residual,
                       added,  gain,     bias,   slope, shift, threads};
  if (!norm.read() || !(eps >= 0.0) || threads < 1) return kBadSize;
  try {
    if (!measured) norm.measure(eps, stats);
    norm.write(stats, out);
  } catch (const std::bad_alloc&) {
    return kNoMemory;
  }
  return kOk;
}

// The gradients for that of `out`. `inner`, (pixels, copies * channels), becomes the gradient of
// what is added; the residual's, of_residual, is its sums over repetitions. of_residual, of_slope
// and of_shift may be null.
API int mmesbnn_normalize_tokens_gradients(
    const float* x, const int16_t* sums, const float* scales, int64_t pixels, int64_t channels,
    int64_t copies, const float* residual, int64_t added, const float* gain, const float* bias,
    const float* slope, const float* stats, const float* grad, int threads, float* of_x,
    float* inner, float* of_residual, float* of_gain, float* of_bias, float* of_slope,
    float* of_shift) {
  const TokenNorm norm{pixels, channels, copies, x,     sums,    scales, residual,
                       added,  gain,     bias,   slope, nullptr, threads};
  if (!norm.read() || threads < 1 || (of_residual && !residual)) return kBadSize;
  try {
    norm.differentiate(stats, grad, inner, of_x, of_residual, of_gain, of_bias, of_slope,
                       of_shift);
  } catch (const std::bad_alloc&) {
    return kNoMemory;
  }
  return kOk;
}

// Signs of x + shift for heads of attention. x: (batch, tokens, heads * channels); shift: (heads
// * channels); out: (batch, heads, tokens, channels).
API int mmesbnn_head_signs(const float* x, int64_t batch, int64_t tokens, int64_t heads,
                           int64_t channels, const float* shift, int threads, float* out) {
  const Heads all{batch, tokens, heads, channels};
  if (!all.read() || threads < 1) return kBadSize;
  for_parts(batch * tokens, threads, [&](int64_t, int64_t first, int64_t last) {
    all.each(first, last, [&](int64_t at, int64_t channel, int64_t place) {
      chosen_kernels().signs_pixel(x + at, shift + channel, channels, out + place);
    });
  });
  return kOk;
}

// As mmesbnn_sign_gradient, for x and out (batch, tokens, heads * channels) and the gradient of the
// result of mmesbnn_head_signs. With one head `out` may be `grad`.
API int mmesbnn_sign_gradient_tokens(const float* grad, const float* x, int64_t batch,
                                     int64_t tokens, int64_t heads, int64_t channels,
                                     const float* shift, int surrogate, float clip, int threads,
                                     float* out, float* of_shift) {
  const Heads all{batch, tokens, heads, channels};
  if (!all.read() || threads < 1 || (surrogate != kWindow && surrogate != kTriangle))
    return kBadSize;
  try {
    PartSums sums(batch * tokens, heads * channels);
    for_parts(batch * tokens, threads, [&](int64_t part, int64_t first, int64_t last) {
      const Kernels& use = chosen_kernels();
      all.each(first, last, [&](int64_t at, int64_t channel, int64_t place) {
        if (surrogate == kWindow)
          use.window_pixel(grad + place, x + at, shift + channel, clip, channels, out + at,
                           sums.of(part) + channel);
        else
          use.triangle_pixel(grad + place, x + at, shift + channel, channels, out + at,
                             sums.of(part) + channel);
      });
    });
    for (int64_t c = 0; c < heads * channels; ++c)
      of_shift[c] = static_cast<float>(sums.total(c));
  } catch (const std::bad_alloc&) {
    return kNoMemory;
  }
  return kOk;
}
