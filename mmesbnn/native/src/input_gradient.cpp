// Gradient of a binary convolution with respect to its input.
//
//   out[n, c, q] = sum over taps and kernels o of scale[o] sign[o, c, tap] grad[n, o, p]
//
// where p stride + tap dilation - padding = q. Lanes are input pixels, a term is four kernels at a
// tap. Pixels whose positions are equal modulo the stride meet the same taps, so they are computed
// together: a phase. Gradients have a margin of zeros after each row and each image, so that the
// lanes of a phase lie side by side for every tap. A kernel of one pixel needs no margins: its
// gradients are copied as they are used.
#include <atomic>
#include <vector>

#include "api.h"
#include "signed_sums.h"

using namespace mmesbnn;
using namespace mmesbnn::status;

namespace {

// Positions first, first + stride, ... of an axis. A tap adds the gradient that stands `shift`
// places after the number of the position.
struct Phase {
  struct Tap {
    int64_t number, shift;
  };
  int64_t first, count;
  std::vector<Tap> taps;
};

std::vector<Phase> phases_of(const Window& window, int axis, int64_t size, int64_t gradients) {
  std::vector<Phase> phases;
  const int64_t stride = window.stride[axis];
  for (int64_t first = 0; first < std::min(stride, size); ++first) {
    Phase phase{first, (size - first + stride - 1) / stride, {}};
    for (int64_t tap = 0; tap < window.kernel[axis]; ++tap) {
      const int64_t start = first + window.padding[axis] - tap * window.dilation[axis];
      if (start % stride != 0) continue;
      const int64_t shift = start / stride;
      if (shift < gradients && phase.count + shift > 0) phase.taps.push_back({tap, shift});
    }
    phases.push_back(phase);
  }
  return phases;
}

// Zeros between the gradients of neighbours on an axis, and how far lanes reach before the first
// and after the last one.
struct Reach {
  int64_t margin = 0, before = 0, after = 0;

  Reach(const std::vector<Phase>& phases, int64_t gradients) {
    for (const Phase& phase : phases) {
      margin = std::max(margin, phase.count - gradients);
      for (const Phase::Tap& tap : phase.taps) {
        before = std::max(before, -tap.shift);
        after = std::max(after, tap.shift);
        margin = std::max({margin, -tap.shift, phase.count + tap.shift - gradients});
      }
    }
  }
};

// to[k * plane + i] = scales[k] * the gradient of kernel k at pixel i, for i < count.
void copy_scaled(const float* from, const Strides& strides, int64_t count, int64_t kernels,
                 const float* scales, float* to, int64_t plane) {
  const bool squares = strides.channel == 1;
  const int64_t rows = squares ? count / 4 * 4 : 0, whole = squares ? kernels / 4 * 4 : 0;
  for (int64_t i = 0; i < rows; i += 4)
    for (int64_t k = 0; k < whole; k += 4)
      transpose_scaled(from + i * strides.pixel + k, strides.pixel, scales + k,
                       to + k * plane + i, plane);
  for (int64_t k = 0; k < kernels; ++k) {
    const float* x = from + k * strides.channel;
    float* y = to + k * plane;
    if (strides.pixel == 1)
      for (int64_t i = 0; i < count; ++i) y[i] = scales[k] * x[i];
    else
      for (int64_t i = k < whole ? rows : 0; i < count; ++i)
        y[i] = scales[k] * x[i * strides.pixel];
  }
}

// to(i, c) = from[c * kSumLanes + i] for i < count and c < channels.
void copy_sums(const float* from, int64_t count, int64_t channels, float* to,
               const Strides& strides) {
  const bool squares = strides.channel == 1;
  const int64_t whole = squares ? channels / 4 * 4 : 0, rows = squares ? count / 4 * 4 : 0;
  for (int64_t i = 0; i < rows; i += 4)
    for (int64_t c = 0; c < whole; c += 4)
      transpose_scaled(from + c * kSumLanes + i, kSumLanes, kOnes, to + i * strides.pixel + c,
                       strides.pixel);
  for (int64_t c = 0; c < channels; ++c) {
    const float* x = from + c * kSumLanes;
    float* y = to + c * strides.channel;
    if (strides.pixel == 1)
      std::memcpy(y, x, sizeof(float) * count);
    else
      for (int64_t i = c < whole ? rows : 0; i < count; ++i) y[i * strides.pixel] = x[i];
  }
}

struct InputGradient {
  const ConvSizes& sizes;
  bool channels_last;  // the channels of gradients and of the result are their last axis
  const float* grad;
  const uint64_t* weights;  // (groups, blocks, taps, words, kLanes)
  const float* scales;
  float* out;
  int threads;

