// Gradient of a binary convolution with respect to its weight.
//
//   out[o, c, tap] = sum over images and output pixels p of grad[n, o, p] sign[n, c, q]
//
// where q = p stride + tap dilation - padding. Lanes are kernels, a term is four neighbours of a
// row of output pixels; gradients whose kernels do not lie side by side are copied. Padded pixels
// count as the sign of their bit; where they should add nothing this is taken back at the end.
#include <atomic>
#include <vector>

#include "api.h"
#include "signed_sums.h"

using namespace mmesbnn;
using namespace mmesbnn::status;

namespace {

// The input position of an output position's tap, on an axis.
int64_t place(const Window& window, int axis, int64_t at, int64_t tap) {
  return at * window.stride[axis] + tap * window.dilation[axis] - window.padding[axis];
}

struct WeightGradient {
  const ConvSizes& sizes;
  bool channels_last;  // the channels of gradients are their last axis
  const float* grad;
  const uint64_t* x;  // (batch, height, width, groups, words)
  int pad_value;
  float* out;
  int threads;

  int64_t quads = 0, terms = 0;        // terms of a row of outputs, and of all rows
  int64_t blocks = 0;                  // groups of kSumLanes kernels
  std::vector<int64_t> used{};         // numbers of the taps whose gradients are not 0
  float* turned = nullptr;             // (groups, blocks, terms, 4, kSumLanes), or null
  int64_t step = kSumLanes;            // floats from an output pixel to the next one
  float* excess = nullptr;             // (groups, blocks, taps, kSumLanes)
  uint8_t* signs = nullptr;            // (groups, batches, used taps, words, kWordSigns)

  int run() {
    const Window& w = sizes.window;
    quads = (sizes.out_width + 3) / 4;
    terms = sizes.batch * sizes.out_height * quads;
    blocks = (sizes.kernels + kSumLanes - 1) / kSumLanes;
    for (int64_t tap = 0; tap < w.taps(); ++tap)
      if (pad_value != 0 || (meets_input(0, tap / w.kernel[1], sizes.height, sizes.out_height) &&
                             meets_input(1, tap % w.kernel[1], sizes.width, sizes.out_width)))
        used.push_back(tap);
    const int64_t taps = used.size(), words = words_for(sizes.channels);
    const bool copies = !channels_last || sizes.kernels % kSumLanes || sizes.out_width % 4;
    const int64_t gradients = copies ? product({sizes.groups, blocks, terms, 4, kSumLanes}) : 0;
    const int64_t bytes =
        taps == 0 ? 0 : product({sizes.groups, batches_for(terms), taps, words, kWordSigns});
    const int64_t wrong = product({sizes.groups, blocks, w.taps(), kSumLanes});
    Arena& arena = Arena::of_a_call();
    if (gradients < 0 || bytes < 0 || wrong < 0 ||
        !arena.reserve({4 * gradients, 4 * wrong, bytes}))
      return kNoMemory;
    if (copies) turned = arena.get<float>(gradients);
    else step = sizes.groups * sizes.kernels;
    excess = arena.get<float>(wrong);
    signs = arena.get<uint8_t>(bytes);
    std::fill(excess, excess + wrong, 0.0f);
    if (copies)
      parallel(sizes.groups * blocks * sizes.batch * sizes.out_height, threads,
               [this](int64_t first, int64_t end) {
                 for (int64_t row = first; row < end; ++row) turn(row);
               });
    const std::vector<uint64_t> filler(words, pad_value == 1 ? ~uint64_t{0} : 0);
    parallel(sizes.groups * batches_for(terms) * taps, threads,
             [&](int64_t first, int64_t last) {
               for (int64_t item = first; item < last; ++item) read_signs(item, filler.data());
             });
    if (pad_value == 0)
      parallel(sizes.groups * blocks, threads, [this](int64_t first, int64_t last) {
        for (int64_t block = first; block < last; ++block) add_excess(block);
      });
    return compute();
  }

  // Returns whether a tap is an input pixel for any of `numbers` outputs of an axis. If it is not,
  // its gradient is exactly 0, and not what rounding leaves of sums that cancel each other: Adam
  // would make large steps of that.
  bool meets_input(int axis, int64_t tap, int64_t size, int64_t numbers) const {
    for (int64_t at = 0; at < numbers; ++at) {
      const int64_t found = place(sizes.window, axis, at, tap);
      if (found >= 0 && found < size) return true;
    }
    return false;
  }

  // Gradients of an output row with the kernels side by side.
  void turn(int64_t item) const {
    const int64_t y = item % sizes.out_height, image = item / sizes.out_height % sizes.batch;
    const int64_t block = item / sizes.out_height / sizes.batch;
    const int64_t group = block / blocks, kernel = block % blocks * kSumLanes;
    const int64_t count = std::min<int64_t>(kSumLanes, sizes.kernels - kernel);
    const int64_t width = sizes.out_width;
    const Strides apart =
        strides_of(sizes.groups * sizes.kernels, sizes.out_height * width, channels_last);
    const float* from = grad + image * apart.image +
                        (group * sizes.kernels + kernel) * apart.channel + y * width * apart.pixel;
    float* to = turned + item * 4 * quads * kSumLanes;
    if (count < kSumLanes || width % 4) std::fill(to, to + 4 * quads * kSumLanes, 0.0f);
    if (channels_last)
      for (int64_t i = 0; i < width; ++i)
        std::memcpy(to + i * kSumLanes, from + i * apart.pixel, sizeof(float) * count);
    else
      turn_row(from, apart.channel, count, to);
  }

