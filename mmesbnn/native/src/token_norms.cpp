// Training steps of norms and signs as in norms.cpp, for maps whose channels lie side by side, such
// as tokens. PartSums of each channel are made of a few pixels at a time, and these are added in order,
// so they do not depend on the number of threads.
#include <algorithm>
#include <new>
#include <vector>

#include "api.h"
#include "arguments.h"
#include "kernels.h"
#include "moments.h"
#include "pool.h"

using namespace mmesbnn;
using namespace mmesbnn::status;

namespace {

// Pixels whose sums are float32 numbers.
constexpr int64_t kSome = 64;

int64_t parts_of(int64_t pixels) { return (pixels + kSome - 1) / kSome; }

// Calls f(part, first, last) for all parts of pixels.
template <class F>
void for_parts(int64_t pixels, int threads, F f) {
  parallel(parts_of(pixels), threads, [&](int64_t first, int64_t last) {
    for (int64_t part = first; part < last; ++part)
      f(part, part * kSome, std::min(pixels, (part + 1) * kSome));
  });
}

// PartSums of `channels` numbers for each part of the pixels.
class PartSums {
 public:
  PartSums(int64_t pixels, int64_t channels)
      : channels_(channels), values_(parts_of(pixels) * channels) {}
  float* of(int64_t part) { return values_.data() + part * channels_; }
  double total(int64_t channel) const {
    double sum = 0.0;
    for (size_t at = channel; at < values_.size(); at += channels_) sum += values_[at];
    return sum;
  }

 private:
  int64_t channels_;
  std::vector<float> values_;
};

struct TokenNorm {
  int64_t pixels, channels, copies;
  const float *x, *residual, *gain, *bias, *slope, *shift;
  int threads;

  bool read() const { return product({pixels, channels, copies, sizeof(float)}) > 0; }
  int64_t wide() const { return copies * channels; }

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
  NormPixel pixel_of(int64_t pixel, int64_t copy, const std::vector<float>& affine) const {
    const int64_t at = copy * channels;
    return {channels,
            x + pixel * channels,
            residual ? residual + pixel * wide() + at : nullptr,
            affine.data() + at,
            affine.data() + wide() + at,
            slope ? slope + at : nullptr,
            shift ? shift + at : nullptr};
  }

