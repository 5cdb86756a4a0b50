// Training steps of signs, latent weights, PReLUs and probabilities.
#include <algorithm>
#include <memory>
#include <new>
#include <numeric>

#include "api.h"
#include "arguments.h"
#include "kernels.h"
#include "map_parts.h"
#include "moments.h"
#include "pool.h"

using namespace mmesbnn;
using namespace mmesbnn::status;

namespace {

int64_t pieces_of(int64_t count) { return (count + kPiece - 1) / kPiece; }

}  // namespace

// The gradient of x in sign(x + shift), with a function that stands for the sign's derivative:
// kWindow: 1 where |x + shift| <= clip; kTriangle: max(0, 2 - 2|x + shift|). Added to it are `more`
// and the gradient of the means of x over pixels, of_means; both may be null.
// x, grad, more, out: (batch, channels, pixels), `out` may be `grad`; of_means: (batch, channels);
// shift, of_shift: (channels).
API int mmesbnn_sign_gradient(const float* grad, const float* x, const float* more,
                              const float* of_means, int64_t batch, int64_t channels,
                              int64_t pixels, const float* shift, int surrogate, float clip,
                              int threads, float* out, float* of_shift) {
  const MapSizes sizes{batch, channels, 1, pixels};
  if (!sizes.read() || threads < 1 || (surrogate != kWindow && surrogate != kTriangle))
    return kBadSize;
  parallel(channels, threads, [&](int64_t first, int64_t last) {
    const Kernels& use = chosen_kernels();
    for (int64_t channel = first; channel < last; ++channel) {
      double sum = 0.0;
      for_parts(sizes, [&](int64_t image, int64_t begin, int64_t count) {
        const int64_t row = image * channels + channel, at = row * pixels + begin;
        sum += surrogate == kWindow
                   ? use.window(grad + at, x + at, shift[channel], clip, count, out + at)
                   : use.triangle(grad + at, x + at, shift[channel], count, out + at);
        const float by = of_means ? of_means[row] / static_cast<float>(pixels) : 0.0f;
        if (more || of_means) use.raise_by(by, more ? more + at : nullptr, count, out + at);
      });
      of_shift[channel] = static_cast<float>(sum);
    }
  });
  return kOk;
}

// Elastic binarization of probabilities: out[i] = clip where x[i] > clip / 2, else 0.
API int mmesbnn_elastic_values(const float* x, int64_t count, float clip, int threads, float* out) {
  if (product({count, sizeof(float)}) < 0 || threads < 1 || !(clip > 0.0f)) return kBadSize;
  parallel(pieces_of(count), threads, [=](int64_t first, int64_t last) {
    const int64_t begin = first * kPiece, end = std::min(last * kPiece, count);
    chosen_kernels().elastic(x + begin, clip, end - begin, out + begin);
  });
  return kOk;
}

// The gradients of x and clip in mmesbnn_elastic_values, for that of `out`; of_clip: one number.
API int mmesbnn_elastic_gradients(const float* grad, const float* x, int64_t count, float clip,
                                   int threads, float* of_x, float* of_clip) {
  if (product({count, sizeof(float)}) < 0 || threads < 1 || !(clip > 0.0f)) return kBadSize;
  const int64_t pieces = pieces_of(count);
  const std::unique_ptr<double[]> sums(new (std::nothrow) double[pieces]);
  if (!sums) return kNoMemory;
  parallel(pieces, threads, [&](int64_t first, int64_t last) {
    for (int64_t piece = first; piece < last; ++piece) {
      const int64_t begin = piece * kPiece, length = std::min(kPiece, count - begin);
      sums[piece] = chosen_kernels().elastic_gradient(grad + begin, x + begin, clip, length,
                                                       of_x + begin);
    }
  });
  // in one order, however many threads there are
  *of_clip = static_cast<float>(std::accumulate(sums.get(), sums.get() + pieces, 0.0));
  return kOk;
}

// The gradient of a latent weight, of that of its sign: grad where |weight - limit| <= clip, else
// 0; with `centred`, where the limit is the mean of a kernel, less its mean over the kernel.
// weight, grad, out: (kernels, entries), `out` may be `grad`; limits: (kernels).
API int mmesbnn_latent_gradient(const float* grad, const float* weight, const float* limits,
                                int64_t kernels, int64_t entries, float clip, int centred,
                                int threads, float* out) {
  if (product({kernels, entries, sizeof(float)}) < 0 || threads < 1) return kBadSize;
  parallel(kernels, threads, [=](int64_t first, int64_t last) {
    const Kernels& use = chosen_kernels();
    for (int64_t kernel = first; kernel < last; ++kernel) {
      double sum = 0.0;
      const int64_t from = kernel * entries, end = from + entries;
      for (int64_t at = from; at < end; at += kPiece)
        sum += use.window(grad + at, weight + at, -limits[kernel], clip, std::min(kPiece, end - at),
                          out + at);
      const double mean = sum / static_cast<double>(entries);
      if (centred) use.raise_by(static_cast<float>(-mean), nullptr, entries, out + from);
    }
  });
  return kOk;
}

// The gradients of x and slope of a PReLU: x, grad, of_x: (batch, channels, pixels); slope,
// of_slope: (channels).
API int mmesbnn_prelu_gradients(const float* grad, const float* x, int64_t batch, int64_t channels,
                                int64_t pixels, const float* slope, int threads, float* of_x,
                                float* of_slope) {
  const MapSizes sizes{batch, channels, 1, pixels};
  if (!sizes.read() || threads < 1) return kBadSize;
  parallel(channels, threads, [&](int64_t first, int64_t last) {
    for (int64_t channel = first; channel < last; ++channel) {
      NormSums sums{};
      for_parts(sizes, [&](int64_t image, int64_t begin, int64_t count) {
        const int64_t at = (image * channels + channel) * pixels + begin;
        chosen_kernels().differentiate(prelu_of(x + at, slope[channel], count),
                                       {grad + at, 0.0f, 0.0f}, of_x + at, &sums);
      });
      of_slope[channel] = static_cast<float>(sums.negatives);
    }
  });
  return kOk;
}
