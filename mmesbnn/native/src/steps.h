// The steps of a program; a Reader has checked their numbers.
#pragma once

#include "byte_conv.h"
#include "program.h"

namespace mmesbnn {

// Copies an image (C, H, W) to a map.
struct InputStep : Step {
  Map to;
  bool run(const Run& run) const override;
};

// Copies a map to an output (C, H, W).
struct OutputStep : Step {
  Map from;
  size_t number;  // of the output
  bool run(const Run& run) const override;
};

// A real-valued convolution; weights (groups, blocks, taps, channels, kRealLanes).
struct RealConvStep : Step {
  Map from, to;
  Window window;
  int64_t at, groups, kernels;  // first channel written; kernels of a group
  int64_t weights;              // index of the first
  std::vector<float> zeros;     // a padded pixel
  bool run(const Run& run) const override;

 private:
  bool is_inside(const Interior& interior, int64_t begin, int count) const;
  void find_rows(const Interior& interior, int64_t begin, int count, bool whole,
                 const float* source, const float** rows) const;
};

struct BinaryConvStep : Step {
  Map from, to;
  int64_t at;
  BinaryConv conv;
  bool run(const Run& run) const override;
};

// The mean or the maximum of a window.
struct PoolStep : Step {
  Map from, to;
  Window window;
  bool maximum, count_padding;
  bool run(const Run& run) const override;
};

// Instructions for a range of channels, starting at the first channel of their operands.
struct Segment {
  int64_t channels;
  std::vector<Instruction> code;
};

// Prepares the code of a segment for the kernels: they read integers as the first operand only,
// and need to know which results stay in registers of the processor.
void link(std::vector<Instruction>& code);

// Mean that a sweep writes: of `count` sums that start at `sum`, to `to` in the memory.
struct MeanTarget {
  int64_t sum, count, to;
};

// Elementwise instructions for all pixels.
struct SweepStep : Step {
  int64_t height, width;
  bool pools = false;
  int64_t rows = 1;  // of pixels that a tile must not part, if it pools
  std::vector<Segment> segments;
  std::vector<MeanTarget> means;
  int64_t sums = 0;  // floats of a tile
  int registers = 0;  // those that the code names

  // Counts the registers, after link().
  void count_registers();

  int64_t tile() const;  // pixels
  int64_t pixels() const { return height * width; }
  int64_t tiles() const { return (pixels() + tile() - 1) / tile(); }
  bool run(const Run& run) const override;

 private:
  void write_mean(const Run& run, const MeanTarget& mean) const;
};

}  // namespace mmesbnn
