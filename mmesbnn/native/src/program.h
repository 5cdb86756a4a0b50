// A network as a list of steps on maps in one piece of memory.
#pragma once

#include <memory>
#include <vector>

#include "binary_conv.h"
#include "kernels.h"
#include "target.h"

namespace mmesbnn {

enum class MapKind { kFloat, kInt16, kBits, kCount };

// Channels last; bits of a pixel fill whole words.
struct Map {
  MapKind kind;
  int64_t height, width, channels, offset;

  int64_t pixels() const { return height * width; }
  int64_t bytes() const {
    if (kind == MapKind::kBits) return pixels() * words_for(channels) * 8;
    return pixels() * channels * (kind == MapKind::kFloat ? 4 : 2);
  }
};

// Memory and data of a run, shared by the steps. Input and outputs are those of the whole batch.
struct Run {
  char* memory;
  const float* constants;
  float* sums;
  const float* input;
  float* const* outputs;
  int64_t image;  // number of the image that runs
  int threads;
};

struct Step {
  // Memory of maps, in bytes, that a later step is the first to write. It is seldom in a cache.
  struct {
    int64_t at = 0, count = 0;
  } ahead;

  virtual ~Step() = default;
  // Returns false if there is not enough memory.
  virtual bool run(const Run& run) const = 0;

 protected:
  // Asks for the share of some items of `ahead`, which comes while the step computes.
  void ask_ahead(const Run& run, int64_t begin, int64_t end, int64_t items) const {
    const int64_t lines = ahead.count / kLine, first = lines * begin / items;
    const int64_t count = lines * end / items - first;
    fetch(run.memory + ahead.at + first * kLine, kLine, static_cast<int>(count));
  }

 private:
  static constexpr int64_t kLine = 64;
};

struct Program {
  std::vector<Map> maps;
  std::vector<std::unique_ptr<Step>> steps;
  const uint8_t* data;
  int64_t data_bytes;
  int64_t memory = 0;    // bytes of all maps
  int64_t sums = 0;      // floats of the largest sweep's sums
  int input = -1;            // number of a map
  std::vector<int> outputs;  // numbers of maps
};

// Reads a program. Returns -1, or the position of the first number that is wrong.
// May throw std::bad_alloc.
int64_t read_program(const int64_t* code, int64_t length, Program& program);

}  // namespace mmesbnn
