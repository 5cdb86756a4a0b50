// Reads programs. They may come from unknown sources, so every number is checked before its use.
#include "program.h"

#include <unordered_set>

#include "steps.h"

namespace mmesbnn {
namespace {

constexpr int64_t kVersion = 1, kMostMaps = 1 << 16, kMostSteps = 1 << 16, kMostCode = 1 << 12;
constexpr int64_t kSide = 1 << 16, kMostChannels = 1 << 20;
// For an image: bytes of maps, outputs and sums; and operations, as in deploy/runtime/program.py.
constexpr int64_t kMostMemory = int64_t{1} << 31, kMostWork = int64_t{1} << 38;
// Operations of a sigmoid, and of preparing an instruction for one more piece of a segment.
constexpr int64_t kSigmoidWork = 8, kPieceWork = 64;
// Tiles of a sweep, and floats of the vectors in which channels are counted.
constexpr int64_t kMostTiles = 64, kVector = 16;
// Largest sums of a binary convolution in int16, and in float, which holds all integers up to it.
constexpr int64_t kMostInt16 = 32767, kMostFloat = 1 << 24;
// Bytes that no step has written yet, of which it is worth while to ask for the lines ahead.
constexpr int64_t kLeastAhead = int64_t{1} << 20;

struct Wrong {};

// Takes the numbers in order; throws Wrong at a number that is out of its range.
class Reader {
 public:
  Reader(const int64_t* code, int64_t length, Program& program)
      : program_(program), code_(code), length_(length) {}

  int64_t position() const { return position_; }

  void read() {
    next(kVersion, kVersion);
    program_.memory = next(0, kMostMemory);
    require(program_.memory % 64 == 0);
    const int64_t maps = next(1, kMostMaps);
    for (int64_t i = 0; i < maps; ++i) read_map();
    const int64_t steps = next(2, kMostSteps);
    for (int64_t i = 0; i < steps; ++i) read_step();
    if (position_ != length_ || program_.input < 0 || program_.outputs.empty()) throw Wrong();
    if (program_.memory + outputs_ + 4 * kMostTiles * sums_ > kMostMemory) throw Wrong();
  }

 private:
  Program& program_;
  const int64_t* code_;
  const int64_t length_;
  int64_t position_ = 0;
  int64_t weighed_ = 0;  // bytes of the weights of all steps
  int64_t work_ = 0;     // operations of all steps
  int64_t outputs_ = 0;  // bytes of all outputs
  int64_t sums_ = 0;     // of a tile of the sweep that has most
  std::unordered_set<int64_t> sizes_;  // pixels of all maps
  int64_t written_ = 0;  // end of the memory that steps have written so far
  // Convolutions that can still ask for memory ahead, and their operations.
  std::vector<std::pair<Step*, int64_t>> convolutions_;

  int64_t next(int64_t least, int64_t most) {
    if (position_ >= length_) throw Wrong();
    const int64_t value = code_[position_];
    if (value < least || value > most) throw Wrong();
    ++position_;
    return value;
  }

  // If the condition is false, goes back to the last number and throws Wrong.
  void require(bool condition) {
    if (condition) return;
    --position_;
    throw Wrong();
  }

  void read_map() {
    Map map;
    map.kind = static_cast<MapKind>(next(0, static_cast<int>(MapKind::kCount) - 1));
    map.height = next(1, kSide), map.width = next(1, kSide), map.channels = next(1, kMostChannels);
    map.offset = next(0, kMostMemory);
    require(map.offset % 64 == 0 && map.pixels() <= kMostMemory / map.channels &&
            map.bytes() <= program_.memory - map.offset);
    program_.maps.push_back(map);
    sizes_.insert(map.pixels());
  }

  // Counts operations, so many for each pixel.
  void work(int64_t pixels, int64_t each) {
    // a division, because the product could be too large for an integer
    require(each <= (kMostWork - work_) / pixels);
    work_ += pixels * each;
  }

  static int64_t in_vectors(int64_t channels) {
    return (channels + kVector - 1) / kVector * kVector;
  }

  // Lets the convolutions before the first step that writes much new memory ask for it: they are
  // bound by computing, and that step by memory.
  void note_written(const Map& map) {
    int64_t at = std::max(map.offset, written_), left = map.offset + map.bytes() - at, total = 0;
    written_ = std::max(written_, map.offset + map.bytes());
    if (left < kLeastAhead) return;
    for (const auto& [step, operations] : convolutions_) total += operations;
    for (const auto& [step, operations] : convolutions_) {
      const double share = static_cast<double>(operations) / static_cast<double>(total);
      step->ahead = {at, std::min(left, static_cast<int64_t>(share * static_cast<double>(left)))};
      at += step->ahead.count, left -= step->ahead.count, total -= operations;
    }
    convolutions_.clear();
  }

  // The prepared data of a step are at most some two times as large as its weights. The sum over
  // all steps is limited, even if several steps share weights.
  void weigh(int64_t bytes) {
    weighed_ += bytes;
    require(weighed_ <= 4 * program_.data_bytes);
  }

  int64_t map_number() { return next(0, static_cast<int64_t>(program_.maps.size()) - 1); }