  // Statistics of x: distances from the mean of a part are added to those of others.
  void measure(double eps, float* stats) const {
    const int64_t parts = parts_of(pixels);
    PartSums near(pixels, channels), distances(pixels, channels), squares(pixels, channels);
    const std::vector<float> zeros(channels);
    for_parts(pixels, threads, [&](int64_t part, int64_t first, int64_t last) {
      const Kernels& use = chosen_kernels();
      float* const middle = near.of(part);
      for (int64_t at = first; at < last; ++at)
        use.add_distances(x + at * channels, zeros.data(), channels, middle, squares.of(part));
      for (int64_t c = 0; c < channels; ++c) middle[c] /= static_cast<float>(last - first);
      std::fill_n(squares.of(part), channels, 0.0f);
      for (int64_t at = first; at < last; ++at)
        use.add_distances(x + at * channels, middle, channels, distances.of(part),
                          squares.of(part));
    });
    for (int64_t c = 0; c < channels; ++c) {
      AllMoments all;
      for (int64_t part = 0; part < parts; ++part) {
        const int64_t count = std::min(kSome, pixels - part * kSome);
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
    for_parts(pixels, threads, [&](int64_t, int64_t first, int64_t last) {
      for (int64_t at = first; at < last; ++at)
        for (int64_t copy = 0; copy < copies; ++copy)
          chosen_kernels().activate_pixel(pixel_of(at, copy, numbers),
                                          out + at * wide() + copy * channels);
    });
  }

  // `inner` is for the gradients of what the PReLU gets, (pixels, copies * channels).
  void differentiate(const float* stats, const float* grad, float* inner, float* of_x,
                     float* of_gain, float* of_bias, float* of_slope, float* of_shift) const {
    const std::vector<float> numbers = affine(stats);
    PartSums inners(pixels, wide()), products(pixels, wide());
    PartSums grads(slope ? pixels : 0, wide()), negatives(slope ? pixels : 0, wide());
    for_parts(pixels, threads, [&](int64_t part, int64_t first, int64_t last) {
      for (int64_t at = first; at < last; ++at)
        for (int64_t copy = 0; copy < copies; ++copy) {
          const int64_t from = copy * channels, place = at * wide() + from;
          chosen_kernels().differentiate_pixel(
              pixel_of(at, copy, numbers), grad + place, stats, inner + place,
              {slope ? grads.of(part) + from : nullptr, inners.of(part) + from,
               products.of(part) + from, slope ? negatives.of(part) + from : nullptr});
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
    for_parts(pixels, threads, [&](int64_t, int64_t first, int64_t last) {
      const Kernels& use = chosen_kernels();
      for (int64_t at = first; at < last; ++at) {
        float* const to = of_x + at * channels;
        for (int64_t copy = 0; copy < copies; ++copy)
          use.accumulate_pixel(inner + at * wide() + copy * channels, gain + copy * channels,
                               copy == 0, channels, to);
        use.centre_pixel(to, x + at * channels, slopes, channels, to);
      }
    });
  }
};

}  // namespace

// As mmesbnn_normalize, for x (pixels, channels) and out, residual (pixels, copies * channels), without
// gates and means.
API int mmesbnn_normalize_tokens(const float* x, int64_t pixels, int64_t channels, int64_t copies,
                                 const float* residual, const float* gain, const float* bias,
                                 const float* slope, const float* shift, double eps, int threads,
                                 float* out, float* stats) {
  const TokenNorm norm{pixels, channels, copies, x, residual, gain, bias, slope, shift, threads};
  if (!norm.read() || !(eps >= 0.0) || threads < 1) return kBadSize;
  try {
    norm.measure(eps, stats);
    norm.write(stats, out);
  } catch (const std::bad_alloc&) {
    return kNoMemory;
  }
  return kOk;
}

// The gradients for that of `out`. `inner`, (pixels, copies * channels), becomes the gradient of the
// residual. of_slope and of_shift may be null.
API int mmesbnn_normalize_tokens_gradients(const float* x, int64_t pixels, int64_t channels,
                                           int64_t copies, const float* residual,
                                           const float* gain, const float* bias,
                                           const float* slope, const float* stats,
                                           const float* grad, int threads, float* of_x,
                                           float* inner, float* of_gain, float* of_bias,
                                           float* of_slope, float* of_shift) {
  const TokenNorm norm{pixels, channels, copies, x, residual, gain, bias, slope, nullptr, threads};
  if (!norm.read() || threads < 1) return kBadSize;
  try {
    norm.differentiate(stats, grad, inner, of_x, of_gain, of_bias, of_slope, of_shift);
  } catch (const std::bad_alloc&) {
    return kNoMemory;
  }
  return kOk;
}

// As mmesbnn_sign_gradient, for x, grad and out (pixels, channels).
API int mmesbnn_sign_gradient_tokens(const float* grad, const float* x, int64_t pixels,
                                     int64_t channels, const float* shift, int surrogate,
                                     float clip, int threads, float* out, float* of_shift) {
  if (product({pixels, channels, sizeof(float)}) < 0 || threads < 1 ||
      (surrogate != kWindow && surrogate != kTriangle))
    return kBadSize;
  try {
    PartSums sums(pixels, channels);
    for_parts(pixels, threads, [&](int64_t part, int64_t first, int64_t last) {
      const Kernels& use = chosen_kernels();
      for (int64_t at = first * channels; at < last * channels; at += channels)
        if (surrogate == kWindow)
          use.window_pixel(grad + at, x + at, shift, clip, channels, out + at, sums.of(part));
        else
          use.triangle_pixel(grad + at, x + at, shift, channels, out + at, sums.of(part));
    });
    for (int64_t c = 0; c < channels; ++c) of_shift[c] = static_cast<float>(sums.total(c));
  } catch (const std::bad_alloc&) {
    return kNoMemory;
  }
  return kOk;
}
