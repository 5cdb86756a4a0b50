// Convolution of packed signs with packed weights, tile by tile of output pixels.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "bands.h"
#include "kernels.h"
#include "pool.h"
#include "window.h"

namespace mmesbnn {

// Allocates memory that begins at a cache line, so that no vector lies in two. resize() writes no
// zeros to it.
template <class T>
struct LineAllocator {
  using value_type = T;
  LineAllocator() = default;
  template <class U>
  LineAllocator(const LineAllocator<U>&) {}
  T* allocate(size_t count) {
    return static_cast<T*>(::operator new(count * sizeof(T), kLine));
  }
  void deallocate(T* at, size_t) { ::operator delete(at, kLine); }
  template <class U>
  void construct(U* at) {
    ::new (static_cast<void*>(at)) U;  // not 0
  }
  template <class U, class... Args>
  void construct(U* at, Args&&... args) {
    ::new (static_cast<void*>(at)) U(std::forward<Args>(args)...);
  }
  friend bool operator==(LineAllocator, LineAllocator) { return true; }
  friend bool operator!=(LineAllocator, LineAllocator) { return false; }

 private:
  static constexpr std::align_val_t kLine{64};
};

template <class T>
using Lines = std::vector<T, LineAllocator<T>>;

inline int64_t words_for(int64_t entries) { return (entries + 63) / 64; }

inline int64_t blocks_for(int64_t channels) { return (channels + kLanes - 1) / kLanes; }

// Rows that are shorter than this are counted word by word.
constexpr int64_t kLeastForPairs = 64;

// Copies weights of a lane for count_pairs: each second word becomes the xor of all up to it.
inline void write_pairs(const uint64_t* words, int64_t count, uint64_t* to) {
  uint64_t prefix = 0;
  for (int64_t i = 0; i < count; ++i) {
    prefix ^= words[i * kLanes];
    to[i * kLanes] = i % 2 ? prefix : words[i * kLanes];
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
  Lines<uint64_t> pairs;              // the weights for count_pairs; may be empty
  Lines<uint8_t> nibbles;             // the weights for count_nibbles; may be empty
  Lines<uint64_t> matrices;           // the weights for multiply_bytes; may be empty

  int64_t words() const { return words_for(channels); }
  int64_t lanes() const { return blocks_for(kernels) * kLanes; }

  // Groups of kNibbleLanes kernels; the others are left to `count`.
  int64_t nibble_groups() const { return kernels / kNibbleLanes; }

  // For each image and group, on some threads.
  Bands bands(int64_t threads) const {
    return {window, out_height, out_width, words(), threads};
  }

  // To be called once, after the other members are set; may throw std::bad_alloc. `pixels` is
  // the number of output pixels that it will be used for.
  void prepare(int64_t pixels) {
    const int64_t taps = window.taps(), words = this->words(), lanes = this->lanes();
    ones.assign(words, ~uint64_t{0});
    if (channels % 64) ones.back() = (uint64_t{1} << (channels % 64)) - 1;
    prepare_matrices(pixels);
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

  void pack_matrices() {
    const int64_t taps = window.taps(), blocks = blocks_for(kernels);
    const int64_t size = halves_for(kernels) * taps * words() * kMatrixRows;
    matrices.resize(groups * size);
    for (int64_t group = 0; group < groups; ++group)
      write_matrices(weights + group * blocks * taps * words() * kLanes, taps, words(), blocks,
                     &matrices[group * size]);
  }

 private:
  void prepare_matrices(int64_t pixels) {
    const int64_t row = window.taps() * words();
    matrices.clear();
    if (chosen_kernels().multiply_bytes == nullptr || pixels < kLeastPixelsForMatrices ||
        row < kLeastWordsForMatrices || window.taps() == 1 || kernels < kMatrixRows ||
        !bands(1).fit())
      return;
    pack_matrices();
  }

  void prepare_pairs() {
    const int64_t row = window.taps() * words();
    pairs.clear();
    if (chosen_kernels().count_pairs == nullptr || row < kLeastForPairs || !matrices.empty())
      return;
    pairs.resize(groups * blocks_for(kernels) * row * kLanes);
    for (int64_t block = 0; block < groups * blocks_for(kernels); ++block)
      for (int lane = 0; lane < kLanes; ++lane) {
        const int64_t at = block * row * kLanes + lane;
        write_pairs(weights + at, row, &pairs[at]);
      }
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

constexpr int kRows = 32;

// Copies windows whose first words are `next` apart. A window has some lines, `line` words apart,
// of `piece` words each. kPiece: `piece`, if it is known; else 0.
template <int64_t kPiece>
inline void copy_windows(const uint64_t* source, int64_t next, int64_t lines, int64_t line,
                         int64_t piece, int64_t count, uint64_t* target) {
  if (kPiece) piece = kPiece;
  for (int64_t i = 0; i < count; ++i, source += next)
    for (int64_t dy = 0; dy < lines; ++dy, target += piece)
      std::memcpy(target, source + dy * line, sizeof(uint64_t) * piece);
}

// Copies of short pieces have loops of their own, because calls would take longer: those of 3x3
// kernels with up to 64, 128, 256 and 512 channels.
inline decltype(&copy_windows<0>) copy_of(int64_t piece) {
  switch (piece) {
    case 3: return copy_windows<3>;
    case 6: return copy_windows<6>;
    case 12: return copy_windows<12>;
    case 24: return copy_windows<24>;
    default: return copy_windows<0>;
  }
}

// Gathers the input words of output pixels; one row of `taps` times `words` for each.
struct Gathering {
  const BinaryConv& conv;
  const Interior& interior;
  const uint64_t* x;
  int64_t group;
  uint64_t* rows;
  int32_t* padded;    // to write: p * taps + t for each tap t of pixel p that is a padded pixel
  int64_t found = 0;  // numbers in `padded`

  void run(int64_t begin, int count) {
    const Window& w = conv.window;
    const int64_t end = std::min(interior.across.end, conv.out_width);
    const bool whole = conv.groups == 1 && w.dilation[1] == 1;  // a kernel's row is one piece
    Corners at(w, conv.out_width, begin);
    for (int p = 0; p < count;) {
      if (whole && interior.has(at)) {
        const int64_t side_by_side = std::min<int64_t>(count - p, end - at.x);
        copy(at, p, side_by_side);
        p += static_cast<int>(side_by_side), at.skip(side_by_side);
      } else {
        collect(at, p++);
        at.next();
      }
    }
  }

 private:
  void copy(const Corners& at, int64_t p, int64_t count) const {
    const Window& w = conv.window;
    const int64_t words = conv.words(), piece = w.kernel[1] * words, lines = w.kernel[0];
    const uint64_t* source = x + (at.top() * conv.width + at.left()) * words;
    const auto use = copy_of(piece);
    use(source, w.stride[1] * words, lines, w.dilation[0] * conv.width * words, piece, count,
        rows + p * lines * piece);
  }

  // The taps of one pixel, some of which may be padded pixels.
  void collect(const Corners& at, int64_t p) {
    const Window& w = conv.window;
    const int64_t words = conv.words(), pixel = conv.groups * words;
    const size_t bytes = sizeof(uint64_t) * words;
    uint64_t* target = rows + p * w.taps() * words;
    int64_t tap = p * w.taps();
    for (int64_t dy = 0; dy < w.kernel[0]; ++dy)
      for (int64_t dx = 0; dx < w.kernel[1]; ++dx, ++tap, target += words) {
        const int64_t y = at.top() + dy * w.dilation[0], column = at.left() + dx * w.dilation[1];
        if (y >= 0 && y < conv.height && column >= 0 && column < conv.width) {
          std::memcpy(target, x + (y * conv.width + column) * pixel + group * words, bytes);
          continue;
        }
        padded[found++] = static_cast<int32_t>(tap);
        if (conv.pad_value == 1)
          std::memcpy(target, conv.ones.data(), bytes);
        else
          std::memset(target, 0, bytes);
      }
  }
};

// Calls store(image, group, begin, count, sums) with the sums of pixels from `begin` on, by words.
// Returns false if there is not enough memory.
template <class Store>
bool convolve_bits(const BinaryConv& conv, const uint64_t* x, int64_t batch, int threads,
                   Store store) {
  const Window& w = conv.window;
  const int64_t taps = w.taps(), words = conv.words(), lanes = conv.lanes();
  const int64_t row = taps * words, pixels = conv.out_height * conv.out_width;
  const int64_t tiles = (pixels + kRows - 1) / kRows, blocks = blocks_for(conv.kernels);
  const int64_t image_words = conv.height * conv.width * conv.groups * words;
  const int32_t total = static_cast<int32_t>(conv.channels * taps);
  const bool direct = w.is_pointwise() && conv.groups == 1 && conv.out_width == conv.width &&
                      conv.out_height == conv.height;
  const Interior interior(w, conv.height, conv.width);
  const Kernels& use = chosen_kernels();
  const bool by_pairs = !conv.pairs.empty() && use.count_pairs != nullptr;
  std::atomic<bool> full{false};
  parallel(batch * tiles, threads, [&](int64_t first, int64_t last) {
    std::unique_ptr<uint64_t[]> rows(direct ? nullptr : new (std::nothrow) uint64_t[kRows * row]);
    std::unique_ptr<int32_t[]> sums(new (std::nothrow) int32_t[kRows * lanes]);
    std::unique_ptr<int32_t[]> padded(new (std::nothrow) int32_t[kRows * taps]);
    std::unique_ptr<int32_t[]> wrong(new (std::nothrow) int32_t[kRows * lanes]);
    std::unique_ptr<uint64_t[]> room(by_pairs ? new (std::nothrow) uint64_t[kRows * row] : nullptr);
    if ((!direct && !rows) || !sums || !padded || !wrong || (by_pairs && !room)) {
      full.store(true);
      return;
    }
    for (int64_t item = first; item < last; ++item) {
      const int64_t image = item / tiles, begin = item % tiles * kRows;
      const int count = static_cast<int>(std::min<int64_t>(kRows, pixels - begin));
      const uint64_t* source = x + image * image_words;
      for (int64_t group = 0; group < conv.groups; ++group) {
        Gathering gathering{conv, interior, source, group, rows.get(), padded.get()};
        if (!direct) gathering.run(begin, count);
        const uint64_t* gathered = direct ? source + begin * words : rows.get();
        const uint64_t* weights = conv.weights + group * blocks * row * kLanes;
        if (!conv.nibbles.empty() && use.count_nibbles != nullptr) {
          const int64_t whole = conv.nibble_groups(), done = whole * (kNibbleLanes / kLanes);
          use.count_nibbles(gathered, row, count,
                            &conv.nibbles[group * whole * row * 16 * kNibbleLanes],
                            static_cast<int>(row), static_cast<int>(whole), sums.get(), lanes);
          use.count(gathered, row, count, weights + done * row * kLanes, static_cast<int>(row),
                    static_cast<int>(blocks - done), sums.get() + done * kLanes, lanes);
        } else if (by_pairs) {
          use.count_pairs(gathered, count, &conv.pairs[group * blocks * row * kLanes],
                          static_cast<int>(row), static_cast<int>(blocks), room.get(), sums.get(),
                          lanes);
        } else {
          use.count(gathered, row, count, weights, static_cast<int>(row),
                    static_cast<int>(blocks), sums.get(), lanes);
        }
        const bool corrects = gathering.found && !conv.excess.empty();
        if (corrects) {
          std::fill(wrong.get(), wrong.get() + count * lanes, 0);
          for (int64_t i = 0; i < gathering.found; ++i) {
            const int64_t tap = padded[i] % taps, p = padded[i] / taps;
            const int32_t* added = &conv.excess[(group * taps + tap) * lanes];
            int32_t* target = wrong.get() + p * lanes;
            for (int64_t o = 0; o < lanes; ++o) target[o] += added[o];
          }
        }
        store(image, group, begin, count,
              Sums{sums.get(), corrects ? wrong.get() : nullptr, lanes, total, 1, 0, conv.kernels});
      }
    }
  });
  return !full.load();
}

}  // namespace mmesbnn
