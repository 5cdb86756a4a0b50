// Compares the functions of an instruction set with the portable ones, bit for bit.
//
// Numbers are multiples of 1/2 between -2 and 2, and windows have a power of two of pixels. So
// all results are exact, although some instruction sets round a * b + c once and others twice.
#pragma once

#include <algorithm>
#include <cmath>

#include "../../mmesbnn/native/src/steps.h"
#include "counts.h"

namespace agreement {

inline bool comparisons_agree(const Kernels& kernels) {
  static const float kSpecial[] = {1.0f, -1.0f, 0.0f, -0.0f, INFINITY, -INFINITY, NAN, 1e-42f};
  const int count = 1 + static_cast<int>(up_to(63));
  std::vector<float> x(count);
  const bool only_signs = up_to(1) != 0;
  for (float& value : x) {
    value = up_to(1) ? 1.0f : -1.0f;
    if (!only_signs && up_to(3) == 0) value = kSpecial[up_to(7)];
  }
  const float limit = up_to(1) ? x[up_to(count - 1)] : some_float();
  int found[2] = {0, 0};
  return kPortable.compare(x.data(), count, limit, found) ==
             kernels.compare(x.data(), count, limit, found + 1) &&
         found[0] == found[1];
}

inline bool tiles_agree(const Kernels& kernels) {
  RealTile tile;
  tile.pixels = up_to(1) ? 1 : kRealPixels, tile.blocks = 1 + static_cast<int>(up_to(1));
  tile.taps = 1 + up_to(9), tile.channels = 1 + up_to(70);
  const auto values = some_floats(tile.channels * 20);
  const auto weights = some_floats(tile.blocks * tile.taps * tile.channels * kRealLanes);
  std::vector<const float*> rows(tile.taps * kRealPixels);
  for (const float*& row : rows) row = values.data() + up_to(19) * tile.channels;
  tile.rows = rows.data(), tile.weights = weights.data();
  tile.step = tile.blocks * kRealLanes + up_to(20);
  std::vector<float> expected(kRealPixels * tile.step, 7.0f), found = expected;
  tile.out = expected.data();
  kPortable.convolve(tile);
  tile.out = found.data();
  kernels.convolve(tile);
  return same(expected, found);
}

inline bool entries_agree(const Kernels& kernels) {
  const int terms = 1 + static_cast<int>(up_to(kSumTerms - 1));
  const int64_t rows = 1 + up_to(40);
  const auto values = some_floats(terms * 4 * kSumLanes), before = some_floats(rows * kSumLanes);
  std::vector<uint8_t> signs(rows * kSumTerms);
  for (uint8_t& four : signs) four = static_cast<uint8_t>(up_to(15) * kSumStep);
  std::vector<float> results[2];
  for (int i = 0; i < 2; ++i) {
    const Kernels& use = i == 0 ? kPortable : kernels;
    std::vector<float> tables(terms * kSumTable), sums = before;
    for (int term = 0; term < terms; ++term) {
      const float* first = values.data() + term * 4 * kSumLanes;
      const float* const four[4] = {first, first + kSumLanes, first + 2 * kSumLanes,
                                    first + 3 * kSumLanes};
      use.tabulate(four, tables.data() + term * kSumTable);
    }
    use.add_entries(tables.data(), signs.data(), terms, rows, sums.data());
    results[i] = tables;
    results[i].insert(results[i].end(), sums.begin(), sums.end());
  }
  return same(results[0], results[1]);
}

inline bool averages_agree(const Kernels& kernels) {
  const int64_t rows = 1 + up_to(40), count = 1 + up_to(70), next = count + up_to(20);
  auto values = some_floats(rows * next);
  for (float& value : values) value = value / 3 + up_to(1000);  // sums in float would be rounded
  std::vector<float> expected(count), found(count);
  for (int64_t c = 0; c < count; ++c) {
    double total = 0;
    for (int64_t row = 0; row < rows; ++row) total += values[row * next + c];
    expected[c] = static_cast<float>(total / 7);
  }
  kernels.average(values.data(), rows, next, 7, count, found.data());
  return same(expected, found);
}

// Results and sums of all passes of norms and signs, moments first.
inline std::vector<double> passes_of_norms(const Kernels& use, int64_t count, bool residual,
                                           bool slope, const std::vector<float>& maps) {
  const float *z = maps.data(), *other = z + count, *grad = other + count;
  std::vector<float> out(9 * count), sums(grad, grad + count), inners(grad, grad + count);
  std::vector<float> raised(grad, grad + count);
  std::vector<int16_t> integers(count);
  for (int64_t i = 0; i < count; ++i) integers[i] = static_cast<int16_t>(100 * z[i]);
  const NormPart part{count, z, residual ? other : nullptr, 0.5f, 1.0f, -2.0f, slope, 0.25f};
  const Moments moments = use.moments(z, count);
  NormSums of_part{};
  use.multiply(z, residual ? other : nullptr, 0.5f, count, out.data());
  const double total = use.activate(part, out.data() + count);
  use.differentiate(part, {grad, 0.5f, 1.0f}, out.data() + 2 * count, &of_part);
  use.accumulate(other, 0.5f, slope, count, sums.data());
  use.accumulate_inner(part, {grad, 0.5f, 1.0f}, 0.5f, residual, inners.data());
  const NormSlope line{2.0f, 0.5f, 1.0f, 0.25f};
  use.centre(grad, z, line, count, out.data() + 3 * count);
  const GatedPart gated{count, z, residual ? other : nullptr, grad, other, 0.5f, 0.25f, line};
  const double of_gate =
      use.differentiate_gated(gated, out.data() + 4 * count, out.data() + 5 * count);
  use.activate_sums({count, integers.data(), 0.5f, 0.25f, 1.0f, -2.0f, 0.75f,
                     residual ? other : nullptr},
                    out.data() + 6 * count);
  use.raise_by(0.5f, residual ? other : nullptr, count, raised.data());
  use.elastic(z, 0.5f, count, out.data() + 7 * count);
  const double of_clip = use.elastic_gradient(grad, z, 0.5f, count, out.data() + 8 * count);
  std::vector<double> found{moments.mean,     moments.squares,   of_part.grads, of_part.inners,
                            of_part.products, of_part.negatives, total,         of_gate,
                            of_clip,          use.add_up(z, count)};
  found.insert(found.end(), out.begin(), out.end());
  found.push_back(use.window(grad, z, 0.5f, 2.0f, count, out.data()));
  found.push_back(use.triangle(grad, z, 0.5f, count, out.data() + count));
  found.insert(found.end(), out.begin(), out.begin() + 2 * count);
  found.insert(found.end(), sums.begin(), sums.end());
  found.insert(found.end(), inners.begin(), inners.end());
  found.insert(found.end(), raised.begin(), raised.end());
  return found;
}

// The same for a pixel whose channels lie side by side.
inline std::vector<float> passes_of_a_pixel(const Kernels& use, int64_t channels, bool residual,
                                            bool slope, const std::vector<float>& maps) {
  const float *z = maps.data(), *other = z + channels, *grad = other + channels;
  const float *a = grad + channels, *b = a + channels, *c = b + channels;
  std::vector<float> found(21 * channels, 0.5f);
  float* to = found.data();
  const auto next = [&] { return to += channels, to - channels; };
  const NormPixel pixel{channels, z,                       residual ? other : nullptr, a,
                        b,        slope ? c : nullptr, slope ? a : nullptr};
  // the mean of two is exact
  float *const near = next(), *const distances = next();
  use.moments_of_rows(z, 2, channels, near, distances, next());
  std::vector<int16_t> integers(2 * channels);
  for (int64_t i = 0; i < 2 * channels; ++i) integers[i] = static_cast<int16_t>(100 * z[i]);
  float *const near_sums = next(), *const distances_of_sums = next();
  use.moments_of_sums(integers.data(), a, 2, channels, near_sums, distances_of_sums, next());
  use.activate_pixel(pixel, next());
  const PixelSums of_pixel{next(), next(), next(), next()};
  use.differentiate_pixel(pixel, grad, b, next(), of_pixel);
  use.accumulate_pixel(other, a, residual, channels, next());
  use.add_products(grad, z, channels, next());
  use.centre_pixel(grad, z, {a, b, c, other}, channels, next());
  use.signs_pixel(z, a, channels, next());
  float* const of_window = next();
  use.window_pixel(grad, z, a, 1.5f, channels, of_window, next());
  float* const of_triangle = next();
  use.triangle_pixel(grad, z, a, channels, of_triangle, next());
  return found;
}

inline bool pixels_agree(const Kernels& kernels) {
  const int64_t channels = 1 + up_to(150);
  const bool residual = up_to(1), slope = up_to(1);
  const auto maps = some_floats(6 * channels);
  const auto expected = passes_of_a_pixel(kPortable, channels, residual, slope, maps);
  const auto found = passes_of_a_pixel(kernels, channels, residual, slope, maps);
  return std::equal(expected.begin(), expected.end(), found.begin(), found.end());
}

inline bool norms_agree(const Kernels& kernels) {
  const int64_t count = 1 + up_to(150);
  const bool residual = up_to(1), slope = up_to(1);
  const auto maps = some_floats(3 * count);
  const auto expected = passes_of_norms(kPortable, count, residual, slope, maps);
  const auto found = passes_of_norms(kernels, count, residual, slope, maps);
  // distances from a mean are not exact
  const auto near = [&](int i) {
    return std::fabs(expected[i] - found[i]) <= 1e-5 * (1.0 + std::fabs(expected[i]));
  };
  return near(0) && near(1) && std::equal(expected.begin() + 2, expected.end(), found.begin() + 2);
}

// Some instructions at random, and all that they read and write.
class Sweep {
 public:
  Sweep() {
    rows_ = int64_t{1} << up_to(2), columns_ = int64_t{1} << up_to(2);
    width_ = columns_ * (1 + up_to(2)), height_ = rows_ * (1 + up_to(2));
    channels_ = 1 + up_to(199);
    // few pixels, so that sums are exact
    pixels_ = 1 + up_to(std::min(width_ * height_, int64_t{40}) - 1);
    pixel_ = up_to(width_ * height_ - pixels_);
    stride_ = channels_ + up_to(70);
    const int64_t length = 1 + up_to(kMost - 1);
    area_ = 8 * width_ * height_ * stride_;
    tile_ = 1 + up_to(width_ * height_);
    sums_ = some_floats((width_ * height_ / tile_ + 1) * kMost * channels_);
    constants_ = some_floats(4 * channels_);
    memory_ = some_floats((kTargets + length) * area_ / 4);
    auto* integers = reinterpret_cast<int16_t*>(memory_.data() + kIntegers * area_ / 4);
    const int64_t most_integer = length > 1 ? 4 : 1000;
    for (int64_t i = 0; i < area_ / 2; ++i)
      integers[i] = static_cast<int16_t>(up_to(2 * most_integer) - most_integer);
    for (int64_t i = 0; i < length; ++i) code_.push_back(instruction(i, i + 1 == length));
  }

