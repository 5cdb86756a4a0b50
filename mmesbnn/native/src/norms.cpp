// Training steps of a batch norm and the operations around it, and of a sign with its shift: few
// passes over memory, channel by channel, so that later passes over a channel find it in the cache.
#include <algorithm>

#include "api.h"
#include "arguments.h"
#include "kernels.h"
#include "moments.h"
#include "pool.h"

using namespace mmesbnn;
using namespace mmesbnn::status;

namespace {

// Pixels of a piece: its maps fit in the first cache, and sums of float32 are short.
constexpr int64_t kPiece = 1024;

// Maps are (batch, channels, pixels), those of the norm's output (batch, copies * channels,
// pixels).
struct NormSizes {
  int64_t batch, channels, copies, pixels;

  bool read() const { return product({batch, channels, copies, pixels, sizeof(float)}) > 0; }
  int64_t wide() const { return copies * channels; }
  double count() const { return static_cast<double>(batch) * static_cast<double>(pixels); }
};

// Calls f(image, begin, count) for all parts of a channel.
template <class F>
void for_parts(const NormSizes& sizes, F f) {
  for (int64_t image = 0; image < sizes.batch; ++image)
    for (int64_t begin = 0; begin < sizes.pixels; begin += kPiece)
      f(image, begin, std::min(kPiece, sizes.pixels - begin));
}

// The operands of forward and backward pass; null is none. z = x, or gate x, or gate x residual, or
// scales sums.
struct NormOperands {
  NormSizes sizes;
  const float* x;
  const int16_t* sums;
  const float *scales, *gate, *residual;
  bool multiplies;
  const float *gain, *bias, *slope, *shift;

  bool read() const {
    return sizes.read() && is_one_map(x, sums, scales) && (gate == nullptr || x != nullptr) &&
           (gate == nullptr || (sizes.copies == 1 && slope == nullptr)) &&
           (!multiplies || (gate != nullptr && residual != nullptr));
  }
  int64_t place(int64_t image, int64_t channel, int64_t begin) const {
    return (image * sizes.wide() + channel) * sizes.pixels + begin;
  }
  int64_t place_of_x(int64_t image, int64_t channel, int64_t begin) const {
    return (image * sizes.channels + channel) * sizes.pixels + begin;
  }
  // Returns z of a piece; `memory` is for kPiece numbers.
  const float* z_of(int64_t image, int64_t channel, int64_t begin, int64_t count,
                    float* memory) const {
    const int64_t at = place_of_x(image, channel, begin);
    if (sums) {
      chosen_kernels().scale(sums + at, scales[channel], count, memory);
      return memory;
    }
    const float* from = x + at;
    if (gate == nullptr) return from;
    const float* other = multiplies ? residual + place(image, channel, begin) : nullptr;
    chosen_kernels().multiply(from, other, gate[image * sizes.channels + channel], count, memory);
    return memory;
  }
  // `channel` is one of the wide map.
  NormPart part(int64_t image, int64_t channel, int64_t begin, int64_t count, const float* z,
                float mean, float inverse) const {
    const float scale = gain[channel] * inverse;
    return {count,
            z,
            residual ? residual + place(image, channel, begin) : nullptr,
            scale,
            bias[channel] - mean * scale,
            shift ? shift[channel] : 0.0f,
            slope != nullptr,
            slope ? slope[channel] : 0.0f};
  }
};

struct Forward : NormOperands {
  double eps;
  bool measured;  // stats are given
  float *out, *means, *stats;

  // Writes mean, inverse of the standard deviation, and variance of a channel.
  void measure(int64_t channel) const {
    AllMoments all;
    float memory[kPiece];
    for_parts(sizes, [&](int64_t image, int64_t begin, int64_t count) {
      const float* z = z_of(image, channel, begin, count, memory);
      all.add(chosen_kernels().moments(z, count), count);
    });
    all.write(eps, sizes.channels, stats + channel);
  }

  void write(int64_t channel) const {
    const float mean = stats[channel], inverse = stats[sizes.channels + channel];
    float memory[kPiece];
    for (int64_t image = 0; image < sizes.batch; ++image)
      for (int64_t copy = 0; copy < sizes.copies; ++copy) {
        const int64_t wide = copy * sizes.channels + channel;
        double sum = 0.0;
        for (int64_t begin = 0; begin < sizes.pixels; begin += kPiece) {
          const int64_t count = std::min(kPiece, sizes.pixels - begin);
          const float* z = z_of(image, channel, begin, count, memory);
          sum += chosen_kernels().activate(part(image, wide, begin, count, z, mean, inverse),
                                           out + place(image, wide, begin));
        }
        if (means)
          means[image * sizes.wide() + wide] =
              static_cast<float>(sum / static_cast<double>(sizes.pixels));
      }
  }

