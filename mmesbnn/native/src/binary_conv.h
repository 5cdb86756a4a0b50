// Convolution of packed signs with packed weights, tile by tile of output pixels.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "kernels.h"
#include "pool.h"

namespace mmesbnn {

inline int64_t words_for(int64_t entries) { return (entries + 63) / 64; }

inline int64_t blocks_for(int64_t channels) { return (channels + kLanes - 1) / kLanes; }

// Geometry of a convolution; pairs are (vertical, horizontal), padding is above and to the left.
struct Window {
  int32_t kernel[2], stride[2], padding[2], dilation[2];

  int64_t taps() const { return int64_t{kernel[0]} * kernel[1]; }

  // Whether each output pixel is computed from the input pixel at its place.
  bool is_pointwise() const {
    return taps() == 1 && stride[0] == 1 && stride[1] == 1 && padding[0] == 0 && padding[1] == 0;
  }

  // Whether no tap is a padded pixel, if the first one is at (top, left).
  bool is_inside(int64_t top, int64_t left, int64_t height, int64_t width) const {
    return top >= 0 && left >= 0 && top + int64_t{dilation[0]} * (kernel[0] - 1) < height &&
           left + int64_t{dilation[1]} * (kernel[1] - 1) < width;
  }
};

// Where the windows of pixels begin, pixel by pixel; a division for each would take too long.
struct Corners {
  const Window& window;
  int64_t width, y, x;

  Corners(const Window& window, int64_t width, int64_t pixel)
      : window(window), width(width), y(pixel / width), x(pixel % width) {}
  int64_t top() const { return y * window.stride[0] - window.padding[0]; }
  int64_t left() const { return x * window.stride[1] - window.padding[1]; }
  void next() {
    if (++x == width) x = 0, ++y;
  }
};

// Rows that are shorter than this are counted word by word.
constexpr int64_t kLeastForPairs = 32;

// Writes the xor of all words up to each second one. Words and results are `stride` apart.
inline void write_prefixes(const uint64_t* words, int64_t stride, int64_t pairs, uint64_t* to) {
  uint64_t prefix = 0;
  for (int64_t i = 0; i < pairs; ++i) {
    prefix ^= words[2 * i * stride] ^ words[(2 * i + 1) * stride];
    to[i * stride] = prefix;
  }
}

// Rows that are longer than this do not fit the 16 bits in which count_nibbles counts.
constexpr int64_t kMostForNibbles = 1023;
// Packing weights for count_nibbles takes as long as counting them for some hundred pixels.
constexpr int64_t kLeastPixelsForNibbles = 512;

// Writes weights (blocks, words, kLanes) as (groups, words, 16, kNibbleLanes), four bits a byte.
inline void write_nibbles(const uint64_t* weights, int64_t words, int64_t groups, uint8_t* to) {
  for (int64_t first = 0; first < groups * kNibbleLanes; first += kNibbleLanes)
    for (int64_t k = 0; k < words; ++k, to += 16 * kNibbleLanes)
      for (int lane = 0; lane < kNibbleLanes; ++lane) {
        const int64_t block = (first + lane) / kLanes;
        const uint64_t word = weights[(block * words + k) * kLanes + lane % kLanes];
        for (int j = 0; j < 16; ++j)
          to[j * kNibbleLanes + lane] = static_cast<uint8_t>(word >> 4 * j & 15);
      }
}

struct BinaryConv {
  Window window;
  int64_t height, width, out_height, out_width;
  int64_t groups, channels, kernels;  // channels and kernels of a group
  int pad_value;                      // -1, 0 (a padded pixel adds nothing) or 1
  const uint64_t* weights;            // (groups, blocks, taps, words, lanes)
  std::vector<int32_t> excess;        // what a padded tap adds although it should add nothing
  std::vector<uint64_t> ones;
  std::vector<uint64_t> prefixes;     // of the weights, for count_pairs; may be empty
  std::vector<uint8_t> nibbles;       // of the weights, for count_nibbles; may be empty

  int64_t words() const { return words_for(channels); }
  int64_t lanes() const { return blocks_for(kernels) * kLanes; }

  // Groups of kNibbleLanes kernels; the others are left to `count`.
  int64_t nibble_groups() const { return kernels / kNibbleLanes; }

