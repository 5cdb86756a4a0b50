// Calls the C interface with changed programs and with sizes at random, for sanitizers.
//
//     fuzz SECONDS PROGRAM...
//
// interface.h describes the file of a program.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>

#include "interface.h"

namespace {

// Memory of exactly this size, so that a sanitizer sees every entry beyond it.
template <class T>
std::unique_ptr<T[]> exactly(int64_t count) {
  std::unique_ptr<T[]> array(new T[count]);
  for (int64_t i = 0; i < count; ++i) array[i] = static_cast<T>(up_to(2)) - static_cast<T>(1);
  return array;
}

int64_t some_number(const std::vector<int64_t>& code) {
  static const int64_t kSpecial[] = {-1,     0,         1,       2,          3,          4,
                                     5,      7,         8,       15,         16,         17,
                                     63,     64,        65,      255,        1 << 12,    1 << 16,
                                     1 << 20, INT32_MAX, 1LL << 33, INT64_MAX, INT64_MIN, -64};
  switch (up_to(3)) {
    case 0: return kSpecial[up_to(sizeof kSpecial / sizeof *kSpecial - 1)];
    case 1: return code[up_to(code.size() - 1)];
    default: return up_to(300);
  }
}

// Returns whether the changed program was one that runs.
bool run_changed(const Seed& seed, int changes) {
  std::vector<int64_t> code = seed.code;
  for (int i = 0; i < changes; ++i) {
    int64_t& number = code[up_to(code.size() - 1)];
    if (up_to(3))
      number = some_number(code);
    else if (number > INT64_MIN && number < INT64_MAX)
      number += up_to(2) - 1;
  }
  auto data = exactly<uint8_t>(seed.data.size());
  std::memcpy(data.get(), seed.data.data(), seed.data.size());
  int64_t wrong = 0, sizes[3];
  void* program = nullptr;
  if (mmesbnn_program_new(code.data(), code.size(), data.get(), seed.data.size(), &wrong,
                          &program) != 0)
    return false;
  mmesbnn_program_sizes(program, sizes);
  const std::vector<int64_t> values = values_of(program);
  const int64_t batch = 1 + up_to(1), most = *std::max_element(values.begin(), values.end());
  const bool small = sizes[0] < (1 << 24) && most < (1 << 20);
  if (small) {
    auto workspace = exactly<char>(sizes[0]);
    auto from = exactly<float>(batch * values[0]);
    std::vector<std::unique_ptr<float[]>> outputs;
    std::vector<float*> to;
    for (size_t i = 1; i < values.size(); ++i) {
      outputs.push_back(exactly<float>(batch * values[i]));
      to.push_back(outputs.back().get());
    }
    mmesbnn_program_run(program, workspace.get(), sizes[0], from.get(), batch, to.data(),
                        1 + static_cast<int>(up_to(2)), nullptr);
  }
  mmesbnn_program_free(program);
  return small;
}

bool convolve_something() {
  const bool large = up_to(7) == 0;  // enough for weights packed as nibbles
  const int64_t batch = 1 + up_to(1), groups = 1 + up_to(2), channels = 1 + up_to(140);
  const int64_t height = 1 + up_to(large ? 40 : 8), width = 1 + up_to(large ? 40 : 8);
  const int64_t kernels = up_to(3) ? 1 + up_to(large ? 80 : 20) : 32;
  int32_t geometry[8];
  const bool pointwise = up_to(4) == 0;
  for (int i = 0; i < 8; ++i) {
    const bool padding = i == 4 || i == 5;
    geometry[i] = static_cast<int32_t>(padding ? up_to(3) : up_to(3) + (up_to(9) != 0));
    if (pointwise) geometry[i] = !padding;
  }
  const int64_t taps = int64_t{geometry[0]} * geometry[1], words = (channels + 63) / 64;
  if (taps == 0) return false;
  int64_t out[2];
  for (int i = 0; i < 2; ++i) {
    const int64_t size = i ? width : height;
    const int64_t reach = size + 2 * geometry[4 + i] - geometry[6 + i] * (geometry[i] - 1) - 1;
    out[i] = reach < 0 || geometry[2 + i] == 0 ? 1 : reach / geometry[2 + i] + 1;
  }
  auto map = exactly<float>(batch * groups * channels * height * width);
  auto limits = exactly<float>(groups * channels);
  auto bits = exactly<uint64_t>(batch * height * width * groups * words);
  const auto some_layout = [] { return static_cast<int>(up_to(1)); };
  auto means = exactly<float>(batch * groups * channels);
  mmesbnn_pack_signs(map.get(), batch, groups, channels, height * width, some_layout(),
                     up_to(1) ? limits.get() : nullptr, static_cast<int>(up_to(1)),
                     1 + static_cast<int>(up_to(2)), bits.get(), up_to(1) ? means.get() : nullptr);
  auto real = exactly<float>(groups * kernels * channels * taps);
  for (int64_t i = 0; i < groups * kernels * channels * taps; ++i)
    if (up_to(50)) real[i] = real[i] > 0 ? 1.0f : -1.0f;
  auto weights = exactly<uint64_t>(groups * ((kernels + 7) / 8) * taps * words * 8);
  auto scales = exactly<float>(groups * kernels);
  auto heights = exactly<float>(groups * kernels);
  mmesbnn_pack_weights(real.get(), groups, kernels, channels, taps,
                       up_to(1) ? heights.get() : nullptr, up_to(1) == 0,
                       1 + static_cast<int>(up_to(2)), weights.get(), scales.get());
  auto grad = exactly<float>(groups * kernels * channels * taps);
  mmesbnn_latent_gradient(grad.get(), real.get(), heights.get(), groups * kernels,
                          channels * taps, 1.0f, up_to(1) == 0, static_cast<int>(up_to(2)),
                          grad.get());
  auto result = exactly<float>(batch * groups * kernels * out[0] * out[1]);
  const int pad_value = static_cast<int>(up_to(4)) - 2;
  const auto some_threads = [] { return 1 + static_cast<int>(up_to(2)); };
  auto of_map = exactly<float>(batch * groups * channels * height * width);
  mmesbnn_input_gradient(result.get(), batch, height, width, groups, channels, weights.get(),
                         kernels, geometry, scales.get(), out[0], out[1], some_layout(),
                         some_threads(), of_map.get());
  mmesbnn_weight_gradient(result.get(), bits.get(), batch, height, width, groups, channels,
                          kernels, geometry, pad_value, out[0], out[1], some_layout(),
                          some_threads(), real.get());
  const int64_t images = up_to(3), pixels = up_to(1) ? out[0] * out[1] : 1;
  auto sums = exactly<int16_t>(batch * groups * kernels * out[0] * out[1]);
  auto given = exactly<int16_t>(images * groups * kernels * pixels);
  auto scaled = exactly<float>(images * groups * kernels * pixels);
  mmesbnn_scale_sums(given.get(), images, groups * kernels, pixels, scales.get(), some_threads(),
                     scaled.get());
  const bool summed = up_to(1);
  return mmesbnn_convolve(bits.get(), batch, height, width, groups, channels, weights.get(),
                          kernels, geometry, pad_value, summed ? nullptr : scales.get(), out[0],
                          out[1], some_layout(), some_threads(), summed ? nullptr : result.get(),
                          summed ? sums.get() : nullptr) == 0;
}

// Returns whether sizes and operands fit together.
bool normalize_something() {
  const bool made = up_to(3) == 0;  // x is made of sums by an earlier norm, of
  const int64_t of_small = made ? up_to(3) : 1;  // so many copies of them
  const bool gated = made ? up_to(7) != 0 : up_to(2) == 0;
  const int64_t batch = up_to(2), channels = made && up_to(7) ? of_small * up_to(2) : up_to(5);
  const int64_t copies = gated && up_to(7) ? 1 : up_to(3);
  const int64_t pixels = up_to(3) ? up_to(70) : 1000 + up_to(1200), wide = copies * channels;
  const auto some_threads = [] { return static_cast<int>(up_to(3)); };
  const auto some = [](int64_t count) { return exactly<float>(count); };
  const auto maybe = [](const std::unique_ptr<float[]>& it, bool there) {
    return there ? it.get() : nullptr;
  };
  const int64_t small_map = batch * channels * pixels, map = batch * wide * pixels;
  auto sums = exactly<int16_t>(made && of_small ? small_map / of_small : small_map);
  const bool summed = made || up_to(2) == 0;
  const int16_t* const of_signs = summed ? sums.get() : nullptr;
  auto scales = some(made && of_small ? channels / of_small : channels);
  auto unwritten = some(3 * channels), unwritten_out = some(3 * wide);
  auto x = some(small_map), residual = some(map), grad = some(map);
  auto out = some(map);
  auto gates = some(batch * channels), means = some(batch * wide), stats = some(3 * channels);
  std::unique_ptr<float[]> numbers[8];
  for (auto& one : numbers) one = some(wide);
  auto of_x = some(small_map), of_residual = some(map), of_gate = some(batch * channels);
  const bool added = up_to(1), slope = gated ? up_to(7) == 0 : up_to(1), shift = up_to(1);
  const int multiplies = up_to(3) == 0;
  const bool writes = up_to(7) != 0;
  const int done = mmesbnn_normalize(
      maybe(x, !summed), of_signs, maybe(scales, summed), maybe(unwritten, made), of_small, batch,
      channels, copies, pixels,
      maybe(gates, gated), maybe(residual, added), multiplies, numbers[0].get(),
      numbers[1].get(), maybe(numbers[2], slope), maybe(numbers[3], shift),
      up_to(9) ? 1e-5 : -1.0, up_to(3) == 0, some_threads(), maybe(out, writes),
      maybe(means, up_to(1)), stats.get(), maybe(unwritten_out, up_to(3)));
  mmesbnn_normalize_gradients(
      maybe(x, !summed), of_signs, maybe(scales, summed), maybe(unwritten, made), of_small, batch,
      channels, copies, pixels,
      maybe(gates, gated), maybe(residual, added), multiplies, numbers[0].get(),
      numbers[1].get(), maybe(numbers[2], slope), stats.get(),
      grad.get(), maybe(means, up_to(1)), some_threads(), of_x.get(), maybe(of_gate, gated),
      maybe(of_residual, added), numbers[4].get(), numbers[5].get(), maybe(numbers[6], slope),
      maybe(numbers[7], shift));
  auto single = some(channels), of_single = some(channels), other = some(small_map);
  auto more = some(small_map);
  mmesbnn_sign_gradient(other.get(), x.get(), maybe(more, up_to(1)), maybe(gates, up_to(1)), batch,
                        channels, pixels, single.get(), static_cast<int>(up_to(3)) - 1, 1.0f,
                        some_threads(), other.get(), of_single.get());
  // tokens of `copies` heads
  auto tokens_of_heads = some(map), of_heads = some(map), shifts = some(wide), of_shifts = some(wide);
  mmesbnn_head_signs(grad.get(), batch, pixels, copies, channels, shifts.get(), some_threads(),
                     of_heads.get());
  mmesbnn_sign_gradient_tokens(of_heads.get(), grad.get(), batch, pixels, copies, channels,
                               shifts.get(), static_cast<int>(up_to(3)) - 1, 1.0f, some_threads(),
                               tokens_of_heads.get(), of_shifts.get());
  const float clip = static_cast<float>(up_to(3)) - 0.5f;
  mmesbnn_elastic_values(x.get(), small_map, clip, some_threads(), of_x.get());
  mmesbnn_elastic_gradients(other.get(), x.get(), small_map, clip, some_threads(), of_x.get(),
                            of_single.get());
  mmesbnn_prelu_gradients(other.get(), x.get(), batch, channels, pixels, single.get(),
                          some_threads(), of_x.get(), of_single.get());
  const int16_t* const of_tokens = made ? nullptr : of_signs;
  const int64_t tokens = batch * pixels, features = up_to(wide);  // of a repeated residual
  auto some_added = some(tokens * features), of_added = some(tokens * features);
  mmesbnn_normalize_tokens(maybe(x, !summed), of_tokens, maybe(scales, summed), tokens, channels,
                           copies, maybe(some_added, added), features, numbers[0].get(),
                           numbers[1].get(), maybe(numbers[2], slope), maybe(numbers[3], shift),
                           1e-5, up_to(3) == 0, some_threads(), out.get(), stats.get());
  mmesbnn_normalize_tokens_gradients(
      maybe(x, !summed), of_tokens, maybe(scales, summed), tokens, channels, copies,
      maybe(some_added, added), features, numbers[0].get(), numbers[1].get(),
      maybe(numbers[2], slope), stats.get(), grad.get(), some_threads(), of_x.get(),
      of_residual.get(), maybe(of_added, up_to(1)), numbers[4].get(), numbers[5].get(),
      maybe(numbers[6], slope), maybe(numbers[7], shift));
  mmesbnn_sign_gradient_tokens(other.get(), x.get(), 1, tokens, 1, channels, single.get(),
                               static_cast<int>(up_to(3)) - 1, 1.0f, some_threads(), other.get(),
                               of_single.get());
  return done == 0;
}

// Returns whether sizes and operands fit together.
bool cross_something() {
  const int64_t batch = up_to(2), height = up_to(12), width = up_to(12), channels = up_to(40);
  const int64_t reach = up_to(4) - 1, numbers = std::max<int64_t>(4 * reach + 1, 1) * channels;
  const auto some = [](int64_t count) { return exactly<float>(count); };
  const auto some_threads = [] { return static_cast<int>(up_to(3)); };
  const int64_t map = batch * height * width * channels;
  auto base = some(map), x = some(map), out = some(map), taps = some(numbers);
  auto of_taps = some(numbers), shift = some(channels), of_shift = some(channels);
  const int done =
      mmesbnn_add_cross(base.get(), x.get(), batch, height, width, channels, reach, taps.get(),
                        shift.get(), some_threads(), out.get());
  mmesbnn_cross_gradients(base.get(), x.get(), batch, height, width, channels, reach, taps.get(),
                          some_threads(), out.get(), of_taps.get(), of_shift.get());
  return done == 0;
}

// Returns whether sizes and operands fit together.
bool pool_something() {
  const int64_t maps = up_to(3), height = up_to(20), width = up_to(6) ? up_to(20) : 60 + up_to(20);
  const int64_t kernel = up_to(9) ? 1 + up_to(4) : up_to(17), stride = up_to(3);
  const int64_t padding = up_to(9) ? up_to(kernel / 2) : up_to(kernel + 1) - 1;
  const auto windows = [&](int64_t entries) {
    const int64_t reach = entries + 2 * padding - kernel;
    return reach < 0 || stride == 0 ? 1 : reach / stride + (up_to(19) != 0);
  };
  const int64_t rows = windows(height), columns = windows(width);
  const auto some_threads = [] { return static_cast<int>(up_to(3)); };
  auto x = exactly<float>(maps * height * width), of_x = exactly<float>(maps * height * width);
  auto half = exactly<float>(maps * (height / 2) * (width / 2));
  auto out = exactly<float>(maps * rows * columns);
  auto places = exactly<uint8_t>(maps * rows * columns);
  mmesbnn_average_pool(x.get(), maps, height, width, some_threads(), half.get());
  mmesbnn_average_pool_gradient(half.get(), maps, height, width, some_threads(), of_x.get());
  const int64_t channels = 1 + up_to(2);  // each has some of the maps
  auto large = exactly<float>(maps * channels * height * width);
  auto of_large = exactly<float>(maps * channels * height * width);
  auto halves = exactly<float>(maps * channels * (height / 2) * (width / 2));
  auto slope = exactly<float>(channels), of_slope = exactly<float>(channels);
  mmesbnn_average_activated(large.get(), maps, channels, height, width, slope.get(),
                            some_threads(), halves.get());
  mmesbnn_average_activated_gradients(halves.get(), large.get(), maps, channels, height, width,
                                      slope.get(), some_threads(), of_large.get(), of_slope.get());
  mmesbnn_average_neighbours(x.get(), maps * height, width, some_threads(), of_x.get());
  mmesbnn_average_neighbours_gradient(x.get(), maps * height, width, some_threads(), of_x.get());
  const int done = mmesbnn_max_pool(x.get(), maps, height, width, kernel, stride, padding, rows,
                                    columns, some_threads(), out.get(), places.get());
  if (up_to(3) == 0) places = exactly<uint8_t>(maps * rows * columns);  // of nothing
  mmesbnn_max_pool_gradient(out.get(), places.get(), maps, height, width, kernel, stride, padding,
                            rows, columns, some_threads(), of_x.get());
  return done == 0;
}

}  // namespace