  // Portable code keeps no result in the processor's registers here, and writes all of them.
  bool agrees(const Kernels& kernels) const {
    Sweep expected = *this, found = *this;
    link(expected.code_), link(found.code_);
    for (Instruction& one : expected.code_) one.forwarded = false, one.kept = true;
    expected.run(kPortable);
    found.run(kernels);
    return same(expected.memory_, found.memory_) && same(expected.sums_, found.sums_);
  }

  Op last() const { return code_.back().op; }

 private:
  enum Area { kSource, kIntegers, kTargets };
  static constexpr int64_t kMost = 4;  // instructions

  int64_t rows_, columns_, width_, height_, channels_, pixels_, pixel_, stride_;
  int64_t tile_;  // pixels that share sums
  int64_t area_;  // bytes of each map
  std::vector<float> sums_, constants_, memory_;
  std::vector<Instruction> code_;

  void run(const Kernels& kernels) {
    std::vector<float> registers(kAllRegisters * kRegister);
    std::vector<Ready> ready(kPieces * code_.size());
    Block block;
    block.code = code_.data(), block.length = static_cast<int>(code_.size());
    block.ready = ready.data(), block.memory = reinterpret_cast<char*>(memory_.data());
    block.constants = constants_.data(), block.registers = registers.data();
    block.sums = sums_.data(), block.tile = tile_, block.place = kMost * channels_;
    block.begin = pixel_, block.end = pixel_ + pixels_, block.channels = channels_;
    block.width = width_;
    kernels.run(block);
  }

