// Convolution of signs as bytes in matrix registers, band by band; see bands.h.
#pragma once

#include "binary_conv.h"

namespace mmesbnn {

// Memory of a thread for one band, and what it does with it.
class BandWork {
 public:
  // May throw std::bad_alloc.
  BandWork(const BinaryConv& conv, const Bands& bands, const Kernels& use)
      : conv_(conv), bands_(bands), use_(use), steps_(bands.steps()), bytes_(bands.bytes()),
        sums_(bands.strips_of(bands.rows) * kMatrixRows * kMatrixLanes) {}

  // Writes the windows of a band of a group of an image as bytes.
  void spread(const uint64_t* x, int64_t group, int64_t band) {
    const Window& w = bands_.window;
    const int64_t rows = (bands_.rows_of(band) - 1) * w.stride[0] + w.reach(0) + 1;
    const int64_t top = band * bands_.rows * w.stride[0] - w.padding[0];
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t phase = 0; phase < w.stride[1]; ++phase) {
        if (!needs(row % w.stride[0], 0) || !needs(phase, 1)) continue;
        for (int64_t word = 0; word < bands_.words; ++word)
          spread_row(x + group * bands_.words + word, word, top + row, phase,
                     &bytes_[word * bands_.word_bytes() + bands_.step(row, phase)]);
      }
  }

  // Multiplies them with kMatrixLanes kernels, or with those that are left, from `first` on.
  Sums multiply(int64_t group, int64_t band, int64_t first) {
    const int64_t row = steps_.size(), halves = halves_for(conv_.kernels);
    const int64_t half = first / kMatrixRows, at = (group * halves + half) * row * kMatrixRows;
    ByteProducts products;
    products.x = bytes_.data(), products.strips = bands_.strips_of(bands_.rows_of(band));
    products.steps = steps_.data(), products.words = row;
    products.weights = &conv_.matrices[at];
    products.halves = half + 1 < halves ? 2 : 1, products.out = sums_.data();
    use_.multiply_bytes(products);
    return {sums_.data(), nullptr, kMatrixLanes, 0, 0, first,
            std::min<int64_t>(kMatrixLanes, conv_.kernels - first)};
  }

 private:
  const BinaryConv& conv_;
  const Bands& bands_;
  const Kernels& use_;
  const std::vector<int64_t> steps_;
  Lines<int8_t> bytes_;
  Lines<int32_t> sums_;

  // Whether a window has pixels of this phase of rows or columns.
  bool needs(int64_t phase, int axis) const {
    const Window& w = bands_.window;
    for (int64_t tap = 0; tap < w.kernel[axis]; ++tap)
      if (tap * w.dilation[axis] % w.stride[axis] == phase) return true;
    return false;
  }

  // A word of the pixels of a phase in a row of the map, with the padded ones at its sides.
  void spread_row(const uint64_t* x, int64_t word, int64_t y, int64_t phase, int8_t* to) const {
    const Window& w = bands_.window;
    const int64_t pixel = conv_.groups * bands_.words, across = w.stride[1], all = bands_.columns;
    // those of the columns phase + across i - padding, for i from `begin` to `end`, are in the map
    const int64_t before = w.padding[1] - phase, after = before + conv_.width;
    int64_t begin = std::clamp<int64_t>((before + across - 1) / across, 0, all);
    int64_t end = std::clamp<int64_t>((after + across - 1) / across, 0, all);
    if (y < 0 || y >= conv_.height || after <= 0) begin = end = all;
    const uint64_t valid = conv_.ones[word];
    spread_padding(valid, begin, to);
    if (begin < end)
      use_.spread(x + (y * conv_.width + begin * across - before) * pixel, pixel * across,
                  end - begin, valid, to + begin * 64);
    spread_padding(valid, all - end, to + end * 64);
  }

  void spread_padding(uint64_t valid, int64_t count, int8_t* to) const {
    const uint64_t bits = conv_.pad_value > 0 ? valid : 0;
    use_.spread(&bits, 0, count, conv_.pad_value == 0 ? 0 : valid, to);
  }
};

// Like convolve_bits(), and kMatrixLanes kernels at a time.
template <class Store>
bool convolve_bytes(const BinaryConv& conv, const Kernels& use, const uint64_t* x, int64_t batch,
                    int threads, Store store) {
  const int64_t maps = batch * conv.groups;
  const Bands bands = conv.bands((threads + maps - 1) / maps);
  const int64_t parts = (conv.kernels + kMatrixLanes - 1) / kMatrixLanes;
  const int64_t image_words = conv.height * conv.width * conv.groups * conv.words();
  std::atomic<bool> full{false};
  parallel(maps * bands.count() * parts, threads, [&](int64_t first, int64_t last) {
    try {
      BandWork work(conv, bands, use);
      for (int64_t item = first; item < last; ++item) {
        const int64_t band = item / parts % bands.count();
        const int64_t outer = item / parts / bands.count();
        const int64_t group = outer % conv.groups, image = outer / conv.groups;
        if (item == first || item % parts == 0) work.spread(x + image * image_words, group, band);
        Sums sums = work.multiply(group, band, item % parts * kMatrixLanes);
        const int64_t rows = bands.rows_of(band), begin = band * bands.rows * bands.width;
        const bool whole = bands.columns == bands.width;
        const int64_t count = (whole ? rows : 1) * bands.width;
        for (int64_t row = 0; row < (whole ? 1 : rows); ++row) {
          store(image, group, begin + row * bands.width, static_cast<int>(count), sums);
          sums.counts += bands.columns * kMatrixLanes;
        }
      }
    } catch (const std::bad_alloc&) {
      full.store(true);
    }
  });
  return !full.load();
}

// In the way that is the fastest of those for which the convolution was prepared.
template <class Store>
bool convolve(const BinaryConv& conv, const uint64_t* x, int64_t batch, int threads, Store store) {
  const Kernels& use = chosen_kernels();
  return !conv.matrices.empty() && use.multiply_bytes != nullptr
             ? convolve_bytes(conv, use, x, batch, threads, store)
             : convolve_bits(conv, x, batch, threads, store);
}

}  // namespace mmesbnn
