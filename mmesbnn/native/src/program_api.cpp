// The C interface of programs: made of numbers, asked for sizes, and run.
#include <chrono>
#include <memory>
#include <new>

#include "api.h"
#include "pool.h"
#include "program.h"

using mmesbnn::Map;
using mmesbnn::Program;
using namespace mmesbnn::status;

// Reads a program. `data` must be aligned to 8 bytes and must exist as long as the program.
// wrong: the position of the first number that is wrong, if kBadSize is returned.
API int mmesbnn_program_new(const int64_t* code, int64_t length, const uint8_t* data,
                            int64_t data_bytes, int64_t* wrong, Program** out) {
  *wrong = -1;
  *out = nullptr;
  if (length < 0 || data_bytes < 0 || reinterpret_cast<uintptr_t>(data) % 8) return kBadSize;
  try {
    auto program = std::make_unique<Program>();
    program->data = data;
    program->data_bytes = data_bytes;
    *wrong = mmesbnn::read_program(code, length, *program);
    if (*wrong >= 0) return kBadSize;
    *out = program.release();
  } catch (const std::bad_alloc&) {
    return kNoMemory;
  }
  return kOk;
}

API int mmesbnn_program_free(Program* program) {
  delete program;
  return kOk;
}

// sizes: bytes of the workspace, number of steps, number of outputs.
API int mmesbnn_program_sizes(const Program* program, int64_t* sizes) {
  sizes[0] = program->memory + 4 * program->sums;
  sizes[1] = static_cast<int64_t>(program->steps.size());
  sizes[2] = static_cast<int64_t>(program->outputs.size());
  return kOk;
}

// shapes: channels, height and width of the input, then of each output.
API int mmesbnn_program_shapes(const Program* program, int64_t* shapes) {
  const auto write = [&](const Map& map) {
    *shapes++ = map.channels;
    *shapes++ = map.height;
    *shapes++ = map.width;
  };
  write(program->maps[program->input]);
  for (const int number : program->outputs) write(program->maps[number]);
  return kOk;
}

// Runs images (batch, C, H, W), one after the other. outputs: an array (batch, C, H, W) for each
// output. The workspace must be aligned to 8 bytes, and only one call at a time may use it.
// seconds: null, or the time of each step is added to it.
API int mmesbnn_program_run(const Program* program, char* workspace, int64_t workspace_bytes,
                            const float* input, int64_t batch, float* const* outputs,
                            int threads, double* seconds) {
  if (workspace_bytes < program->memory + 4 * program->sums || batch < 0 || threads < 1 ||
      reinterpret_cast<uintptr_t>(workspace) % 8)
    return kBadSize;
  const mmesbnn::OwnThreads own;
  mmesbnn::Run run;
  run.memory = workspace;
  run.sums = reinterpret_cast<float*>(workspace + program->memory);
  run.constants = reinterpret_cast<const float*>(program->data);
  run.input = input;
  run.outputs = outputs;
  run.threads = threads;
  for (run.image = 0; run.image < batch; ++run.image) {
    for (size_t i = 0; i < program->steps.size(); ++i) {
      const auto began = std::chrono::steady_clock::now();
      if (!program->steps[i]->run(run)) return kNoMemory;
      if (seconds) {
        const std::chrono::duration<double> took = std::chrono::steady_clock::now() - began;
        seconds[i] += took.count();
      }
    }
  }
  return kOk;
}