  // to[i * kSumLanes + k] = from[k * apart + i]
  void turn_row(const float* from, int64_t apart, int64_t count, float* to) const {
    const int64_t pixels = sizes.out_width / 4 * 4, whole = count / 4 * 4;
    for (int64_t i = 0; i < pixels; i += 4)
      for (int64_t k = 0; k < whole; k += 4)
        transpose_scaled(from + k * apart + i, apart, kOnes, to + i * kSumLanes + k, kSumLanes);
    for (int64_t k = 0; k < count; ++k)
      for (int64_t i = k < whole ? pixels : 0; i < sizes.out_width; ++i)
        to[i * kSumLanes + k] = from[k * apart + i];
  }

  // Gradients of a block of kernels at the first output pixel.
  const float* values_of(int64_t block) const {
    if (turned) return turned + block * terms * 4 * kSumLanes;
    return grad + block * kSumLanes;  // blocks of a group have no gap between them
  }

  // Signs of a tap for a batch of terms of a group.
  void read_signs(int64_t item, const uint64_t* filler) const {
    const Window& w = sizes.window;
    const int64_t taps = used.size(), words = words_for(sizes.channels);
    const int64_t tap = used[item % taps], batch = item / taps % batches_for(terms);
    const int64_t group = item / taps / batches_for(terms);
    const uint64_t* four[kSumTerms][4];
    for (int64_t i = 0; i < kSumTerms; ++i) {  // those after the last one are not read
      const int64_t term = std::min(batch * kSumTerms + i, terms - 1), row = term / quads;
      const int64_t y = place(w, 0, row % sizes.out_height, tap / w.kernel[1]);
      const int64_t line = (row / sizes.out_height * sizes.height + y) * sizes.width;
      for (int64_t j = 0; j < 4; ++j) {
        const int64_t at = place(w, 1, term % quads * 4 + j, tap % w.kernel[1]);
        const bool inside = y >= 0 && y < sizes.height && at >= 0 && at < sizes.width;
        four[i][j] = inside ? x + ((line + at) * sizes.groups + group) * words : filler;
      }
    }
    uint8_t* to = signs + item * words * kWordSigns;
    for (int64_t word = 0; word < words; ++word, to += kWordSigns) {
      write_signs(four, to);
      for (auto& term : four)
        for (const uint64_t*& pixel : term) ++pixel;
    }
  }

  // Sums the gradients of the output pixels for which a tap is a padded pixel.
  void add_excess(int64_t block) const {
    const Window& w = sizes.window;
    const int64_t row = 4 * quads * step;
    for (const int64_t tap : used) {
      float* to = excess + (block * w.taps() + tap) * kSumLanes;
      for (int64_t image = 0; image < sizes.batch; ++image)
        for (int64_t y = 0; y < sizes.out_height; ++y) {
          const float* from = values_of(block) + (image * sizes.out_height + y) * row;
          const int64_t up = place(w, 0, y, tap / w.kernel[1]);
          const bool whole = up < 0 || up >= sizes.height;
          for (int64_t i = 0; i < sizes.out_width; ++i) {
            const int64_t along = place(w, 1, i, tap % w.kernel[1]);
            if (!whole && along >= 0 && along < sizes.width) continue;
            for (int lane = 0; lane < kSumLanes; ++lane) to[lane] += from[i * step + lane];
          }
        }
    }
  }

  int compute() const {
    const int64_t taps = sizes.window.taps();
    const int64_t most = std::max<int64_t>(32, 576 / taps);
    const int64_t size = rows_of_an_item(sizes.channels, most, sizes.groups * blocks, threads);
    const int64_t pieces = (sizes.channels + size - 1) / size;
    // Blocks whose gradients lie side by side are summed together, as many as fit in the cache.
    const int64_t all = taps * size * kSumLanes;
    int64_t together = turned ? 1 : std::clamp<int64_t>(kSumsOfAnItem / all, 1, blocks);
    while (together > 1 && sizes.groups * parts_of(blocks, together) * pieces < 2 * threads)
      together = (together + 1) / 2;
    const int64_t parts = parts_of(blocks, together);
    std::atomic<bool> full{false};
    parallel(sizes.groups * parts * pieces, threads, [&](int64_t first, int64_t last) {
      Arena& arena = Arena::of_a_part();
      if (!arena.reserve({4 * together * all, 4 * kSumTerms * kSumTable,
                          4 * kFew * row_of_few(size)})) {
        full.store(true);
        return;
      }
      float* const sums = arena.get<float>(together * all);
      float* const tables = arena.get<float>(kSumTerms * kSumTable);
      float* const few = arena.get<float>(kFew * row_of_few(size));
      for (int64_t item = first; item < last; ++item) {
        const int64_t group = item / pieces / parts, part = item / pieces % parts * together;
        const int64_t block = group * blocks + part, some = std::min(together, blocks - part);
        const int64_t channel = item % pieces * size;
        const int64_t count = std::min(size, sizes.channels - channel);
        std::fill(sums, sums + some * taps * count * kSumLanes, 0.0f);
        add(block, some, channel, count, tables, sums);
        for (int64_t i = 0; i < some; ++i)
          write(block + i, channel, count, sums + i * taps * count * kSumLanes, few);
      }
    });
    return full.load() ? kNoMemory : kOk;
  }