  std::vector<Phase> vertical{}, horizontal{};
  int64_t rows = 0, pitch = 0;    // of an image with its margin
  int64_t before = 0, plane = 0;  // zeros before the first image; floats of a kernel in all
  int64_t quads = 0;         // terms of a tap: four kernels each
  float* padded = nullptr;   // (groups, 4 quads, plane); null for a kernel of one pixel
  uint8_t* signs = nullptr;  // of a phase: (groups, batches, words, kWordSigns)

  Strides of_grad =
      strides_of(sizes.groups * sizes.kernels, sizes.out_height * sizes.out_width, channels_last);
  Strides of_out =
      strides_of(sizes.groups * sizes.channels, sizes.height * sizes.width, channels_last);

  // Then lanes are the output pixels one after another.
  const bool pointwise = sizes.window.is_pointwise();

  int run() {
    vertical = phases_of(sizes.window, 0, sizes.height, sizes.out_height);
    horizontal = phases_of(sizes.window, 1, sizes.width, sizes.out_width);
    const Reach up(vertical, sizes.out_height), along(horizontal, sizes.out_width);
    rows = sizes.out_height + up.margin;
    pitch = sizes.out_width + along.margin;
    before = up.before * pitch + along.before;
    quads = (sizes.kernels + 3) / 4;
    const int64_t pixels = product({sizes.batch, rows, pitch});
    if (pixels < 0) return kNoMemory;
    plane = before + pixels + up.after * pitch + along.after + kSumLanes;
    const int64_t floats = pointwise ? 0 : product({sizes.groups, 4 * quads, plane});
    const int64_t bytes = product({sizes.groups, batches_for(sizes.window.taps() * quads),
                                   words_for(sizes.channels), kWordSigns});
    Arena& arena = Arena::of_a_call();
    if (floats < 0 || bytes < 0 || !arena.reserve({4 * floats, bytes})) return kNoMemory;
    if (!pointwise) padded = arena.get<float>(floats);
    signs = arena.get<uint8_t>(bytes);
    if (padded) pad_all();
    for (const Phase& up : vertical)
      for (const Phase& along : horizontal)
        if (!compute(up, along)) return kNoMemory;
    return kOk;
  }

  // Kernels whose gradients are copied together: those of a line of the cache.
  static constexpr int64_t kKernelsAtOnce = 16;

  void pad_all() const {
    const int64_t parts = (4 * quads + kKernelsAtOnce - 1) / kKernelsAtOnce;
    parallel(sizes.groups * parts, threads, [&](int64_t first, int64_t end) {
      for (int64_t part = first; part < end; ++part) {
        pad(part / parts, part % parts * kKernelsAtOnce);
      }
    });
  }

  // Copies the gradients of some kernels, with their scales, between zeros.
  void pad(int64_t group, int64_t kernel) const {
    float* to = padded + (group * 4 * quads + kernel) * plane;
    std::fill(to, to + std::min(kKernelsAtOnce, 4 * quads - kernel) * plane, 0.0f);
    const int64_t channel = group * sizes.kernels + kernel;
    for (int64_t image = 0; image < sizes.batch; ++image)
      for (int64_t y = 0; y < sizes.out_height; ++y)
        copy_scaled(grad + image * of_grad.image + channel * of_grad.channel +
                        y * sizes.out_width * of_grad.pixel,
                    of_grad, sizes.out_width, std::min(kKernelsAtOnce, sizes.kernels - kernel),
                    scales + channel, to + before + (image * rows + y) * pitch, plane);
  }

