// Geometry of convolutions in matrix registers: bands of rows of output pixels, whose windows are
// written as bytes.
//
// The pixels of a band lie side by side, row by row, and between rows some that are computed but
// not wanted. So strips need not end where a row ends, and a step from a window's pixel to another
// one is the same for all windows. With a stride, input pixels are divided into phases, the rests
// of their rows and columns, and those of a phase lie side by side.
#pragma once

#include <algorithm>
#include <vector>

#include "kernels.h"
#include "transpose.h"
#include "window.h"

namespace mmesbnn {

// Pixels of a band: so many that the weights, which are spread for each band, are used often.
constexpr int64_t kBandPixels = 800;
// A band of a thread of its own may have fewer, but not fewer than this.
constexpr int64_t kLeastBandPixels = 96;
// Bytes of a band's windows, which should fit in the second cache.
constexpr int64_t kMostBandBytes = int64_t{1} << 20;
// Windows that have fewer words, or one pixel, are counted as fast as they are spread.
constexpr int64_t kLeastWordsForMatrices = 8;
// Packing weights takes as long as multiplying them with this number of pixels.
constexpr int64_t kLeastPixelsForMatrices = 256;

struct Bands {
  const Window& window;
  int64_t height, width;  // of the output
  int64_t words;          // of an input pixel
  int64_t rows;           // of a band; the last one may have fewer
  int64_t columns;        // pixels of a phase in a row of the band's memory

  // As many bands as threads at least, if there are pixels enough: threads that share a band would
  // all write its windows, and each step of a network gives a thread about the same rows.
  Bands(const Window& window, int64_t height, int64_t width, int64_t words, int64_t threads)
      : window(window), height(height), width(width), words(words) {
    const int64_t most = std::max<int64_t>(1, kBandPixels / width);
    const int64_t wanted = std::min(threads, height * width / kLeastBandPixels);
    const int64_t bands = std::clamp<int64_t>(wanted, (height + most - 1) / most, height);
    rows = (height + bands - 1) / bands;
    columns = width + window.reach(1) / window.stride[1];
  }

  int64_t count() const { return (height + rows - 1) / rows; }
  int64_t rows_of(int64_t band) const { return std::min(rows, height - band * rows); }
  int64_t strips_of(int64_t rows) const {
    return ((rows - 1) * columns + width + kMatrixRows - 1) / kMatrixRows;
  }

  int64_t phases() const { return int64_t{window.stride[0]} * window.stride[1]; }
  // Rows of a phase for some rows of output pixels.
  int64_t rows_of_phase(int64_t rows) const { return rows + window.reach(0) / window.stride[0]; }

  // Bytes: [word][phase][row][column][64].
  int64_t phase_bytes() const { return rows_of_phase(rows) * columns * 64; }
  int64_t word_bytes() const { return phases() * phase_bytes(); }
  // With those that the last strip reads although nothing needs them.
  int64_t bytes() const { return words * word_bytes() + kMatrixRows * 64; }

  bool fit() const {
    // divisions, because the product could be too large for an integer
    const int64_t most = kMostBandBytes / 64 / words / phases() / rows_of_phase(rows);
    return columns <= most && 2 * width * rows >= strips_of(rows) * kMatrixRows;
  }

  // Bytes from the first pixel of a band to one of the first window, in the first word.
  int64_t step(int64_t y, int64_t x) const {
    const int64_t down = window.stride[0], across = window.stride[1];
    return (y % down * across + x % across) * phase_bytes() +
           (y / down * columns + x / across) * 64;
  }
  // The same for all words of a window, word by word, so that the pixels of a word are used nine
  // times, for example, while they are in the first cache.
  std::vector<int64_t> steps() const {
    std::vector<int64_t> steps;
    for (int64_t word = 0; word < words; ++word)
      for (int64_t dy = 0; dy < window.kernel[0]; ++dy)
        for (int64_t dx = 0; dx < window.kernel[1]; ++dx)
          steps.push_back(word * word_bytes() +
                          step(dy * window.dilation[0], dx * window.dilation[1]));
    return steps;
  }
};

// Groups of kMatrixRows kernels.
inline int64_t halves_for(int64_t kernels) { return (kernels + kMatrixRows - 1) / kMatrixRows; }

// Writes weights (blocks, taps, words, kLanes) as (halves, words, taps, kMatrixRows), the rows of a
// matrix of bytes: row j has the bits 4j to 4j + 3 of each kernel.
inline void write_matrices(const uint64_t* weights, int64_t taps, int64_t words, int64_t blocks,
                           uint64_t* to) {
  constexpr int64_t kBlocks = kMatrixRows / kLanes;
  for (int64_t first = 0; first < blocks; first += kBlocks)
    for (int64_t word = 0; word < words; ++word)
      for (int64_t tap = 0; tap < taps; ++tap, to += kMatrixRows) {
        for (int64_t lane = 0; lane < kMatrixRows; ++lane) {
          const int64_t block = first + lane / kLanes;
          const int64_t at = ((block * taps + tap) * words + word) * kLanes + lane % kLanes;
          to[lane] = block < blocks ? weights[at] : 0;
        }
        transpose<kMatrixRows>(to);
      }
}

}  // namespace mmesbnn