  static constexpr int64_t kSumsOfAnItem = 1 << 15;
  static int64_t parts_of(int64_t count, int64_t size) { return (count + size - 1) / size; }

  // Adds to the sums (some, taps, count, kSumLanes) of `some` blocks of a group.
  void add(int64_t block, int64_t some, int64_t channel, int64_t count, float* tables,
           float* sums) const {
    const int64_t batches = batches_for(terms), size = words_for(sizes.channels) * kWordSigns;
    const int64_t all = used.size() * size, taps = sizes.window.taps();
    const uint8_t* from = signs + (block / blocks * batches * all) + channel * kSumTerms;
    for (int64_t batch = 0; batch < batches; ++batch, from += all)
      for (int64_t i = 0; i < some; ++i)
        add_batch(batch, values_of(block + i), from, size, count, tables,
                  sums + i * taps * count * kSumLanes);
  }

  // `values` are the gradients of a block, `from` the signs of a batch, `size` those of a tap.
  void add_batch(int64_t batch, const float* values, const uint8_t* from, int64_t size,
                 int64_t count, float* tables, float* sums) const {
    const Kernels& use = chosen_kernels();
    const int some = terms_of_batch(batch, terms);
    values += batch * kSumTerms * 4 * step;
    for (int i = 0; i < some; ++i, values += 4 * step) {
      const float* const four[4] = {values, values + step, values + 2 * step, values + 3 * step};
      use.tabulate(four, tables + i * kSumTable);
    }
    for (const int64_t tap : used) {
      use.add_entries(tables, from, some, count, sums + tap * count * kSumLanes);
      from += size;
    }
  }

  // Copies sums (taps, count, kSumLanes) to rows of kernels; `few` holds kFew of them. Written at
  // once, the rows of all lanes would fall on the same lines of the cache.
  void write(int64_t block, int64_t channel, int64_t count, const float* sums, float* few) const {
    const int64_t taps = sizes.window.taps(), kernel = block % blocks * kSumLanes;
    const int64_t lanes = std::min<int64_t>(kSumLanes, sizes.kernels - kernel);
    const int64_t size = sizes.channels * taps, row = row_of_few(count);
    float* to = out + (block / blocks * sizes.kernels + kernel) * size + channel * taps;
    for (int64_t lane = 0; lane < lanes; lane += kFew) {
      for (int64_t tap = 0; tap < taps; ++tap) {
        const float* more = excess + (block * taps + tap) * kSumLanes + lane;
        const float* from = sums + tap * count * kSumLanes + lane;
        for (int64_t c = 0; c < count; ++c, from += kSumLanes)
          for (int i = 0; i < kFew; ++i) few[i * row + c * taps + tap] = from[i] + more[i];
      }
      for (int64_t i = 0; i < std::min<int64_t>(kFew, lanes - lane); ++i)
        std::memcpy(to + (lane + i) * size, few + i * row, sizeof(float) * count * taps);
    }
  }

  static constexpr int kFew = 8;
  // Not a multiple of the distance at which lines of the cache share a place.
  int64_t row_of_few(int64_t count) const {
    return (count * sizes.window.taps() + 15) / 16 * 16 + 16;
  }
};

}  // namespace

// grad: (batch, groups * kernels_per_group, out_height, out_width); with `channels_last` its
// channels are its last axis. out: (groups * kernels_per_group, channels, taps), for weights of
// which mmesbnn_convolve reads signs and scales. The other arguments are those of mmesbnn_convolve.
API int mmesbnn_weight_gradient(const float* grad, const uint64_t* x, int64_t batch,
                                int64_t height, int64_t width, int64_t groups, int64_t channels,
                                int64_t kernels_per_group, const int32_t* geometry, int pad_value,
                                int64_t out_height, int64_t out_width, int channels_last,
                                int threads, float* out) {
  ConvSizes sizes{batch,  height,     width,     groups, channels, kernels_per_group,
                  out_height, out_width, {}};
  if (!sizes.read(geometry) || threads < 1 || pad_value < -1 || pad_value > 1) return kBadSize;
  try {
    return WeightGradient{sizes, channels_last != 0, grad, x, pad_value, out, threads}.run();
  } catch (const std::bad_alloc&) {
    return kNoMemory;
  }
}