  void run(int threads) const {
    parallel(sizes.channels, threads, [this](int64_t first, int64_t last) {
      for (int64_t channel = first; channel < last; ++channel) {
        if (!measured) measure(channel);
        write(channel);
      }
    });
  }
};

struct Backward : NormOperands {
  const float *stats, *grad, *of_means;
  float *of_x, *of_gate, *of_residual, *of_gain, *of_bias, *of_slope, *of_shift;

  NormGrad grad_of(int64_t image, int64_t wide, int64_t begin, float mean) const {
    const float more = of_means ? of_means[image * sizes.wide() + wide] /
                                      static_cast<float>(sizes.pixels)
                                : 0.0f;
    return {grad + place(image, wide, begin), more, mean};
  }

  // The gradient of what `act` gets, of a part. With a residual it is also the residual's.
  const float* inner_of(int64_t image, int64_t wide, int64_t begin, const NormPart& part,
                        float mean, float* memory, NormSums* sums) const {
    const bool kept = of_residual != nullptr && gate == nullptr;
    float* to = kept ? of_residual + place(image, wide, begin) : memory;
    chosen_kernels().differentiate(part, grad_of(image, wide, begin, mean), to, sums);
    return to;
  }

  void run_channel(int64_t channel) const {
    const float mean = stats[channel], inverse = stats[sizes.channels + channel];
    float z_memory[kPiece], memory[kPiece], copies[kPiece];
    double inners = 0.0, products = 0.0;
    for (int64_t copy = 0; copy < sizes.copies; ++copy) {
      const int64_t wide = copy * sizes.channels + channel;
      NormSums sums{};
      for_parts(sizes, [&](int64_t image, int64_t begin, int64_t count) {
        const float* z = z_of(image, channel, begin, count, z_memory);
        inner_of(image, wide, begin, part(image, wide, begin, count, z, mean, inverse), mean,
                 memory, &sums);
      });
      of_gain[wide] = static_cast<float>(sums.products * inverse);
      of_bias[wide] = static_cast<float>(sums.inners);
      if (of_slope) of_slope[wide] = static_cast<float>(sums.negatives);
      if (of_shift) of_shift[wide] = static_cast<float>(sums.grads);
      inners += gain[wide] * sums.inners, products += gain[wide] * sums.products;
    }
    const double number = sizes.count();
    const NormSlope slope{inverse, static_cast<float>(inners / number), mean,
                          static_cast<float>(products / number * inverse * inverse)};
    write(channel, slope, z_memory, memory, copies);
  }

  void write(int64_t channel, const NormSlope& slope, float* z_memory, float* memory,
             float* copies) const {
    const Kernels& use = chosen_kernels();
    for (int64_t image = 0; image < sizes.batch; ++image) {
      double of_the_gate = 0.0;
      for (int64_t begin = 0; begin < sizes.pixels; begin += kPiece) {
        const int64_t count = std::min(kPiece, sizes.pixels - begin);
        const float* z = z_of(image, channel, begin, count, z_memory);
        for (int64_t copy = 0; copy < sizes.copies; ++copy) {
          const int64_t wide = copy * sizes.channels + channel;
          const float* inner = again(image, wide, begin, count, z, slope, memory);
          use.accumulate(inner, gain[wide], copy == 0, count, copies);
        }
        const int64_t at = place_of_x(image, channel, begin);
        use.centre(copies, z, slope, count, gate ? memory : of_x + at);
        if (gate == nullptr) continue;
        of_the_gate += use.divide(memory, x + at, multiplies ? residual + at : nullptr, grad + at,
                                  gate[image * sizes.channels + channel], count, of_x + at,
                                  multiplies ? of_residual + at : nullptr);
      }
      if (gate) of_gate[image * sizes.channels + channel] = static_cast<float>(of_the_gate);
    }
  }

  // The same as inner_of, or what it has kept.
  const float* again(int64_t image, int64_t wide, int64_t begin, int64_t count, const float* z,
                     const NormSlope& slope, float* memory) const {
    if (of_residual != nullptr && gate == nullptr) return of_residual + place(image, wide, begin);
    if (this->slope == nullptr && of_means == nullptr) return grad + place(image, wide, begin);
    NormSums unused{};
    return inner_of(image, wide, begin,
                    part(image, wide, begin, count, z, slope.mean, slope.scale), slope.mean,
                    memory, &unused);
  }

  void run(int threads) const {
    parallel(sizes.channels, threads, [this](int64_t first, int64_t last) {
      for (int64_t channel = first; channel < last; ++channel) run_channel(channel);
    });
  }
};

}  // namespace

