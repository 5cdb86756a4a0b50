// Training steps of a batch norm and the operations around it: few passes over memory, channel by
// channel, so that later passes over a channel find it in the cache.
#include <algorithm>

#include "api.h"
#include "arguments.h"
#include "kernels.h"
#include "map_parts.h"
#include "moments.h"
#include "pool.h"

using namespace mmesbnn;
using namespace mmesbnn::status;

namespace {

// A result of an earlier norm that is not written, but computed from sums wherever it is read:
//   x = act(factor (scales sums) + offset)
// where `act` is a PReLU, for copies of the sums. Null is none.
struct Unwritten {
  const float* numbers;  // (3, channels): factor, offset, slope
  int64_t copies;

  bool read(int64_t channels) const {
    return numbers ? copies >= 1 && channels % copies == 0 : copies == 1;
  }
};

// The operands of forward and backward pass; null is none. z = x, or gate x, or gate x residual,
// where x can be scales sums, or a result that is not written.
struct NormOperands {
  MapSizes sizes;
  const float* x;
  const int16_t* sums;
  const float* scales;
  Unwritten unwritten;
  const float *gate, *residual;
  bool multiplies;
  const float *gain, *bias, *slope, *shift;

  bool read() const {
    return sizes.read() && is_one_map(x, sums, scales) && unwritten.read(sizes.channels) &&
           (unwritten.numbers ? sums && gate : gate == nullptr || x) &&
           (gate == nullptr || (sizes.copies == 1 && slope == nullptr)) &&
           (!multiplies || (gate != nullptr && residual != nullptr));
  }
  int64_t place(int64_t image, int64_t channel, int64_t begin) const {
    return (image * sizes.wide() + channel) * sizes.pixels + begin;
  }
  int64_t place_of_x(int64_t image, int64_t channel, int64_t begin) const {
    return (image * sizes.channels + channel) * sizes.pixels + begin;
  }
  // Returns x of a piece; `memory` is for kPiece numbers.
  const float* x_of(int64_t image, int64_t channel, int64_t begin, int64_t count,
                    float* memory) const {
    if (x) return x + place_of_x(image, channel, begin);
    if (unwritten.numbers) return made(image, channel, begin, count, 1.0f, nullptr, memory);
    chosen_kernels().scale(sums + place_of_x(image, channel, begin), scales[channel], count,
                           memory);
    return memory;
  }
  // Returns z of a piece, whose x is given; `memory` is for kPiece numbers.
  const float* z_of(const float* x, int64_t image, int64_t channel, int64_t begin, int64_t count,
                    float* memory) const {
    if (gate == nullptr) return x;
    chosen_kernels().multiply(x, factor_of(image, channel, begin),
                              gate[image * sizes.channels + channel], count, memory);
    return memory;
  }
  const float* z_of(int64_t image, int64_t channel, int64_t begin, int64_t count,
                    float* memory) const {
    if (unwritten.numbers)
      return made(image, channel, begin, count, gate[image * sizes.channels + channel],
                  factor_of(image, channel, begin), memory);
    return z_of(x_of(image, channel, begin, count, memory), image, channel, begin, count, memory);
  }
  const float* factor_of(int64_t image, int64_t channel, int64_t begin) const {
    return multiplies ? residual + place(image, channel, begin) : nullptr;
  }
  // Computes x of a piece from sums, times numbers; null is 1.
  const float* made(int64_t image, int64_t channel, int64_t begin, int64_t count, float by,
                    const float* other, float* memory) const {
    const int64_t small = sizes.channels / unwritten.copies, of_sums = channel % small;
    const int16_t* from = sums + (image * small + of_sums) * sizes.pixels + begin;
    const float* numbers = unwritten.numbers + channel;
    const int64_t next = sizes.channels;
    chosen_kernels().activate_sums({count, from, scales[of_sums], numbers[0], numbers[next],
                                    numbers[2 * next], by, other},
                                   memory);
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
  float* unwritten_out;  // the numbers of `out` where that is null

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
    float memory[kPiece], unused[kPiece];
    for (int64_t image = 0; image < sizes.batch; ++image)
      for (int64_t copy = 0; copy < sizes.copies; ++copy) {
        const int64_t wide = copy * sizes.channels + channel;
        double sum = 0.0;
        for (int64_t begin = 0; begin < sizes.pixels; begin += kPiece) {
          const int64_t count = std::min(kPiece, sizes.pixels - begin);
          const float* z = z_of(image, channel, begin, count, memory);
          const NormPart part = this->part(image, wide, begin, count, z, mean, inverse);
          sum += chosen_kernels().activate(part, out ? out + place(image, wide, begin) : unused);
          if (out == nullptr) keep(part, unwritten_out + wide);
        }
        if (means)
          means[image * sizes.wide() + wide] =
              static_cast<float>(sum / static_cast<double>(sizes.pixels));
      }
  }

