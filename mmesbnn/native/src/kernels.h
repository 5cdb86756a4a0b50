// Kernels of the engine, one table of functions for each instruction set.
//
// A word holds 64 entries, the first in its lowest bit; 1 stands for +1 and 0 for -1. Bits after
// the last entry are 0 in both operands, so they add nothing to a count of differing bits.
// Maps of a program hold the channels of a pixel side by side.
#pragma once

#include <cstddef>
#include <cstdint>

namespace mmesbnn {

// Output channels per block in packed binary weights, and in real weights.
constexpr int kLanes = 8;
constexpr int kRealLanes = 16;
// Output channels of a group whose weights are packed for count_nibbles.
constexpr int kNibbleLanes = 32;
// Rows of a matrix register, and its columns of 32 bits.
constexpr int kMatrixRows = 16;
// Output channels whose products are made at a time in matrix registers.
constexpr int kMatrixLanes = 2 * kMatrixRows;
// Pixels that a real-valued convolution computes at a time, each in a register of its own.
constexpr int kRealPixels = 8;
// Pixels that a sweep computes at a time.
constexpr int kTile = 8;
// Channels of four vectors of the widest instruction set.
constexpr int kMostLanes = 64;
// Floats of a register of a sweep, for up to 2 kTile pixels.
constexpr int kRegister = 2 * kTile * kMostLanes;
constexpr int kRegisters = 16;
// Pieces of a segment, see end_of_piece(), that are prepared at a time.
constexpr int kPieces = 16;
// Floats of a map of which a sweep computes all pieces in turn; they fit in the second cache.
constexpr int64_t kChunk = 65536;
constexpr int kAllRegisters = kRegisters + 3;  // with those of link()

enum class Op {
  kCopy,      // a
  kAdd,       // a + b
  kSub,       // a - b
  kMul,       // a b
  kFma,       // a b + c
  kFmaAdd,    // a b + c + d
  kMax,       // max(a, b)
  kMin,       // min(a, b)
  kPrelu,     // a < 0 ? a b : a
  kFmaPrelu,  // the same of a b + c and d
  kSigmoid,   // 1 / (1 + exp(-a))
  kBits,      // bits of a > b
  kCount
};

enum class Where {
  kNone,
  kRegister,
  kConstant,
  kVector,  // a map of one pixel, for all pixels
  kMap,
  kMap16,
  kBitMap,
  kMean,  // the sum over the pixels of a tile, of which a mean is made
  kPool   // the mean of windows that stand side by side
};

// Operand or target of an instruction, for the channels that start at the block's first one.
struct Operand {
  Where where;
  int64_t at;      // number of the register; index of a constant; byte in the memory
  int64_t offset;  // first channel in the map
  int64_t period;  // number of channels after `offset` that are read repeatedly
  int64_t stride;  // channels of the map; of a mean: its place among the sums of a tile
  int64_t rows, columns;  // of a window of a pool
};

struct Instruction {
  Op op;
  Operand to, a, b, c, d;
  // Set by link().
  bool forwarded;  // `a` is the result of the instruction before
  bool kept;       // an instruction after the next one reads the result from its register
  bool aside;      // max() of `a`, which stays the result, of which only a mean is made
};

// Where an operand or target begins in its map, with the bytes from a pixel to the next one in a
// tile, from pixel to pixel of the first one of a tile, and from channel to channel.
struct Source {
  char* at;
  size_t step, next, along;
};

// An instruction for channels that lie side by side in all of its operands.
struct Ready {
  Op op;
  Where from;   // kNone (the result of the instruction before), kMap (floats) or kMap16
  Where where;  // to write to; kNone: the next instruction is the only one to read it
  int once;     // which operands are equal for all pixels, 1: b, 2: c, 4: d
  Source a, b, c, d, to;
  int64_t rows, columns;  // of a window of a pool
  int64_t bit, bits;      // place of the first bit in its pixel; bits of a pixel
  int64_t sum;            // place of the first sum among those of a tile
  bool aside;             // as of the instruction
};

// Some pixels of a segment of a sweep.
struct Block {
  const Instruction* code;
  int length;
  Ready* ready;  // kPieces * `length`
  char* memory;
  const float* constants;
  float* registers;     // kAllRegisters * kRegister
  float* sums;          // of all tiles
  int64_t tile, place;  // pixels that share sums; floats from their sums to the next tile's
  int64_t begin, end;   // the pixels
  int64_t width;        // of the maps
  int64_t channels;
};

// A real-valued convolution of one or two blocks of kRealLanes output channels.
struct RealTile {
  const float* const* rows;  // (taps, kRealPixels): where the channels of each tap begin
  int pixels;                // those after them may be computed or not
  int blocks;
  int64_t taps, channels;
  const float* weights;  // (blocks, taps, channels, kRealLanes)
  float* out;            // of the first pixel, for the kernels of all blocks
  int64_t step;          // floats from a pixel's results to the next one's
};

// What a piece of a binary convolution has counted, for some pixels and kernels of a group. A sum
// of sign * sign is total - (counts << shift) - wrong.
struct Sums {
  const int32_t* counts;  // (pixels, lanes): differing bits (shift 1), or negated sums (shift 0)
  const int32_t* wrong;   // (pixels, lanes): what padded pixels add but should not; or null
  int64_t lanes;
  int32_t total;
  int shift;
  int64_t first, kernels;  // those of the group that are counted