  Operand map(Where where, int64_t area) const {
    return {where, area * area_, up_to(stride_ - channels_), channels_, stride_, rows_, columns_};
  }

  static Operand in_register(int64_t number) {
    return {Where::kRegister, number, 0, 1, 0, 1, 1};
  }

  Instruction instruction(int64_t number, bool last) {
    Instruction one{};
    // only the last one may be a sigmoid, because its results are not exact
    do one.op = static_cast<Op>(up_to(static_cast<int>(Op::kCount) - 1));
    while (one.op == Op::kSigmoid && !last);
    // results are not multiplied with each other, so that they remain exact
    const bool sum = one.op == Op::kAdd || one.op == Op::kSub || one.op == Op::kMax ||
                     one.op == Op::kMin || one.op == Op::kBits;
    one.a = operand(true), one.b = operand(sum), one.c = operand(true);
    one.d = operand(one.op == Op::kFmaAdd);
    one.to = target(one.op, number);
    // in place, if nothing else reads this map
    const auto reads = [](const Operand& x) {
      return x.where == Where::kMap || x.where == Where::kVector;
    };
    if (number == 0 && last && one.to.where == Where::kMap && one.a.where == Where::kMap &&
        one.a.period == channels_ && !reads(one.b) && !reads(one.c) && !reads(one.d))
      one.to = one.a;
    return one;
  }

  // An operand at random, which may be what an instruction before has written.
  Operand operand(bool result) const {
    if (result && !code_.empty() && up_to(1)) {
      const Operand& to = code_[up_to(code_.size() - 1)].to;
      if (to.where == Where::kRegister || to.where == Where::kMap) return to;
    }
    switch (up_to(3)) {
      case 0: return {Where::kConstant, up_to(3 * channels_), 0, 1, 0, 1, 1};
      case 1: return {Where::kVector, 0, up_to(stride_ - channels_), channels_, stride_, 1, 1};
      default: {
        Operand operand = up_to(1) ? map(Where::kMap, kSource) : map(Where::kMap16, kIntegers);
        operand.period = up_to(1) ? channels_ : 1 + up_to(channels_ - 1);
        return operand;
      }
    }
  }

  // Each instruction has a map and sums of its own.
  Operand target(Op op, int64_t number) const {
    if (op == Op::kBits) return map(Where::kBitMap, kTargets + number);
    switch (up_to(3)) {
      case 0: return in_register(up_to(1));
      case 1: return map(Where::kMap, kTargets + number);
      case 2: return {Where::kMean, 0, 0, channels_, number * channels_, 1, 1};
      default: return map(Where::kPool, kTargets + number);
    }
  }
};

}  // namespace agreement