  Map map_of(MapKind kind) {
    const Map map = program_.maps[map_number()];
    require(map.kind == kind);
    return map;
  }

  void read_step() {
    switch (next(0, 5)) {
      case 0: return read_input();
      case 1: return read_output();
      case 2: return read_real_conv();
      case 3: return read_binary_conv();
      case 4: return read_pool();
      default: return read_sweep();
    }
  }

  template <class T>
  void add(std::unique_ptr<T> step) {
    program_.steps.push_back(std::move(step));
  }

  void read_input() {
    auto step = std::make_unique<InputStep>();
    step->to = map_of(MapKind::kFloat);
    require(program_.input < 0);
    note_written(step->to);
    program_.input = static_cast<int>(code_[position_ - 1]);
    add(std::move(step));
  }

  void read_output() {
    auto step = std::make_unique<OutputStep>();
    step->from = map_of(MapKind::kFloat);
    step->number = program_.outputs.size();
    outputs_ += step->from.bytes();
    program_.outputs.push_back(static_cast<int>(code_[position_ - 1]));
    add(std::move(step));
  }

  Window read_window(bool dilates) {
    constexpr int64_t most = 1 << 12;
    Window window;
    for (int32_t& value : window.kernel) value = static_cast<int32_t>(next(1, most));
    for (int32_t& value : window.stride) value = static_cast<int32_t>(next(1, most));
    for (int32_t& value : window.padding) value = static_cast<int32_t>(next(0, most));
    for (int32_t& value : window.dilation)
      value = dilates ? static_cast<int32_t>(next(1, most)) : 1;
    return window;
  }

  void read_real_conv() {
    auto step = std::make_unique<RealConvStep>();
    step->from = map_of(MapKind::kFloat), step->to = map_of(MapKind::kFloat);
    step->at = next(0, step->to.channels - 1);
    step->kernels = next(1, step->to.channels - step->at);
    step->window = read_window(true);
    step->groups = next(1, step->kernels);
    require(step->kernels % step->groups == 0 && step->from.channels % step->groups == 0);
    step->kernels /= step->groups;
    const int64_t depth = step->from.channels / step->groups;
    const int64_t blocks = (step->kernels + kRealLanes - 1) / kRealLanes * step->groups;
    // a division, because the product could be too large for an integer
    const int64_t limit = program_.data_bytes / 4, row = depth * kRealLanes;
    require(step->window.taps() <= limit / row && blocks <= limit / (row * step->window.taps()));
    weigh(4 * blocks * row * step->window.taps());
    step->weights = next(0, limit - blocks * row * step->window.taps());
    work(step->to.pixels(), blocks * row * step->window.taps());
    note_written(step->to);
    convolutions_.emplace_back(step.get(), step->to.pixels() * blocks * row * step->window.taps());
    step->zeros.assign(depth, 0.0f);
    add(std::move(step));
  }

  void read_binary_conv() {
    auto step = std::make_unique<BinaryConvStep>();
    BinaryConv& conv = step->conv;
    step->from = map_of(MapKind::kBits), step->to = program_.maps[map_number()];
    require(step->to.kind != MapKind::kBits);
    step->at = next(0, step->to.channels - 1);
    conv.kernels = next(1, step->to.channels - step->at);
    conv.window = read_window(true);
    conv.pad_value = static_cast<int>(next(-1, 1));
    conv.groups = 1, conv.channels = step->from.channels;
    conv.height = step->from.height, conv.width = step->from.width;
    conv.out_height = step->to.height, conv.out_width = step->to.width;
    const int64_t most = step->to.kind == MapKind::kInt16 ? kMostInt16 : kMostFloat;
    require(conv.channels <= most / conv.window.taps());
    const int64_t row = conv.window.taps() * conv.words() * kLanes;
    const int64_t limit = program_.data_bytes / 8;
    require(blocks_for(conv.kernels) <= limit / row);
    weigh(8 * blocks_for(conv.kernels) * row);
    const int64_t weights = next(0, limit - blocks_for(conv.kernels) * row);
    work(step->to.pixels(), blocks_for(conv.kernels) * row);
    note_written(step->to);
    convolutions_.emplace_back(step.get(), step->to.pixels() * blocks_for(conv.kernels) * row);
    conv.weights = reinterpret_cast<const uint64_t*>(program_.data) + weights;
    conv.prepare(INT64_MAX);
    add(std::move(step));
  }

  void read_pool() {
    auto step = std::make_unique<PoolStep>();
    step->from = map_of(MapKind::kFloat), step->to = map_of(MapKind::kFloat);
    require(step->from.channels == step->to.channels);
    step->window = read_window(false);
    step->maximum = next(0, 1) != 0;
    step->count_padding = next(0, 1) != 0;
    work(step->to.pixels(), in_vectors(step->to.channels) * step->window.taps());
    note_written(step->to);
    add(std::move(step));
  }

