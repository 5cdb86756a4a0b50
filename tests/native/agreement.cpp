// Compares every instruction set of this processor with portable code.
//
//     agreement SEED ROUNDS NETWORK...
//
// First the functions of the instruction sets, see tables.h, then the C interface with sums of
// plain loops, then whole networks with the outputs in their files. Prints what it compared;
// exit status 1: something differs.
#include <cstdio>
#include <cstdlib>
#include <set>

#include "tables.h"

namespace {

using namespace agreement;

bool differs(const std::string& set, const char* what) {
  std::printf("%s: %s differs\n", set.c_str(), what);
  return false;
}

bool tables_agree(const Kernels& kernels, int rounds) {
  std::set<Op> seen;
  for (int i = 0; i < rounds; ++i) {
    if (!counts_agree(kernels)) return differs(kernels.name, "count");
    if (!pairs_agree(kernels)) return differs(kernels.name, "count_pairs");
    if (!nibbles_agree(kernels)) return differs(kernels.name, "count_nibbles");
    if (!bytes_agree(kernels)) return differs(kernels.name, "multiply_bytes");
    if (!sums_agree(kernels, &Kernels::finish_integers)) return differs(kernels.name, "integers");
    if (!sums_agree(kernels, &Kernels::finish_floats)) return differs(kernels.name, "floats");
    if (!comparisons_agree(kernels)) return differs(kernels.name, "compare");
    if (!tiles_agree(kernels)) return differs(kernels.name, "convolve");
    if (!entries_agree(kernels)) return differs(kernels.name, "add_entries");
    if (!averages_agree(kernels)) return differs(kernels.name, "average");
    if (!norms_agree(kernels)) return differs(kernels.name, "a pass of norms");
    if (!pixels_agree(kernels)) return differs(kernels.name, "a pass of tokens");
    const Sweep sweep;
    if (!sweep.agrees(kernels)) {
      std::printf("operator %d\n", static_cast<int>(sweep.last()));
      return differs(kernels.name, "run");
    }
    seen.insert(sweep.last());
  }
  std::printf("%s: %d rounds, %zu operators\n", kernels.name, rounds, seen.size());
  return seen.size() == static_cast<size_t>(Op::kCount);
}

// A convolution at random.
struct Convolution {
  // So many pixels and kernels that it is worth while to pack the weights in another form.
  bool large = up_to(3) == 0;
  int64_t batch = 1 + up_to(1), groups = 1 + up_to(large ? 1 : 2);
  int64_t depth = large ? 65 + up_to(130) : 1 + up_to(140);
  int64_t kernels = large ? 16 + up_to(24) : 1 + up_to(20), size[2], out[2];
  int32_t geometry[8];
  int pad_value = static_cast<int>(up_to(2)) - 1, threads = 1 + static_cast<int>(up_to(2));
  bool last = up_to(1);  // channels are the last axis of maps in memory
  std::vector<float> x, limits, weights;

  // The place of a number of a map of this size that has `channels` channels.
  int64_t place(int64_t image, int64_t channel, int64_t y, int64_t x_, int64_t channels,
                const int64_t size[2]) const {
    return last ? ((image * size[0] + y) * size[1] + x_) * channels + channel
                : ((image * channels + channel) * size[0] + y) * size[1] + x_;
  }

  Convolution() {
    // 0: a kernel of one pixel, whose gradients need no margin
    const int most = large || up_to(3) ? 2 : 0;
    for (int i = 0; i < 2; ++i) {
      geometry[i] = 1 + static_cast<int32_t>(up_to(most)), geometry[2 + i] = 1 + up_to(most);
      geometry[4 + i] = static_cast<int32_t>(up_to(most)), geometry[6 + i] = 1 + up_to(2);
      const int64_t reach = geometry[6 + i] * (geometry[i] - 1);
      size[i] = 1 + reach + up_to(9) + (large ? 16 * geometry[2 + i] : 0);
      out[i] = (size[i] + 2 * geometry[4 + i] - reach - 1) / geometry[2 + i] + 1;
    }
    x = some_floats(batch * groups * depth * size[0] * size[1]);
    limits = some_floats(groups * depth);
    weights.resize(groups * kernels * depth * geometry[0] * geometry[1]);
    for (size_t i = 0; i < weights.size(); ++i)
      weights[i] = (up_to(1) ? 1.0f : -1.0f) * scale(i / (depth * geometry[0] * geometry[1]));
  }