// With a newer GCC and AVX-512 the program crashed at a vector on the stack. Frames that outlive
// their function are suspected: they may not be aligned to its 64 bytes (compare GCC bug 110027).
extern "C" const char* __asan_default_options() { return "detect_stack_use_after_return=0"; }

int main(int count, char** arguments) {
  const double seconds = std::atof(arguments[1]);
  std::vector<Seed> seeds;
  for (int i = 2; i < count; ++i) {
    std::ifstream file(arguments[i], std::ios::binary);
    seeds.push_back(read_seed(file));
  }
  const std::vector<std::string> sets = instruction_sets();
  if (sets.empty()) return 1;
  for (const Seed& seed : seeds)
    if (!run_changed(seed, 0)) return 1;
  int64_t runs = 0, convolutions = 0, norms = 0, pools = 0, crosses = 0, calls = 0;
  const auto began = std::chrono::steady_clock::now();
  for (;; ++calls) {
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - began;
    if (took.count() > seconds) break;
    mmesbnn_use(sets[up_to(sets.size() - 1)].c_str());
    runs += run_changed(seeds[calls % seeds.size()], 1 + static_cast<int>(up_to(2)));
    convolutions += convolve_something();
    norms += normalize_something();
    pools += pool_something();
    crosses += cross_something();
  }
  std::printf(
      "%lld calls, %lld programs ran, %lld convolutions, %lld norms, %lld pools, %lld crosses\n",
      (long long)calls, (long long)runs, (long long)convolutions, (long long)norms,
      (long long)pools, (long long)crosses);
  return 0;
}