  // Copies the gradients of a group for kSumLanes output pixels, with their scales.
  void copy_lanes(int64_t group, int64_t lane, float* to) const {
    const int64_t channel = group * sizes.kernels, pixels = sizes.out_height * sizes.out_width;
    std::fill(to, to + 4 * quads * kSumLanes, 0.0f);
    const int64_t end = std::min(lane + kSumLanes, sizes.batch * pixels);
    for (int64_t at = lane, next; at < end; at = next) {  // a piece of an image
      next = std::min(end, (at / pixels + 1) * pixels);
      copy_scaled(grad + at / pixels * of_grad.image + channel * of_grad.channel +
                      at % pixels * of_grad.pixel,
                  of_grad, next - at, sizes.kernels, scales + channel, to + (at - lane),
                  kSumLanes);
    }
  }

  // Number of a tap, floats from a lane to its gradient, and number of four kernels.
  struct Term {
    int64_t tap, shift, quad;
  };

  std::vector<Term> terms_of(const Phase& up, const Phase& along) const {
    std::vector<Term> terms;  // those of the same gradients together, while the cache has them
    for (int64_t quad = 0; quad < quads; ++quad)
      for (const Phase::Tap& y : up.taps)
        for (const Phase::Tap& x : along.taps)
          terms.push_back({y.number * sizes.window.kernel[1] + x.number,
                           y.shift * pitch + x.shift, quad});
    return terms;
  }

  // Signs of a batch of terms of a group.
  void read_signs(const std::vector<Term>& terms, int64_t item) const {
    const int64_t batches = batches_for(terms.size()), words = words_for(sizes.channels);
    const int64_t group = item / batches, begin = item % batches * kSumTerms;
    const uint64_t* four[kSumTerms][4];
    for (int64_t i = 0; i < kSumTerms; ++i) {  // those after the last one are not read
      const Term& term = terms[std::min<int64_t>(begin + i, terms.size() - 1)];
      const int64_t block = group * blocks_for(sizes.kernels) + 4 * term.quad / kLanes;
      const int64_t at = (block * sizes.window.taps() + term.tap) * words * kLanes;
      for (int k = 0; k < 4; ++k) four[i][k] = weights + at + 4 * term.quad % kLanes + k;
    }
    uint8_t* to = signs + item * words * kWordSigns;
    for (int64_t word = 0; word < words; ++word, to += kWordSigns) {
      write_signs(four, to);
      for (auto& term : four)
        for (const uint64_t*& kernel : term) kernel += kLanes;
    }
  }

  bool compute(const Phase& up, const Phase& along) const {
    const int64_t lanes = sizes.batch * rows * pitch, blocks = (lanes + kSumLanes - 1) / kSumLanes;
    const int64_t size = rows_of_an_item(sizes.channels, 512, sizes.groups * blocks, threads);
    const int64_t pieces = (sizes.channels + size - 1) / size;
    const std::vector<Term> terms = terms_of(up, along);
    parallel(sizes.groups * batches_for(terms.size()), threads, [&](int64_t first, int64_t last) {
      for (int64_t item = first; item < last; ++item) read_signs(terms, item);
    });
    std::atomic<bool> full{false};
    parallel(sizes.groups * pieces * blocks, threads, [&](int64_t first, int64_t last) {
      Arena& arena = Arena::of_a_part();
      const int64_t copied = pointwise ? 4 * quads * kSumLanes : 0;
      if (!arena.reserve({4 * size * kSumLanes, 4 * kSumTerms * kSumTable, 4 * copied})) {
        full.store(true);
        return;
      }
      float* const sums = arena.get<float>(size * kSumLanes);
      float* const tables = arena.get<float>(kSumTerms * kSumTable);
      float* const lanes_of_kernels = arena.get<float>(copied);
      for (int64_t item = first; item < last; ++item) {
        const int64_t lane = item % blocks * kSumLanes, piece = item / blocks % pieces;
        const int64_t group = item / blocks / pieces, channel = piece * size;
        const int64_t count = std::min(size, sizes.channels - channel);
        std::fill(sums, sums + count * kSumLanes, 0.0f);
        if (pointwise) copy_lanes(group, lane, lanes_of_kernels);
        const float* from = pointwise ? lanes_of_kernels
                                        : padded + group * 4 * quads * plane + before + lane;
        add(terms, from, pointwise ? kSumLanes : plane, group, channel, count, tables, sums);
        write(up, along, lane, group * sizes.channels + channel, count, sums);
      }
    });
    return !full.load();
  }