  // To be called once, after the other members are set; may throw std::bad_alloc. `pixels` is
  // the number of output pixels that it will be used for.
  void prepare(int64_t pixels) {
    const int64_t taps = window.taps(), words = this->words(), lanes = this->lanes();
    ones.assign(words, ~uint64_t{0});
    if (channels % 64) ones.back() = (uint64_t{1} << (channels % 64)) - 1;
    prepare_pairs();
    prepare_nibbles(pixels);
    excess.clear();
    if (pad_value != 0) return;
    // Padded taps are counted as -1.
    excess.resize(groups * taps * lanes);
    const std::vector<uint64_t> zeros(words);
    for (int64_t block = 0; block < groups * blocks_for(kernels); ++block)
      for (int64_t t = 0; t < taps; ++t) {
        const int64_t group = block / blocks_for(kernels), rest = block % blocks_for(kernels);
        int32_t* target = &excess[(group * taps + t) * lanes + rest * kLanes];
        chosen_kernels().count(zeros.data(), words, 1,
                               weights + (block * taps + t) * words * kLanes,
                               static_cast<int>(words), 1, target, kLanes);
        for (int lane = 0; lane < kLanes; ++lane)
          target[lane] = static_cast<int32_t>(channels) - 2 * target[lane];
      }
  }

 private:
  void prepare_pairs() {
    const int64_t row = window.taps() * words(), pairs = row / 2;
    prefixes.clear();
    if (chosen_kernels().count_pairs == nullptr || row < kLeastForPairs) return;
    prefixes.resize(groups * blocks_for(kernels) * pairs * kLanes);
    for (int64_t block = 0; block < groups * blocks_for(kernels); ++block)
      for (int lane = 0; lane < kLanes; ++lane)
        write_prefixes(weights + block * row * kLanes + lane, kLanes, pairs,
                       &prefixes[block * pairs * kLanes + lane]);
  }

  void prepare_nibbles(int64_t pixels) {
    const int64_t row = window.taps() * words(), blocks = blocks_for(kernels);
    nibbles.clear();
    if (chosen_kernels().count_nibbles == nullptr || row > kMostForNibbles ||
        pixels < kLeastPixelsForNibbles)
      return;
    nibbles.resize(groups * nibble_groups() * row * 16 * kNibbleLanes);
    for (int64_t group = 0; group < groups; ++group)
      write_nibbles(weights + group * blocks * row * kLanes, row, nibble_groups(),
                    nibbles.data() + group * nibble_groups() * row * 16 * kNibbleLanes);
  }
};

// What one piece of a convolution has counted, for some pixels.
struct Sums {
  const int32_t* differing;  // (pixels, lanes)
  const int32_t* wrong;      // what padded pixels add although they should not, or null
  int64_t lanes;
  int32_t total;

