#include "steps.h"

#include <algorithm>
#include <limits>

namespace mmesbnn {
namespace {

// Vectors of multiplications of a convolution.
constexpr int64_t kLeastForThreads = 4096;
// Places of one result that link() remembers, so that its work grows with the length of the code
// only. A result that is found in none is read from memory.
constexpr size_t kMostPlaces = 8;

float* floats(const Run& run, const Map& map) {
  return reinterpret_cast<float*>(run.memory + map.offset);
}

}  // namespace

bool InputStep::run(const Run& run) const {
  float* map = floats(run, to);
  const int64_t pixels = to.pixels();
  const float* source = run.input + run.image * pixels * to.channels;
  // the channels of a tile are written while it is in the first cache
  constexpr int64_t tile = 256;
  parallel(pixels, run.threads, [&](int64_t first, int64_t last) {
    for (int64_t begin = first; begin < last; begin += tile)
      for (int64_t c = 0; c < to.channels; ++c)
        for (int64_t p = begin; p < std::min(begin + tile, last); ++p)
          map[p * to.channels + c] = source[c * pixels + p];
  });
  return true;
}

bool OutputStep::run(const Run& run) const {
  const float* map = floats(run, from);
  const int64_t pixels = from.pixels(), channels = from.channels;
  float* target = run.outputs[number] + run.image * pixels * channels;
  // a tile is small enough for the cache, and fills a cache line of each channel
  constexpr int64_t tile = 16;
  parallel((pixels + tile - 1) / tile, run.threads, [&](int64_t first, int64_t last) {
    for (int64_t begin = first * tile; begin < std::min(last * tile, pixels); begin += tile)
      for (int64_t c = 0; c < channels; ++c)
        for (int64_t p = begin; p < std::min(begin + tile, pixels); ++p)
          target[c * pixels + p] = map[p * channels + c];
  });
  return true;
}

// Whether the windows of `count` pixels, from `begin` on, lie inside the map.
bool RealConvStep::is_inside(const Interior& interior, int64_t begin, int count) const {
  Corners at(window, to.width, begin);
  for (int p = 0; p < count; ++p, at.next())
    if (!interior.has(at)) return false;
  return true;
}

// Writes where the channels of each tap begin, or those of each row of taps if the rows are
// `whole`; pixels after the last one are like it.
void RealConvStep::find_rows(const Interior& interior, int64_t begin, int count, bool whole,
                             const float* source, const float** rows) const {
  const int columns = whole ? 1 : window.kernel[1];
  const int64_t line = window.dilation[0] * from.width * from.channels;
  const int64_t next = window.dilation[1] * from.channels;
  Corners at(window, to.width, begin);
  for (int p = 0; p < (count == 1 ? 1 : kRealPixels); ++p) {
    const int64_t top = at.top(), left = at.left();
    // most pixels need no check of each tap
    const bool inside = whole || interior.has(at);
    const float** row = rows + p;
    for (int ky = 0; ky < window.kernel[0]; ++ky)
      for (int kx = 0; kx < columns; ++kx, row += kRealPixels) {
        const int64_t y = top + int64_t{ky} * window.dilation[0];
        const int64_t x = left + int64_t{kx} * window.dilation[1];
        if (inside)
          *row = source + (top * from.width + left) * from.channels + ky * line + kx * next;
        else if (y >= 0 && y < from.height && x >= 0 && x < from.width)
          *row = source + (y * from.width + x) * from.channels;
        else
          *row = zeros.data();
      }
    if (p + 1 < count) at.next();
  }
}

bool RealConvStep::run(const Run& run) const {
  const int64_t taps = window.taps(), depth = from.channels / groups, pixels = to.pixels();
  const int64_t blocks = (kernels + kRealLanes - 1) / kRealLanes;
  const int64_t tiles = (pixels + kRealPixels - 1) / kRealPixels;
  const int64_t parts = tiles < 32 ? groups * blocks : 1;
  const bool rows_are_whole = groups == 1 && window.kernel[1] > 1 && window.dilation[1] == 1;
  const Interior interior(window, from.height, from.width);
  const float* source = floats(run, from);
  float* target = floats(run, to);
  const Kernels& use = chosen_kernels();
  // to share out a few microseconds of work takes longer than the work
  const bool short_work = taps * depth * blocks * groups * pixels < kLeastForThreads;
  std::atomic<bool> full{false};
  parallel(tiles * parts, short_work ? 1 : run.threads, [&](int64_t first, int64_t last) {
    std::unique_ptr<const float*[]> rows(new (std::nothrow) const float*[taps * kRealPixels]);
    if (!rows) {
      full.store(true);
      return;
    }
    float spare[kRealPixels * 2 * kRealLanes];
    for (int64_t item = first; item < last; ++item) {
      ask_ahead(run, item, item + 1, tiles * parts);
      const int64_t begin = item / parts * kRealPixels;
      const int count = static_cast<int>(std::min<int64_t>(kRealPixels, pixels - begin));
      const int64_t from_block = parts == 1 ? 0 : item % parts;
      const int64_t to_block = parts == 1 ? groups * blocks : from_block + 1;
      // Channels of neighbours lie side by side, so a row of taps is like one tap of more channels.
      const bool whole = rows_are_whole && count > 1 && is_inside(interior, begin, count);
      int64_t step = 1;
      for (int64_t block = from_block, ready = -1; block < to_block; block += step) {
        const int64_t group = block / blocks, lane = block % blocks * kRealLanes;
        step = block + 1 < to_block && block % blocks + 1 < blocks ? 2 : 1;
        if (ready != group)
          find_rows(interior, begin, count, whole, source + group * depth, rows.get());
        ready = group;
        RealTile tile;
        tile.rows = rows.get(), tile.pixels = count, tile.blocks = static_cast<int>(step);
        tile.taps = whole ? window.kernel[0] : taps;
        tile.channels = whole ? window.kernel[1] * depth : depth;
        tile.weights = run.constants + weights + block * taps * depth * kRealLanes;
        const int64_t made = step * kRealLanes, wanted = std::min(made, kernels - lane);
        float* results = target + begin * to.channels + at + group * kernels + lane;
        const bool fits = wanted == made && (count == 1 || count == kRealPixels);
        tile.out = fits ? results : spare, tile.step = fits ? to.channels : made;
        use.convolve(tile);
        for (int p = 0; p < count && !fits; ++p)
          std::memcpy(results + p * to.channels, spare + p * made, sizeof(float) * wanted);
      }
    }
  });
  return !full.load();
}

bool BinaryConvStep::run(const Run& run) const {
  const uint64_t* bits = reinterpret_cast<const uint64_t*>(run.memory + from.offset);
  const Kernels& use = chosen_kernels();
  const auto convolve_to = [&](auto* map, auto finish) {
    return convolve(conv, bits, 1, run.threads,
                    [&](int64_t, int64_t, int64_t begin, int count, const Sums& sums) {
                      if (sums.first == 0) ask_ahead(run, begin, begin + count, to.pixels());
                      finish(sums, count, to.channels, map + begin * to.channels + at + sums.first);
                    });
  };
  char* map = run.memory + to.offset;
  return to.kind == MapKind::kInt16
             ? convolve_to(reinterpret_cast<int16_t*>(map), use.finish_integers)
             : convolve_to(reinterpret_cast<float*>(map), use.finish_floats);
}

bool PoolStep::run(const Run& run) const {
  const float* source = floats(run, from);
  float* target = floats(run, to);
  const int64_t channels = from.channels;
  parallel(to.pixels(), run.threads, [&](int64_t first, int64_t last) {
    Corners at(window, to.width, first);
    for (int64_t pixel = first; pixel < last; ++pixel, at.next()) {
      const int64_t top = at.top(), left = at.left();
      const int64_t y0 = std::max<int64_t>(top, 0), x0 = std::max<int64_t>(left, 0);
      const int64_t y1 = std::min(top + window.kernel[0], from.height);
      const int64_t x1 = std::min(left + window.kernel[1], from.width);
      float* sums = target + pixel * channels;
      std::fill(sums, sums + channels, maximum ? -std::numeric_limits<float>::infinity() : 0.0f);
      for (int64_t y = y0; y < y1; ++y)
        for (int64_t x = x0; x < x1; ++x) {
          const float* row = source + (y * from.width + x) * channels;
          if (maximum)
            for (int64_t c = 0; c < channels; ++c) sums[c] = row[c] > sums[c] ? row[c] : sums[c];
          else
            for (int64_t c = 0; c < channels; ++c) sums[c] += row[c];
        }
      if (maximum) continue;
      const int64_t seen = std::max<int64_t>(y1 - y0, 0) * std::max<int64_t>(x1 - x0, 0);
      const int64_t all = count_padding ? window.taps() : std::max<int64_t>(seen, 1);
      const float share = 1.0f / static_cast<float>(all);
      for (int64_t c = 0; c < channels; ++c) sums[c] *= share;
    }
  });
  return true;
}

namespace {

bool reads(const Operand& operand, const Operand& result) {
  if (operand.where != result.where || operand.at != result.at) return false;
  return result.where == Where::kRegister ||
         (result.where == Where::kMap && operand.offset == result.offset &&
          operand.period == result.period && operand.stride == result.stride);
}

}  // namespace

void link(std::vector<Instruction>& code) {
  std::vector<Instruction> linked;
  for (Instruction one : code) {
    int64_t spare = kRegisters;
    for (Operand* operand : {&one.b, &one.c, &one.d}) {
      if (operand->where != Where::kMap16) continue;
      Instruction copy{};
      copy.op = Op::kCopy, copy.a = *operand;
      *operand = copy.to = {Where::kRegister, spare++, 0, 1, 0, 1, 1};
      linked.push_back(copy);
    }
    linked.push_back(one);
  }
  // A copy and bits leave the result as it is, so it has several places.
  std::vector<const Operand*> places;
  for (Instruction& one : linked) {
    one.forwarded = std::any_of(places.begin(), places.end(),
                                [&](const Operand* place) { return reads(one.a, *place); });
    one.aside = one.forwarded && one.op == Op::kMax && one.to.where == Where::kMean &&
                one.b.where == Where::kConstant;
    if (one.aside) continue;
    if (one.op == Op::kBits || (one.op == Op::kCopy && one.forwarded)) {
      if (!one.forwarded) places = {&one.a};
    } else {
      places.clear();
    }
    if (places.size() < kMostPlaces) places.push_back(&one.to);
  }
  // From the end, so that the registers that are read later are known.
  bool live[kAllRegisters] = {};
  for (auto one = linked.rbegin(); one != linked.rend(); ++one) {
    if (one->to.where == Where::kRegister) {
      one->kept = live[one->to.at];
      live[one->to.at] = false;
    }
    for (const Operand* operand : {&one->a, &one->b, &one->c, &one->d})
      if (operand->where == Where::kRegister && !(operand == &one->a && one->forwarded))
        live[operand->at] = true;
  }
  code = std::move(linked);
}

void SweepStep::count_registers() {
  for (const Segment& segment : segments)
    for (const Instruction& one : segment.code)
      for (const Operand* operand : {&one.to, &one.a, &one.b, &one.c, &one.d})
        if (operand->where == Where::kRegister)
          registers = std::max(registers, static_cast<int>(operand->at) + 1);
}

// Independent of the number of threads, so that the order of summation is, too.
int64_t SweepStep::tile() const {
  const int64_t once = pools ? rows * width : 2 * kTile;
  return std::max<int64_t>(1, (pixels() / 32 + once - 1) / once) * once;
}

void SweepStep::write_mean(const Run& run, const MeanTarget& mean) const {
  float* target = reinterpret_cast<float*>(run.memory + mean.to);
  const double share = static_cast<double>(pixels());
  chosen_kernels().average(run.sums + mean.sum, tiles(), sums, share, mean.count, target);
}

bool SweepStep::run(const Run& run) const {
  const int64_t tile = this->tile(), pixels = this->pixels();
  size_t longest = 0;
  for (const Segment& segment : segments) longest = std::max(longest, segment.code.size());
  const Kernels& use = chosen_kernels();
  std::atomic<bool> full{false};
  parallel(tiles(), run.threads, [&](int64_t first, int64_t last) {
    alignas(64) float registers[kAllRegisters * kRegister];
    // code may read what it has not written
    std::fill(registers, registers + this->registers * kRegister, 0.0f);
    std::unique_ptr<Ready[]> ready(new (std::nothrow) Ready[kPieces * longest]);
    if (!ready) {
      full.store(true);
      return;
    }
    std::fill(run.sums + first * sums, run.sums + last * sums, 0.0f);
    Block block;
    block.memory = run.memory, block.constants = run.constants, block.registers = registers;
    block.sums = run.sums, block.place = sums, block.tile = means.empty() ? pixels : tile;
    block.begin = first * tile, block.end = std::min(last * tile, pixels);
    block.ready = ready.get(), block.width = width;
    for (const Segment& segment : segments) {
      block.code = segment.code.data(), block.length = static_cast<int>(segment.code.size());
      block.channels = segment.channels;
      use.run(block);
    }
  });
  for (const MeanTarget& mean : means) write_mean(run, mean);
  return !full.load();
}

}  // namespace mmesbnn