  static float scale(int64_t kernel) { return 0.25f * static_cast<float>(1 + kernel % 7); }

  float value(int64_t image, int64_t channel, int64_t y, int64_t x_) const {
    if (y < 0 || x_ < 0 || y >= size[0] || x_ >= size[1]) return static_cast<float>(pad_value);
    const float number = x[place(image, channel, y, x_, groups * depth, size)];
    return number > limits[channel] ? 1.0f : -1.0f;
  }

  std::vector<float> by_loops() const {
    std::vector<float> result(batch * groups * kernels * out[0] * out[1]);
    for (int64_t n = 0; n < batch; ++n)
      for (int64_t o = 0; o < groups * kernels; ++o)
        for (int64_t y = 0; y < out[0]; ++y)
          for (int64_t x_ = 0; x_ < out[1]; ++x_) {
            float sum = 0.0f;
            const float* weight = &weights[o * depth * geometry[0] * geometry[1]];
            for (int64_t c = 0; c < depth; ++c)
              for (int ky = 0; ky < geometry[0]; ++ky)
                for (int kx = 0; kx < geometry[1]; ++kx)
                  sum += *weight++ * value(n, o / kernels * depth + c,
                                           y * geometry[2] - geometry[4] + ky * geometry[6],
                                           x_ * geometry[3] - geometry[5] + kx * geometry[7]);
            result[place(n, o, y, x_, groups * kernels, out)] = sum;
          }
    return result;
  }

  std::vector<float> by_kernels() const {
    const int64_t words = (depth + 63) / 64, blocks = (kernels + kLanes - 1) / kLanes;
    std::vector<uint64_t> bits(batch * size[0] * size[1] * groups * words);
    std::vector<uint64_t> packed(groups * blocks * geometry[0] * geometry[1] * words * kLanes);
    std::vector<float> scales(groups * kernels), result(batch * groups * kernels * out[0] * out[1]);
    if (mmesbnn_pack_signs(x.data(), batch, groups, depth, size[0] * size[1], last, limits.data(),
                           0, threads, bits.data(), nullptr) != 0 ||
        mmesbnn_pack_weights(weights.data(), groups, kernels, depth,
                             int64_t{geometry[0]} * geometry[1], nullptr, 0, threads, packed.data(),
                             scales.data()) != 0 ||
        mmesbnn_convolve(bits.data(), batch, size[0], size[1], groups, depth, packed.data(),
                         kernels, geometry, pad_value, scales.data(), out[0], out[1], last, threads,
                         result.data(), nullptr) != 0)
      result.clear();
    return result;
  }
};

// Both gradients of a convolution, for gradients of its result that are small integers or halves of
// them: sums are exact.
struct Gradients : Convolution {
  std::vector<float> grad = some_floats(batch * groups * kernels * out[0] * out[1]);

  int64_t taps() const { return int64_t{geometry[0]} * geometry[1]; }

  std::vector<float> by_loops() const {
    std::vector<float> of_x(x.size()), of_weights(weights.size());
    for (int64_t n = 0; n < batch; ++n)
      for (int64_t o = 0; o < groups * kernels; ++o)
        for (int64_t y = 0; y < out[0]; ++y)
          for (int64_t x_ = 0; x_ < out[1]; ++x_)
            for (int64_t c = 0; c < depth; ++c)
              for (int64_t tap = 0; tap < taps(); ++tap) {
                const int64_t up = y * geometry[2] - geometry[4] + tap / geometry[1] * geometry[6];
                const int64_t along =
                    x_ * geometry[3] - geometry[5] + tap % geometry[1] * geometry[7];
                const int64_t channel = o / kernels * depth + c;
                const int64_t weight = (o * depth + c) * taps() + tap;
                const int64_t at = place(n, o, y, x_, groups * kernels, out);
                of_weights[weight] += grad[at] * value(n, channel, up, along);
                if (up >= 0 && along >= 0 && up < size[0] && along < size[1])
                  of_x[place(n, channel, up, along, groups * depth, size)] +=
                      grad[at] * weights[weight];
              }
    of_x.insert(of_x.end(), of_weights.begin(), of_weights.end());
    return of_x;
  }