  // The sum of sign * sign of kernel o at pixel p.
  int32_t operator()(int64_t p, int64_t o) const {
    const int64_t at = p * lanes + o;
    return total - 2 * differing[at] - (wrong ? wrong[at] : 0);
  }
};

constexpr int kRows = 32;

// Gathers the input words of `count` output pixels, starting at `begin`; one row per pixel.
// outside[p * taps + t] is 1 if a tap is a padded pixel. Returns true if any tap is.
inline bool gather(const BinaryConv& conv, const uint64_t* x, int64_t group, int64_t begin,
                   int count, uint64_t* rows, uint8_t* outside) {
  const Window& w = conv.window;
  const int64_t words = conv.words(), taps = w.taps(), pixel = conv.groups * words;
  const uint64_t* filler = conv.pad_value == 1 ? conv.ones.data() : nullptr;
  const bool run = conv.groups == 1 && w.dilation[1] == 1;  // a kernel's row is one piece
  const int64_t piece = w.kernel[1] * words;
  Corners at(w, conv.out_width, begin);
  bool any = false;
  std::memset(outside, 0, count * taps);
  for (int p = 0; p < count; ++p, at.next()) {
    const int64_t top = at.top(), left = at.left();
    uint64_t* target = rows + p * taps * words;
    if (run && w.is_inside(top, left, conv.height, conv.width)) {
      const uint64_t* source = x + (top * conv.width + left) * words;
      const int64_t line = w.dilation[0] * conv.width * words;
      for (int dy = 0; dy < w.kernel[0]; ++dy, target += piece, source += line) {
        if (piece == 3)  // 3x3 kernels of up to 64 channels, for which a loop takes longer
          target[0] = source[0], target[1] = source[1], target[2] = source[2];
        else
          std::memcpy(target, source, sizeof(uint64_t) * piece);
      }
      continue;
    }
    for (int64_t t = 0; t < taps; ++t, target += words) {
      const int64_t y = top + t / w.kernel[1] * w.dilation[0];
      const int64_t column = left + t % w.kernel[1] * w.dilation[1];
      const bool inside = y >= 0 && y < conv.height && column >= 0 && column < conv.width;
      outside[p * taps + t] = !inside;
      any |= !inside;
      if (inside)
        std::memcpy(target, x + (y * conv.width + column) * pixel + group * words,
                    sizeof(uint64_t) * words);
      else if (filler)
        std::memcpy(target, filler, sizeof(uint64_t) * words);
      else
        std::memset(target, 0, sizeof(uint64_t) * words);
    }
  }
  return any;
}

// Calls store(image, group, begin, count, sums) with the sums of pixels from `begin` on. Returns
// false if there is not enough memory.
template <class Store>
bool convolve_bits(const BinaryConv& conv, const uint64_t* x, int64_t batch, int threads,
                   Store store) {
  const Window& w = conv.window;
  const int64_t taps = w.taps(), words = conv.words(), lanes = conv.lanes();
  const int64_t row = taps * words, pairs = row / 2, pixels = conv.out_height * conv.out_width;
  const int64_t tiles = (pixels + kRows - 1) / kRows, blocks = blocks_for(conv.kernels);
  const int64_t image_words = conv.height * conv.width * conv.groups * words;
  const int32_t total = static_cast<int32_t>(conv.channels * taps);
  const bool direct = w.is_pointwise() && conv.groups == 1 && conv.out_width == conv.width &&
                      conv.out_height == conv.height;
  const Kernels& use = chosen_kernels();
  std::atomic<bool> full{false};
  parallel(batch * tiles, threads, [&](int64_t first, int64_t last) {
    std::unique_ptr<uint64_t[]> rows(direct ? nullptr : new (std::nothrow) uint64_t[kRows * row]);
    std::unique_ptr<int32_t[]> sums(new (std::nothrow) int32_t[kRows * lanes]);
    std::unique_ptr<uint8_t[]> outside(new (std::nothrow) uint8_t[kRows * taps]);
    std::unique_ptr<int32_t[]> wrong(new (std::nothrow) int32_t[kRows * lanes]);
    std::unique_ptr<uint64_t[]> prefixes(new (std::nothrow) uint64_t[kRows * pairs]);
    if ((!direct && !rows) || !sums || !outside || !wrong || !prefixes) {
      full.store(true);
      return;
    }
    for (int64_t item = first; item < last; ++item) {
      const int64_t image = item / tiles, begin = item % tiles * kRows;
      const int count = static_cast<int>(std::min<int64_t>(kRows, pixels - begin));
      const uint64_t* source = x + image * image_words;
      for (int64_t group = 0; group < conv.groups; ++group) {
        bool any = false;
        const uint64_t* gathered = rows.get();
        if (direct)
          gathered = source + begin * words;
        else
          any = gather(conv, source, group, begin, count, rows.get(), outside.get());
        const uint64_t* weights = conv.weights + group * blocks * row * kLanes;
        if (!conv.nibbles.empty() && use.count_nibbles != nullptr) {
          const int64_t whole = conv.nibble_groups(), done = whole * (kNibbleLanes / kLanes);
          use.count_nibbles(gathered, row, count,
                            &conv.nibbles[group * whole * row * 16 * kNibbleLanes],
                            static_cast<int>(row), static_cast<int>(whole), sums.get(), lanes);
          use.count(gathered, row, count, weights + done * row * kLanes, static_cast<int>(row),
                    static_cast<int>(blocks - done), sums.get() + done * kLanes, lanes);
        } else if (conv.prefixes.empty() || use.count_pairs == nullptr) {
          use.count(gathered, row, count, weights, static_cast<int>(row),
                    static_cast<int>(blocks), sums.get(), lanes);
        } else {
          for (int p = 0; p < count; ++p)
            write_prefixes(gathered + p * row, 1, pairs, prefixes.get() + p * pairs);
          use.count_pairs(gathered, prefixes.get(), count, weights,
                          &conv.prefixes[group * blocks * pairs * kLanes], static_cast<int>(row),
                          static_cast<int>(blocks), sums.get(), lanes);
        }
        const bool corrects = any && !conv.excess.empty();
        if (corrects) {
          std::fill(wrong.get(), wrong.get() + count * lanes, 0);
          for (int64_t i = 0; i < count * taps; ++i) {
            if (!outside[i]) continue;
            const int32_t* added = &conv.excess[(group * taps + i % taps) * lanes];
            int32_t* target = wrong.get() + i / taps * lanes;
            for (int64_t o = 0; o < lanes; ++o) target[o] += added[o];
          }
        }
        store(image, group, begin, count,
              Sums{sums.get(), corrects ? wrong.get() : nullptr, lanes, total});
      }
    }
  });
  return !full.load();
}

}  // namespace mmesbnn