  int32_t operator()(int64_t p, int64_t o) const {
    const int64_t at = p * lanes + o;
    const auto more = static_cast<int32_t>(static_cast<uint32_t>(counts[at]) << shift);
    return total - more - (wrong ? wrong[at] : 0);
  }
};

// Sums of products of signs as bytes, in matrix registers. A strip is kMatrixRows pixels side by
// side, of 64 bytes each.
struct ByteProducts {
  const int8_t* x;          // the first word of the first pixel's window
  int64_t strips;
  const int64_t* steps;     // (words): bytes from there to each word of the window
  int64_t words;
  const uint64_t* weights;  // (halves, words, kMatrixRows), see write_matrices()
  int halves;               // groups of kMatrixRows kernels, 1 or 2
  int32_t* out;             // (strips, kMatrixRows, kMatrixLanes): the negated sums
};

// Sums of products of real numbers and signs, kSumLanes of them side by side. A term is four
// numbers for each lane. Its table holds the 16 sums of them with all signs; the first number has
// the lowest bit. So an addition does the work of four multiplications and four additions.
constexpr int kSumLanes = 32;
// Terms whose tables, of 2 KB each, leave room in the first cache.
constexpr int kSumTerms = 8;
constexpr int kSumTable = 16 * kSumLanes;
// Four signs in a byte are multiplied by this: an eighth of the bytes from an entry to the next.
constexpr int kSumStep = kSumLanes * sizeof(float) / 8;

// Some pixels of a channel of an image in a training step of a batch norm:
//   out = act(scale z + offset + residual) + shift
// where `act` is a PReLU or nothing.
struct NormPart {
  int64_t count;
  const float* z;
  const float* residual;  // null: none
  float scale, offset, shift;
  bool has_slope;
  float slope;
};

// Mean of numbers, and the sum of the squares of their distances from it.
struct Moments {
  double mean, squares;
};

// Sums over pixels, with `grad`, the gradient of `out`, and `inner`, that of what `act` gets.
struct NormSums {
  double grads, inners, products, negatives;  // grad, inner, inner (z - mean), grad min(v, 0)
};

// The gradient of `out` for a NormPart: grad + more.
struct NormGrad {
  const float* grad;
  float more, mean;
};

// How the gradient of z follows from `inner`, the sum over copies of gain times the gradient:
//   scale (inner - offset - (z - mean) factor)
struct NormSlope {
  float scale, offset, mean, factor;
};

// Some pixels of a channel of an image in the backward pass of a norm of z = gate x y, with the
// gradient `grad` of the norm's result plus y; y is null where z = gate x.
struct GatedPart {
  int64_t count;
  const float *x, *y, *z, *grad;
  float gate, gain;
  NormSlope slope;
};

// Some pixels of a channel that is made of sums: gate act(factor (scale sums) + offset) y; without
// y, which then is null, it is 1.
struct SumsPart {
  int64_t count;
  const int16_t* sums;
  float scale, factor, offset, slope, gate;
  const float* y;
};

// The numbers of a NormPart for each channel of a pixel, whose channels lie side by side.
// `residual`, `slope` and `shift` may be null.
struct NormPixel {
  int64_t channels;
  const float *z, *residual, *scale, *offset, *slope, *shift;
};

// Sums for each channel, as those of NormSums; `negatives` and `grads` are null without a slope.
struct PixelSums {
  float *grads, *inners, *products, *negatives;
};

// The numbers of a NormSlope for each channel.
struct PixelSlope {
  const float *scale, *offset, *mean, *factor;
};

// What Kernels::compare finds among entries.
enum { kOther = 1, kNaN = 2 };

// Functions of an instruction set; none, if the processor is of another kind.
struct Kernels {
  const char* name;
  bool (*supported)() = nullptr;
  // out[row][channel] = number of differing bits, for `rows` rows of `words` words each
  // (the distance between rows is `row_stride` words) and `blocks` blocks of kLanes channels,
  // packed [block][word][lane].
  void (*count)(const uint64_t* x, size_t row_stride, int rows, const uint64_t* weights, int words,
                int blocks, int32_t* out, size_t out_stride) = nullptr;
  // The same with one popcount for two words, as in a row of full adders: all words' sum bit is
  // their xor. In the weights each second word is replaced by the xor of all words up to it, and
  // in a copy of the rows, too; `room` is for that, and for an even number of rows. Rows have no
  // distance. Null: there is none.
  void (*count_pairs)(const uint64_t* x, int rows, const uint64_t* weights, int words, int blocks,
                      uint64_t* room, int32_t* out, size_t out_stride) = nullptr;
  // The same as `count` for `groups` groups of kNibbleLanes channels, from a table: the entry of
  // four bits of a weight in the table of four bits of a row is their number of differing bits.
  // Weights are packed [group][word][nibble][lane], a byte each. Null: there is none.
  void (*count_nibbles)(const uint64_t* x, size_t row_stride, int rows, const uint8_t* weights,
                        int words, int groups, int32_t* out, size_t out_stride) = nullptr;
  // Writes a byte for each bit of `count` words that are `step` apart: 1 or -1, and 0 for a bit
  // that is not in `valid`. Null, like multiply_bytes: there are no matrix registers.
  void (*spread)(const uint64_t* words, int64_t step, int64_t count, uint64_t valid,
                 int8_t* out) = nullptr;
  // Writes the sums of ByteProducts.
  void (*multiply_bytes)(const ByteProducts& products) = nullptr;
  // Bit i is x[i] > threshold, for i < count <= 64. Adds to `found` kOther if an entry is neither
  // -1 nor 1, and kNaN if one is NaN.
  uint64_t (*compare)(const float* x, int count, float threshold, int* found) = nullptr;
  // Writes the sums of a piece; `step` is the distance between pixels.
  void (*finish_integers)(const Sums& sums, int64_t pixels, int64_t step, int16_t* to) = nullptr;
  void (*finish_floats)(const Sums& sums, int64_t pixels, int64_t step, float* to) = nullptr;
  void (*run)(const Block& block) = nullptr;
  void (*convolve)(RealTile& tile) = nullptr;
  // Writes the table of a term.
  void (*tabulate)(const float* const four[4], float* table) = nullptr;
  // sums[row][lane] += the sum over terms of tables[term][signs[row][term]][lane], where the inner
  // sum begins with 0. Signs are multiplied by kSumStep; a row of them has kSumTerms, of which
  // `terms` are read.
  void (*add_entries)(const float* tables, const uint8_t* signs, int terms, int64_t rows,
                      float* sums) = nullptr;
  // to[c] = sums[c] + sums[next + c] + ..., of `rows` terms and in double, divided by `share`.
  void (*average)(const float* sums, int64_t rows, int64_t next, double share, int64_t count,
                  float* to) = nullptr;
  // out[i] = scale sums[i].
  void (*scale)(const int16_t* sums, float scale, int64_t count, float* out) = nullptr;
  // out[i] = factor x[i] y[i]; without y: factor x[i].
  void (*multiply)(const float* x, const float* y, float factor, int64_t count,
                   float* out) = nullptr;
  // Returns the sum of x[i].
  double (*add_up)(const float* x, int64_t count) = nullptr;
  // Returns the sum of |x[i]|.
  double (*add_magnitudes)(const float* x, int64_t count) = nullptr;
  Moments (*moments)(const float* z, int64_t count) = nullptr;
  // Writes `out` of a NormPart; returns its sum.
  double (*activate)(const NormPart& part, float* out) = nullptr;
  // Writes the result of a SumsPart.
  void (*activate_sums)(const SumsPart& part, float* out) = nullptr;
  // Writes `inner` of a NormPart, if it is not null; adds to the sums.
  void (*differentiate)(const NormPart& part, const NormGrad& grad, float* inner,
                        NormSums* sums) = nullptr;
  // sums[i] = factor inner[i] of a NormPart, or that is added.
  void (*accumulate_inner)(const NormPart& part, const NormGrad& grad, float factor, bool first,
                           float* sums) = nullptr;
  // sums[i] = factor x[i], or that is added.
  void (*accumulate)(const float* x, float factor, bool first, int64_t count,
                     float* sums) = nullptr;
  // out[i] = the gradient of z, of inner[i] and z[i].
  void (*centre)(const float* inner, const float* z, const NormSlope& slope, int64_t count,
                 float* out) = nullptr;
  // Writes the gradients of x and y of a GatedPart, and returns that of the gate. Without y, of_y
  // is not written.
  double (*differentiate_gated)(const GatedPart& part, float* of_x, float* of_y) = nullptr;
  // out[i] = grad[i] times the derivative that stands for that of the sign of x[i] + shift:
  // 1 where |x + shift| <= clip, or 2 - 2|x + shift| where that is positive. Returns the sum of
  // out.
  double (*window)(const float* grad, const float* x, float shift, float clip, int64_t count,
                   float* out) = nullptr;
  // numbers[i] += by + more[i]; without more: by.
  void (*raise_by)(float by, const float* more, int64_t count, float* numbers) = nullptr;
  double (*triangle)(const float* grad, const float* x, float shift, int64_t count,
                     float* out) = nullptr;
  // out[i] = clip where x[i] > clip / 2, else 0; not a number where x[i] is none.
  void (*elastic)(const float* x, float clip, int64_t count, float* out) = nullptr;
  // Writes the gradient of x in that, grad where 0 <= x <= clip, else 0. Returns that of clip: the
  // sum of grad w, with w = 0 where x < 0, 1 where x > clip, and else 1 or 0 less x / clip.
  double (*elastic_gradient)(const float* grad, const float* x, float clip, int64_t count,
                              float* out) = nullptr;
  // The same for a pixel: sums are added to those of each channel.
  void (*scale_pixel)(const int16_t* sums, const float* scales, int64_t channels,
                      float* out) = nullptr;
  // For each column of z, (rows, channels): a number near its mean, and the sums of the distances
  // of its entries from that, and of their squares.
  void (*moments_of_rows)(const float* z, int64_t rows, int64_t channels, float* near,
                          float* distances, float* squares) = nullptr;
  // The same of z = scales sums.
  void (*moments_of_sums)(const int16_t* sums, const float* scales, int64_t rows, int64_t channels,
                          float* near, float* distances, float* squares) = nullptr;
  void (*activate_pixel)(const NormPixel& pixel, float* out) = nullptr;
  void (*differentiate_pixel)(const NormPixel& pixel, const float* grad, const float* mean,
                              float* inner, const PixelSums& sums) = nullptr;
  // sums[i] = factors[i] x[i], or that is added.
  void (*accumulate_pixel)(const float* x, const float* factors, bool first, int64_t channels,
                           float* sums) = nullptr;
  // sums[i] += x[i] y[i].
  void (*add_products)(const float* x, const float* y, int64_t channels, float* sums) = nullptr;
  void (*centre_pixel)(const float* inner, const float* z, const PixelSlope& slope,
                       int64_t channels, float* out) = nullptr;
  // out[i] = 1 where x[i] + shift[i] > 0, else -1; not a number where that is none.
  void (*signs_pixel)(const float* x, const float* shift, int64_t channels, float* out) = nullptr;
  void (*window_pixel)(const float* grad, const float* x, const float* shift, float clip,
                       int64_t channels, float* out, float* sums) = nullptr;
  void (*triangle_pixel)(const float* grad, const float* x, const float* shift, int64_t channels,
                         float* out, float* sums) = nullptr;
};

extern const Kernels kPortable;
extern const Kernels kAmx;
extern const Kernels kAvx2;
extern const Kernels kAvx512;
extern const Kernels kAvx512bw;
extern const Kernels kNeon;

// The table that is used: the fastest one, or the one that mmesbnn_use() named.
const Kernels& chosen_kernels();

}  // namespace mmesbnn