  std::vector<float> by_kernels() const {
    const int64_t words = (depth + 63) / 64, blocks = (kernels + kLanes - 1) / kLanes;
    std::vector<uint64_t> bits(batch * size[0] * size[1] * groups * words);
    std::vector<uint64_t> packed(groups * blocks * taps() * words * kLanes);
    std::vector<float> scales(groups * kernels), of_x(x.size()), of_weights(weights.size());
    if (mmesbnn_pack_signs(x.data(), batch, groups, depth, size[0] * size[1], last, limits.data(),
                           0, threads, bits.data(), nullptr) != 0 ||
        mmesbnn_pack_weights(weights.data(), groups, kernels, depth, taps(), nullptr, 0, threads,
                             packed.data(), scales.data()) != 0 ||
        mmesbnn_input_gradient(grad.data(), batch, size[0], size[1], groups, depth, packed.data(),
                               kernels, geometry, scales.data(), out[0], out[1], last, threads,
                               of_x.data()) != 0 ||
        mmesbnn_weight_gradient(grad.data(), bits.data(), batch, size[0], size[1], groups, depth,
                                kernels, geometry, pad_value, out[0], out[1], last, threads,
                                of_weights.data()) != 0)
      return {};
    of_x.insert(of_x.end(), of_weights.begin(), of_weights.end());
    return of_x;
  }
};

// Like same(), but a zero has no sign.
bool equal(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin());
}

bool convolutions_agree(const std::string& set, int rounds) {
  for (int i = 0; i < rounds; ++i) {
    const Convolution one;
    const std::vector<float> expected = one.by_loops(), found = one.by_kernels();
    if (expected.size() != found.size() || !same(expected, found))
      return differs(set, "a binary convolution");
    const Gradients two;
    if (!equal(two.by_loops(), two.by_kernels())) return differs(set, "a gradient");
  }
  std::printf("%s: %d convolutions\n", set.c_str(), rounds);
  return true;
}

// Reads a program; then numbers of images, and of values of an image and an output, as int64;
// then the images and their outputs as float. The median of the images' errors must be small,
// because signs near a threshold may differ.
bool network_agrees(const std::string& set, const char* path) {
  std::ifstream file(path, std::ios::binary);
  const Seed seed = read_seed(file);
  const auto sizes = read_some<int64_t>(file, 3);
  const int64_t count = sizes[0], inputs = sizes[1], outputs = sizes[2];
  const auto images = read_some<float>(file, count * inputs);
  const auto expected = read_some<float>(file, count * outputs);
  int64_t wrong = 0, found[3];
  void* program = nullptr;
  if (!file || mmesbnn_program_new(seed.code.data(), seed.code.size(), seed.data.data(),
                                   seed.data.size(), &wrong, &program) != 0)
    return differs(set, "the form of a network");
  mmesbnn_program_sizes(program, found);
  const bool fits = values_of(program) == std::vector<int64_t>{inputs, outputs};
  std::vector<uint64_t> workspace(found[0] / 8 + 1);
  std::vector<float> values(count * outputs, NAN), errors;
  float* const to[] = {values.data()};
  const int status =
      !fits || mmesbnn_program_run(program, reinterpret_cast<char*>(workspace.data()), found[0],
                                   images.data(), count, to, 2, nullptr);
  mmesbnn_program_free(program);
  float most = 0.0f;
  for (int64_t i = 0; i < count * outputs; ++i) {
    if (i % outputs == 0) errors.push_back(0.0f);
    most = std::max(most, std::fabs(expected[i]));
    const float error = std::fabs(expected[i] - values[i]);
    errors.back() = error > errors.back() || std::isnan(error) ? error : errors.back();
  }
  std::sort(errors.begin(), errors.end());
  const float error = errors[count / 2];
  std::printf("%s: a network, outputs up to %g, error %g\n", set.c_str(), most, error);
  return (status == 0 && error <= 1e-5f * most) || differs(set, "the output of a network");
}

}  // namespace

int main(int count, char** arguments) {
  chance.seed(std::strtoull(arguments[1], nullptr, 10));
  const int rounds = std::atoi(arguments[2]);
  for (int i = 0; i < rounds / 10; ++i)
    if (!bands_agree()) {
      differs("plain loops", "a convolution by bands");
      return 1;
    }
  const Kernels* all[] = {&kAmx, &kAvx512, &kAvx512bw, &kAvx2, &kNeon};
  for (const std::string& set : instruction_sets()) {
    for (const Kernels* kernels : all)
      if (set == kernels->name && !tables_agree(*kernels, rounds)) return 1;
    if (mmesbnn_use(set.c_str()) != 0 || !convolutions_agree(set, rounds / 10)) return 1;
    for (int i = 3; i < count; ++i)
      if (!network_agrees(set, arguments[i])) return 1;
  }
  return 0;
}
