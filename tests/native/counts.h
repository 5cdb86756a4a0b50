// Compares the ways in which binary convolutions count, bit for bit.
#pragma once

#include <cmath>

#include "../../mmesbnn/native/src/byte_conv.h"
#include "interface.h"

namespace agreement {

using namespace mmesbnn;

inline float some_float() {
  const float value = 0.5f * static_cast<float>(up_to(8) - 4);
  return up_to(1) ? value : -value;  // 0 of both signs
}

inline std::vector<float> some_floats(int64_t count) {
  std::vector<float> values(count);
  for (float& value : values) value = some_float();
  return values;
}

// Words at random, or all bits 0, or all 1.
inline std::vector<uint64_t> some_words(int64_t count) {
  const int64_t kind = up_to(4);
  std::vector<uint64_t> words(count);
  for (uint64_t& word : words) word = kind == 0 ? 0 : kind == 1 ? ~uint64_t{0} : chance();
  return words;
}

template <class T>
bool same(const std::vector<T>& a, const std::vector<T>& b) {
  return std::memcmp(a.data(), b.data(), sizeof(T) * a.size()) == 0;
}

inline bool counts_agree(const Kernels& kernels) {
  const int rows = 1 + static_cast<int>(up_to(8)), blocks = 1 + static_cast<int>(up_to(8));
  const int words = 1 + static_cast<int>(up_to(99));
  const int64_t row_stride = words + up_to(2), out_stride = blocks * kLanes + up_to(3);
  const auto x = some_words(rows * row_stride), w = some_words(int64_t{blocks} * words * kLanes);
  std::vector<int32_t> expected(rows * out_stride, -1), found = expected;
  kPortable.count(x.data(), row_stride, rows, w.data(), words, blocks, expected.data(), out_stride);
  kernels.count(x.data(), row_stride, rows, w.data(), words, blocks, found.data(), out_stride);
  return same(expected, found);
}

// A row of full adders counts what counting word by word does.
inline bool pairs_agree(const Kernels& kernels) {
  if (kernels.count_pairs == nullptr) return true;
  const int rows = 1 + static_cast<int>(up_to(8)), blocks = 1 + static_cast<int>(up_to(8));
  const int words = 1 + static_cast<int>(up_to(99));
  const int64_t out_stride = blocks * kLanes + up_to(3);
  const auto x = some_words(rows * words), w = some_words(int64_t{blocks} * words * kLanes);
  std::vector<uint64_t> of_w(w.size()), room((rows + 1) / 2 * 2 * words);
  for (int64_t i = 0; i < blocks * kLanes; ++i) {
    const int64_t at = i / kLanes * words * kLanes + i % kLanes;
    write_pairs(&w[at], words, &of_w[at]);
  }
  std::vector<int32_t> expected(rows * out_stride, -1), found = expected;
  kPortable.count(x.data(), words, rows, w.data(), words, blocks, expected.data(), out_stride);
  kernels.count_pairs(x.data(), rows, of_w.data(), words, blocks, room.data(), found.data(),
                      out_stride);
  return same(expected, found);
}

// A table of four bits counts what counting word by word does.
inline bool nibbles_agree(const Kernels& kernels) {
  if (kernels.count_nibbles == nullptr) return true;
  const int rows = 1 + static_cast<int>(up_to(8)), groups = 1 + static_cast<int>(up_to(4));
  const int64_t words = 1 + up_to(up_to(9) ? 99 : kMostForNibbles - 1), stride = words + up_to(3);
  const int64_t lanes = groups * kNibbleLanes, out_stride = lanes + up_to(3);
  const bool ends = up_to(3) == 0;  // all bits differ, so the sums are the largest ones
  auto x = some_words(rows * stride), w = some_words(lanes * words);
  if (ends) x.assign(x.size(), 0), w.assign(w.size(), ~uint64_t{0});
  std::vector<uint8_t> nibbles(lanes * words * 16);
  write_nibbles(w.data(), words, groups, nibbles.data());
  std::vector<int32_t> expected(rows * out_stride, -1), found = expected;
  kPortable.count(x.data(), stride, rows, w.data(), words, groups * kNibbleLanes / kLanes,
                  expected.data(), out_stride);
  kernels.count_nibbles(x.data(), stride, rows, nibbles.data(), words, groups, found.data(),
                        out_stride);
  return same(expected, found);
}

// What multiply_bytes and spread do, in plain loops.
inline void spread_by_loops(const uint64_t* words, int64_t step, int64_t count, uint64_t valid,
                            int8_t* out) {
  for (int64_t i = 0; i < count * 64; ++i)
    out[i] = (valid >> i % 64 & 1) == 0 ? 0 : (words[i / 64 * step] >> i % 64 & 1) ? 1 : -1;
}

inline void multiply_by_loops(const ByteProducts& p) {
  for (int64_t pixel = 0; pixel < p.strips * kMatrixRows; ++pixel)
    for (int64_t o = 0; o < p.halves * kMatrixRows; ++o) {
      int32_t& sum = p.out[pixel * kMatrixLanes + o] = 0;
      for (int64_t i = 0; i < p.words * 64; ++i) {
        const uint64_t* matrix = p.weights + (o / kMatrixRows * p.words + i / 64) * kMatrixRows;
        const uint64_t weight = matrix[i % 64 / 4] >> (o % kMatrixRows * 4 + i % 4) & 1;
        const int32_t byte = p.x[pixel * 64 + p.steps[i / 64] + i % 64];
        sum += weight ? -byte : byte;
      }
    }
}

inline bool bytes_agree(const Kernels& kernels) {
  if (kernels.multiply_bytes == nullptr) return true;
  const int64_t count = 1 + up_to(99), step = up_to(3);
  const uint64_t valid = up_to(1) ? chance() : ~uint64_t{0};
  const auto bits = some_words(count * step + 1);
  std::vector<int8_t> bytes(count * 64), expected = bytes;
  spread_by_loops(bits.data(), step, count, valid, expected.data());
  kernels.spread(bits.data(), step, count, valid, bytes.data());
  if (!same(expected, bytes)) return false;

  ByteProducts products{};
  products.strips = 1 + up_to(5), products.words = 1 + up_to(39);
  products.halves = 1 + static_cast<int>(up_to(1));
  const auto weights = some_words(products.halves * products.words * kMatrixRows);
  const int64_t pixels = products.strips * kMatrixRows, apart = up_to(999);
  bytes.resize(pixels * 64 + apart);
  for (int8_t& byte : bytes) byte = static_cast<int8_t>(up_to(2) - 1);
  std::vector<int64_t> steps(products.words);
  for (int64_t& to : steps) to = up_to(apart);
  products.x = bytes.data(), products.steps = steps.data(), products.weights = weights.data();
  std::vector<int32_t> found(pixels * kMatrixLanes, 7), sums = found;
  products.out = sums.data();
  multiply_by_loops(products);
  products.out = found.data();
  kernels.multiply_bytes(products);
  return same(sums, found);
}

template <class E>
bool sums_agree(const Kernels& kernels,
                void (*Kernels::*finish)(const Sums&, int64_t, int64_t, E*)) {
  const int64_t pixels = 1 + up_to(5), count = up_to(1) ? kMatrixLanes : 1 + up_to(99);
  const int64_t lanes = count + up_to(2), step = count + up_to(2);
  std::vector<int32_t> counts(pixels * lanes), wrong(pixels * lanes);
  for (int32_t& value : counts) value = static_cast<int32_t>(up_to(18000) - 9000);
  for (int32_t& value : wrong) value = static_cast<int32_t>(up_to(2000) - 1000);
  Sums sums{counts.data(), up_to(1) ? wrong.data() : nullptr, lanes, 0, 0, 0, count};
  sums.total = static_cast<int32_t>(up_to(9000)), sums.shift = static_cast<int>(up_to(1));
  std::vector<E> expected(pixels * step, E{7}), found = expected;
  for (int64_t p = 0; p < pixels; ++p)
    for (int64_t i = 0; i < count; ++i) {
      const int64_t at = p * lanes + i;
      const int32_t sum = sums.total - counts[at] * (1 + sums.shift);
      expected[p * step + i] = static_cast<E>(sum - (sums.wrong ? wrong[at] : 0));
    }
  (kernels.*finish)(sums, pixels, step, found.data());
  return same(expected, found);
}

// Bands of a convolution give what portable code counts, on every processor.
inline bool bands_agree() {
  Kernels loops = kPortable;
  loops.spread = spread_by_loops, loops.multiply_bytes = multiply_by_loops;
  BinaryConv conv{};
  int64_t in[2], out[2];
  for (int i = 0; i < 2; ++i) {
    Window& w = conv.window;
    for (int32_t* some : {w.kernel, w.stride, w.dilation})
      some[i] = 1 + static_cast<int32_t>(up_to(2));
    w.padding[i] = static_cast<int32_t>(up_to(2));
    const int64_t reach = int64_t{w.dilation[i]} * (w.kernel[i] - 1);
    in[i] = 1 + reach + up_to(40);
    out[i] = (in[i] + 2 * w.padding[i] - reach - 1) / w.stride[i] + 1;
  }
  conv.height = in[0], conv.width = in[1], conv.out_height = out[0], conv.out_width = out[1];
  conv.groups = 1 + up_to(1), conv.channels = 1 + up_to(130), conv.kernels = 1 + up_to(39);
  conv.pad_value = static_cast<int>(up_to(2) - 1);
  const int64_t words = conv.words(), lanes = conv.groups * conv.kernels, batch = 1 + up_to(1);
  auto x = some_words(batch * in[0] * in[1] * conv.groups * words);
  auto weights = some_words(conv.groups * conv.lanes() * conv.window.taps() * words);
  const uint64_t valid = ~uint64_t{0} >> (words * 64 - conv.channels);
  for (size_t i = words - 1; i < x.size(); i += words) x[i] &= valid;
  for (size_t i = 0; i < weights.size(); ++i)
    if (i / kLanes % words == static_cast<size_t>(words - 1)) weights[i] &= valid;
  conv.weights = weights.data();
  conv.prepare(1);
  conv.pack_matrices();
  std::vector<int32_t> expected(batch * lanes * out[0] * out[1]), found(expected.size(), -1);
  const auto to = [&](std::vector<int32_t>& sums) {
    return [&, at = sums.data()](int64_t image, int64_t group, int64_t begin, int count,
                                 const Sums& some) {
      const int64_t first = group * conv.kernels + some.first;
      for (int64_t p = 0; p < count; ++p)
        for (int64_t o = 0; o < some.kernels; ++o)
          at[(image * out[0] * out[1] + begin + p) * lanes + first + o] = some(p, o);
    };
  };
  const int threads = 1 + static_cast<int>(up_to(2));
  return convolve_bits(conv, x.data(), batch, threads, to(expected)) &&
         convolve_bytes(conv, loops, x.data(), batch, threads, to(found)) && same(expected, found);
}

}  // namespace agreement