  void read_sweep() {
    auto step = std::make_unique<SweepStep>();
    step->height = next(1, kSide), step->width = next(1, kSide);
    require(sizes_.count(step->pixels()) > 0);
    const int64_t segments = next(1, kMostSteps);
    for (int64_t i = 0; i < segments; ++i) {
      Segment segment;
      segment.channels = next(1, kMostChannels);
      const int64_t length = next(1, kMostCode);
      for (int64_t j = 0; j < length; ++j) read_instruction(*step, segment);
      count_work(step->pixels(), segment);
      link(segment.code);
      step->segments.push_back(std::move(segment));
    }
    step->count_registers();
    sums_ = std::max(sums_, step->sums);
    program_.sums = std::max(program_.sums, step->sums * step->tiles());
    add(std::move(step));
  }

  // Counts the operations of a segment, which is not linked yet.
  void count_work(int64_t pixels, const Segment& segment) {
    const int64_t length = segment.code.size(), channels = segment.channels;
    int64_t each = length, cuts = 0;
    for (const Instruction& one : segment.code) {
      if (one.op == Op::kSigmoid) each += kSigmoidWork - 1;
      for (const Operand* operand : {&one.a, &one.b, &one.c, &one.d})
        if (operand->where == Where::kMap || operand->where == Where::kMap16)
          cuts += (channels - 1) / operand->period;
    }
    work(pixels, in_vectors(channels) * each);
    work(1, std::min(cuts, channels - 1) * length * kPieceWork);
  }

  void read_instruction(SweepStep& sweep, Segment& segment) {
    // Numbers of operands, in the order of Op.
    static const int kOperands[] = {1, 2, 2, 2, 3, 4, 2, 2, 2, 4, 1, 2};
    Instruction one{};
    one.op = static_cast<Op>(next(0, static_cast<int>(Op::kCount) - 1));
    one.to = read_target(one.op, sweep, segment.channels);
    int left = kOperands[static_cast<int>(one.op)];
    for (Operand* operand : {&one.a, &one.b, &one.c, &one.d})
      *operand = read_operand(sweep.pixels(), segment.channels, left-- > 0);
    segment.code.push_back(one);
  }

  // An operand has four numbers: what, number, first channel, period.
  Operand read_operand(int64_t pixels, int64_t channels, bool needed) {
    Operand operand{Where::kNone, 0, 0, 1, 0, 1, 1};
    const int64_t what = next(needed ? 1 : 0, needed ? 3 : 0);
    if (what == 1) {
      operand.where = Where::kRegister;
      operand.at = next(0, kRegisters - 1);
    } else if (what == 2) {
      operand.where = Where::kConstant;
      operand.at = next(0, program_.data_bytes / 4 - channels);
    } else if (what == 3) {
      const Map map = program_.maps[map_number()];
      require(map.kind != MapKind::kBits);
      const bool vector = map.pixels() == 1 && pixels != 1;
      require(map.pixels() == pixels || (vector && map.kind == MapKind::kFloat));
      operand.where = vector                      ? Where::kVector
                      : map.kind == MapKind::kInt16 ? Where::kMap16
                                                    : Where::kMap;
      operand.at = map.offset, operand.stride = map.channels;
      operand.offset = next(0, map.channels - 1);
      operand.period = next(1, map.channels - operand.offset);
      require(operand.period <= channels && (!vector || operand.period == channels));
      return operand;
    } else {
      next(0, 0);
    }
    next(0, 0);
    next(0, 0);
    return operand;
  }

  // `what` is 1: a register, 3: a map, 4: the mean of all pixels, 5: means of windows.
  Operand read_target(Op op, SweepStep& sweep, int64_t channels) {
    Operand target{Where::kNone, 0, 0, channels, 0, 1, 1};
    const int64_t what = op == Op::kBits ? next(3, 3) : next(1, 5);
    if (what == 1) {
      target.where = Where::kRegister;
      target.at = next(0, kRegisters - 1);
      next(0, 0);
      next(0, 0);
      return target;
    }
    require(what >= 3);
    const Map map = program_.maps[map_number()];
    require(map.kind == (op == Op::kBits ? MapKind::kBits : MapKind::kFloat));
    require(channels <= map.channels);
    target.offset = next(0, map.channels - channels);
    next(channels, channels);
    target.at = map.offset, target.stride = map.channels;
    note_written(map);
    if (what == 3) {
      require(map.pixels() == sweep.pixels());
      target.where = op == Op::kBits ? Where::kBitMap : Where::kMap;
    } else if (what == 4) {
      require(map.pixels() == 1);
      target.where = Where::kMean, target.stride = sweep.sums;
      sweep.means.push_back({sweep.sums, channels, map.offset + 4 * target.offset});
      sweep.sums += channels;
    } else {
      require(sweep.height % map.height == 0 && sweep.width % map.width == 0);
      target.where = Where::kPool;
      target.rows = sweep.height / map.height, target.columns = sweep.width / map.width;
      require(!sweep.pools || sweep.rows == target.rows);
      sweep.pools = true, sweep.rows = target.rows;
    }
    return target;
  }
};

}  // namespace

int64_t read_program(const int64_t* code, int64_t length, Program& program) {
  Reader reader(code, length, program);
  try {
    reader.read();
  } catch (const Wrong&) {
    return reader.position();
  }
  return -1;
}

}  // namespace mmesbnn