// A training step of a batch norm of z, over batch and pixels:
//   out = act(gain (z - mean) / sqrt(variance + eps) + bias + residual) + shift
// for copies of z, channel by channel; z = x, or gate x, or with `multiplies` gate x residual; or,
// where x is null and there is no gate, z = scales sums; `act` is a PReLU or nothing.
// x, sums: (batch, channels, pixels); scales: (channels); gate: (batch, channels), only for one
// copy without a slope; residual, out: (batch, copies * channels, pixels); gain, bias, slope,
// shift: (copies * channels); means: (batch, copies * channels), those of `out`; stats: (3,
// channels), mean, inverse of the standard deviation, and variance; with `measured` they are given.
// Gate, residual, slope, shift and means may be null.
API int mmesbnn_normalize(const float* x, const int16_t* sums, const float* scales, int64_t batch,
                          int64_t channels, int64_t copies, int64_t pixels, const float* gate,
                          const float* residual, int multiplies, const float* gain,
                          const float* bias, const float* slope, const float* shift, double eps,
                          int measured, int threads, float* out, float* means, float* stats) {
  const Forward step{{{batch, channels, copies, pixels},
                      x, sums, scales, gate, residual, multiplies != 0, gain, bias, slope, shift},
                     eps, measured != 0, out, means, stats};
  if (!step.read() || !(eps >= 0.0) || threads < 1) return kBadSize;
  step.run(threads);
  return kOk;
}

// Gradients of the operands of mmesbnn_normalize, for those of `out` (grad) and of `means`
// (of_means, which may be null). of_x is written always; of_gate, if there is a gate; of_residual,
// if it is not null and there is a slope, or with `multiplies`, and must not be null then: without
// them it is grad. of_gain, of_bias: (copies * channels); of_slope and of_shift may be null.
API int mmesbnn_normalize_gradients(
    const float* x, const int16_t* sums, const float* scales, int64_t batch, int64_t channels,
    int64_t copies, int64_t pixels, const float* gate, const float* residual, int multiplies,
    const float* gain, const float* bias, const float* slope, const float* stats,
    const float* grad, const float* of_means, int threads,
    float* of_x, float* of_gate, float* of_residual, float* of_gain, float* of_bias,
    float* of_slope, float* of_shift) {
  const Backward step{{{batch, channels, copies, pixels},
                       x, sums, scales, gate, residual, multiplies != 0, gain, bias, slope,
                       nullptr},
                      stats, grad, of_means, of_x, of_gate, of_residual, of_gain, of_bias,
                      of_slope, of_shift};
  if (!step.read() || threads < 1 || (gate && (of_means || !of_gate)) ||
      (multiplies && !of_residual))
    return kBadSize;
  step.run(threads);
  return kOk;
}

// The gradient of x in sign(x + shift), with a function that stands for the sign's derivative:
// kWindow: 1 where |x + shift| <= clip; kTriangle: max(0, 2 - 2|x + shift|).
// x, grad, out: (batch, channels, pixels), `out` may be `grad`; shift, of_shift: (channels).
API int mmesbnn_sign_gradient(const float* grad, const float* x, int64_t batch, int64_t channels,
                              int64_t pixels, const float* shift, int surrogate, float clip,
                              int threads, float* out, float* of_shift) {
  const NormSizes sizes{batch, channels, 1, pixels};
  if (!sizes.read() || threads < 1 || (surrogate != kWindow && surrogate != kTriangle))
    return kBadSize;
  parallel(channels, threads, [&](int64_t first, int64_t last) {
    const Kernels& use = chosen_kernels();
    for (int64_t channel = first; channel < last; ++channel) {
      double sum = 0.0;
      for_parts(sizes, [&](int64_t image, int64_t begin, int64_t count) {
        const int64_t at = (image * channels + channel) * pixels + begin;
        sum += surrogate == kWindow
                   ? use.window(grad + at, x + at, shift[channel], clip, count, out + at)
                   : use.triangle(grad + at, x + at, shift[channel], count, out + at);
      });
      of_shift[channel] = static_cast<float>(sum);
    }
  });
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
      if (centred) use.lower(static_cast<float>(mean), entries, out + from);
    }
  });
  return kOk;
}

// The gradients of x and slope of a PReLU: x, grad, of_x: (batch, channels, pixels); slope,
// of_slope: (channels).
API int mmesbnn_prelu_gradients(const float* grad, const float* x, int64_t batch, int64_t channels,
                                int64_t pixels, const float* slope, int threads, float* of_x,
                                float* of_slope) {
  const NormSizes sizes{batch, channels, 1, pixels};
  if (!sizes.read() || threads < 1) return kBadSize;
  parallel(channels, threads, [&](int64_t first, int64_t last) {
    for (int64_t channel = first; channel < last; ++channel) {
      NormSums sums{};
      for_parts(sizes, [&](int64_t image, int64_t begin, int64_t count) {
        const int64_t at = (image * channels + channel) * pixels + begin;
        const NormPart part{count, x + at, nullptr, 1.0f, 0.0f, 0.0f, true, slope[channel]};
        chosen_kernels().differentiate(part, {grad + at, 0.0f, 0.0f}, of_x + at, &sums);
      });
      of_slope[channel] = static_cast<float>(sums.negatives);
    }
  });
  return kOk;
}