  // `grads` are those of the first lane; from kernel to kernel are `step` floats.
  void add(const std::vector<Term>& terms, const float* grads, int64_t step, int64_t group,
           int64_t channel, int64_t count, float* tables, float* sums) const {
    const Kernels& use = chosen_kernels();
    const int64_t batches = batches_for(terms.size()), words = words_for(sizes.channels);
    const uint8_t* from = signs + group * batches * words * kWordSigns + channel * kSumTerms;
    for (int64_t batch = 0; batch < batches; ++batch, from += words * kWordSigns) {
      const Term* term = &terms[batch * kSumTerms];
      const int some = terms_of_batch(batch, terms.size());
      for (int i = 0; i < some; ++i, ++term) {
        const float* at = grads + term->quad * 4 * step + term->shift;
        const float* const four[4] = {at, at + step, at + 2 * step, at + 3 * step};
        use.tabulate(four, tables + i * kSumTable);
      }
      use.add_entries(tables, from, some, count, sums);
    }
  }

  void write(const Phase& up, const Phase& along, int64_t lane, int64_t channel, int64_t count,
             const float* sums) const {
    const int64_t stride = sizes.window.stride[1];
    const Strides apart{of_out.image, of_out.channel, stride * of_out.pixel};
    const int64_t end = std::min(lane + kSumLanes, sizes.batch * rows * pitch);
    for (int64_t at = lane, next; at < end; at = next) {  // a piece of a row
      const int64_t x = at % pitch, y = at / pitch % rows, image = at / pitch / rows;
      next = std::min(end, at - x + pitch);
      const int64_t columns = std::min(along.count - x, next - at);
      if (y >= up.count || columns <= 0) continue;
      const int64_t pixel =
          (up.first + y * sizes.window.stride[0]) * sizes.width + along.first + x * stride;
      copy_sums(sums + (at - lane), columns, count,
                out + image * of_out.image + channel * of_out.channel + pixel * of_out.pixel,
                apart);
    }
  }
};

}  // namespace

// grad: (batch, groups * kernels_per_group, out_height, out_width). out: (batch, groups * channels,
// height, width). With `channels_last` the channels of both are their last axis. The other
// arguments are those of mmesbnn_convolve; padded pixels do not matter.
API int mmesbnn_input_gradient(const float* grad, int64_t batch, int64_t height, int64_t width,
                               int64_t groups, int64_t channels, const uint64_t* weights,
                               int64_t kernels_per_group, const int32_t* geometry,
                               const float* scales, int64_t out_height, int64_t out_width,
                               int channels_last, int threads, float* out) {
  ConvSizes sizes{batch,  height,     width,     groups, channels, kernels_per_group,
                  out_height, out_width, {}};
  if (!sizes.read(geometry) || threads < 1) return kBadSize;
  try {
    return InputGradient{sizes, channels_last != 0, grad, weights, scales, out, threads}.run();
  } catch (const std::bad_alloc&) {
    return kNoMemory;
  }
}