  void keep(const NormPart& part, float* numbers) const {
    numbers[0] = part.scale, numbers[sizes.wide()] = part.offset;
    numbers[2 * sizes.wide()] = part.slope;
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

  // Whether the gradient of what `act` gets is kept: it is also the residual's.
  bool keeps_inner() const { return of_residual != nullptr && gate == nullptr; }

  void run_channel(int64_t channel) const {
    const float mean = stats[channel], inverse = stats[sizes.channels + channel];
    float z_memory[kPiece];
    double inners = 0.0, products = 0.0;
    for (int64_t copy = 0; copy < sizes.copies; ++copy) {
      const int64_t wide = copy * sizes.channels + channel;
      NormSums sums{};
      for_parts(sizes, [&](int64_t image, int64_t begin, int64_t count) {
        const float* z = z_of(image, channel, begin, count, z_memory);
        chosen_kernels().differentiate(part(image, wide, begin, count, z, mean, inverse),
                                       grad_of(image, wide, begin, mean),
                                       keeps_inner() ? of_residual + place(image, wide, begin)
                                                     : nullptr,
                                       &sums);
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
    if (gate)
      write_gated(channel, slope);
    else
      write(channel, slope);
  }

  void write(int64_t channel, const NormSlope& slope) const {
    float z_memory[kPiece], copies[kPiece];
    for_parts(sizes, [&](int64_t image, int64_t begin, int64_t count) {
      const float* z = z_of(image, channel, begin, count, z_memory);
      for (int64_t copy = 0; copy < sizes.copies; ++copy)
        accumulate(image, channel, copy, begin, count, z, slope, copies);
      chosen_kernels().centre(copies, z, slope, count, of_x + place_of_x(image, channel, begin));
    });
  }

  // Adds the gradient of what `act` gets in a copy, times its gain.
  void accumulate(int64_t image, int64_t channel, int64_t copy, int64_t begin, int64_t count,
                  const float* z, const NormSlope& slope, float* copies) const {
    const Kernels& use = chosen_kernels();
    const int64_t wide = copy * sizes.channels + channel, at = place(image, wide, begin);
    if (keeps_inner())
      return use.accumulate(of_residual + at, gain[wide], copy == 0, count, copies);
    use.accumulate_inner(part(image, wide, begin, count, z, slope.mean, slope.scale),
                         grad_of(image, wide, begin, slope.mean), gain[wide], copy == 0, copies);
  }

  void write_gated(int64_t channel, const NormSlope& slope) const {
    float x_memory[kPiece], z_memory[kPiece];
    for (int64_t image = 0; image < sizes.batch; ++image) {
      const int64_t of_gates = image * sizes.channels + channel;
      double sum = 0.0;
      for (int64_t begin = 0; begin < sizes.pixels; begin += kPiece) {
        const int64_t count = std::min(kPiece, sizes.pixels - begin);
        const int64_t at = place(image, channel, begin);
        const float* x = x_of(image, channel, begin, count, x_memory);
        const float* z = z_of(x, image, channel, begin, count, z_memory);
        const GatedPart part{count, x, multiplies ? residual + at : nullptr, z, grad + at,
                             gate[of_gates], gain[channel], slope};
        sum += chosen_kernels().differentiate_gated(part, of_x + at,
                                                    multiplies ? of_residual + at : nullptr);
      }
      of_gate[of_gates] = static_cast<float>(sum);
    }
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
// for copies of z, channel by channel; z = x, or gate x, or with `multiplies` gate x residual;
// `act` is a PReLU or nothing. Where x is null it is scales sums, without a gate, or with a gate
//   x = prelu(factor (scales sums) + offset)
// for `unwritten_copies` copies of the sums. `unwritten` holds factor, offset and slope of the
// PReLU, (3, channels). A call without a gate writes them to `unwritten_out`, (3, copies *
// channels), if `out` is null, for a slope without residual and shift.
// x: (batch, channels, pixels); sums: (batch, channels / unwritten_copies, pixels); scales: as many
// as channels of sums; gate: (batch, channels), only for one copy without a slope; residual, out:
// (batch, copies * channels, pixels); gain, bias, slope, shift: (copies * channels); means: (batch,
// copies * channels), those of `out`; stats: (3, channels), mean, inverse of the standard
// deviation, and variance; with `measured` they are given.
// Gate, residual, slope, shift, means and unwritten may be null.
API int mmesbnn_normalize(const float* x, const int16_t* sums, const float* scales,
                          const float* unwritten, int64_t unwritten_copies, int64_t batch,
                          int64_t channels, int64_t copies, int64_t pixels, const float* gate,
                          const float* residual, int multiplies, const float* gain,
                          const float* bias, const float* slope, const float* shift, double eps,
                          int measured, int threads, float* out, float* means, float* stats,
                          float* unwritten_out) {
  const Forward step{{{batch, channels, copies, pixels},
                      x, sums, scales, {unwritten, unwritten_copies}, gate, residual,
                      multiplies != 0, gain, bias, slope, shift},
                     eps, measured != 0, out, means, stats, unwritten_out};
  if (!step.read() || !(eps >= 0.0) || threads < 1) return kBadSize;
  if (!out && !(unwritten_out && sums && slope && !residual && !shift)) return kBadSize;
  step.run(threads);
  return kOk;
}

// Gradients of the operands of mmesbnn_normalize, for those of `out` (grad) and of `means`
// (of_means, which may be null). of_x is written always; of_gate, if there is a gate; of_residual,
// if it is not null and there is a slope, or with `multiplies`, and must not be null then: without
// them it is grad. of_gain, of_bias: (copies * channels); of_slope and of_shift may be null.
API int mmesbnn_normalize_gradients(
    const float* x, const int16_t* sums, const float* scales, const float* unwritten,
    int64_t unwritten_copies, int64_t batch, int64_t channels, int64_t copies, int64_t pixels,
    const float* gate, const float* residual, int multiplies,
    const float* gain, const float* bias, const float* slope, const float* stats,
    const float* grad, const float* of_means, int threads,
    float* of_x, float* of_gate, float* of_residual, float* of_gain, float* of_bias,
    float* of_slope, float* of_shift) {
  const Backward step{{{batch, channels, copies, pixels},
                       x, sums, scales, {unwritten, unwritten_copies}, gate, residual,
                       multiplies != 0, gain, bias, slope, nullptr},
                      stats, grad, of_means, of_x, of_gate, of_residual, of_gain, of_bias,
                      of_slope, of_shift};
  if (!step.read() || threads < 1 || (gate && (of_means || !of_gate)) ||
      (multiplies && !of_residual))
    return kBadSize;
  step.run(threads);
  return kOk;
}
