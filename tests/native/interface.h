// What the programs of these tests share: the C interface, numbers by chance, files of programs.
#pragma once

#include <cstdint>
#include <cstring>
#include <fstream>
#include <memory>
#include <random>
#include <string>
#include <vector>

extern "C" {
int mmesbnn_use(const char* name);
int mmesbnn_instruction_sets(char* names, size_t size);
int mmesbnn_pack_signs(const float*, int64_t, int64_t, int64_t, int64_t, int, const float*, int,
                       int, uint64_t*, float*);
int mmesbnn_pack_weights(const float*, int64_t, int64_t, int64_t, int64_t, const float*, int, int,
                         uint64_t*, float*);
int mmesbnn_convolve(const uint64_t*, int64_t, int64_t, int64_t, int64_t, int64_t, const uint64_t*,
                     int64_t, const int32_t*, int, const float*, int64_t, int64_t, int, int,
                     float*, int16_t*);
int mmesbnn_scale_sums(const int16_t*, int64_t, int64_t, int64_t, const float*, int, float*);
int mmesbnn_input_gradient(const float*, int64_t, int64_t, int64_t, int64_t, int64_t,
                           const uint64_t*, int64_t, const int32_t*, const float*, int64_t,
                           int64_t, int, int, float*);
int mmesbnn_weight_gradient(const float*, const uint64_t*, int64_t, int64_t, int64_t, int64_t,
                            int64_t, int64_t, const int32_t*, int, int64_t, int64_t, int, int,
                            float*);
int mmesbnn_normalize(const float*, const int16_t*, const float*, const float*, int64_t, int64_t,
                      int64_t, int64_t, int64_t, const float*, const float*, int, const float*,
                      const float*, const float*, const float*, double, int, int, float*, float*,
                      float*, float*);
int mmesbnn_normalize_gradients(const float*, const int16_t*, const float*, const float*, int64_t,
                                int64_t, int64_t, int64_t, int64_t, const float*, const float*, int,
                                const float*, const float*, const float*, const float*,
                                const float*, const float*, int, float*, float*, float*, float*,
                                float*, float*, float*);
int mmesbnn_latent_gradient(const float*, const float*, const float*, int64_t, int64_t, float, int,
                            int, float*);
int mmesbnn_sign_gradient(const float*, const float*, const float*, const float*, int64_t, int64_t,
                          int64_t, const float*, int, float, int, float*, float*);
int mmesbnn_elastic_values(const float*, int64_t, float, int, float*);
int mmesbnn_elastic_gradients(const float*, const float*, int64_t, float, int, float*, float*);
int mmesbnn_prelu_gradients(const float*, const float*, int64_t, int64_t, int64_t, const float*,
                            int, float*, float*);
int mmesbnn_normalize_tokens(const float*, const int16_t*, const float*, int64_t, int64_t, int64_t,
                             const float*, int64_t, const float*, const float*, const float*,
                             const float*, double, int, int, float*, float*);
int mmesbnn_normalize_tokens_gradients(const float*, const int16_t*, const float*, int64_t, int64_t,
                                       int64_t, const float*, int64_t, const float*, const float*,
                                       const float*, const float*, const float*, int, float*,
                                       float*, float*, float*, float*, float*, float*);
int mmesbnn_add_cross(const float*, const float*, int64_t, int64_t, int64_t, int64_t, int64_t,
                      const float*, const float*, int, float*);
int mmesbnn_cross_gradients(const float*, const float*, int64_t, int64_t, int64_t, int64_t, int64_t,
                            const float*, int, float*, float*, float*);
int mmesbnn_sign_gradient_tokens(const float*, const float*, int64_t, int64_t, int64_t, int64_t,
                                 const float*, int, float, int, float*, float*);
int mmesbnn_head_signs(const float*, int64_t, int64_t, int64_t, int64_t, const float*, int, float*);
int mmesbnn_average_pool(const float*, int64_t, int64_t, int64_t, int, float*);
int mmesbnn_average_pool_gradient(const float*, int64_t, int64_t, int64_t, int, float*);
int mmesbnn_average_activated(const float*, int64_t, int64_t, int64_t, int64_t, const float*, int,
                              float*);
int mmesbnn_average_activated_gradients(const float*, const float*, int64_t, int64_t, int64_t,
                                        int64_t, const float*, int, float*, float*);
int mmesbnn_average_neighbours(const float*, int64_t, int64_t, int, float*);
int mmesbnn_average_neighbours_gradient(const float*, int64_t, int64_t, int, float*);
int mmesbnn_max_pool(const float*, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t,
                     int64_t, int, float*, uint8_t*);
int mmesbnn_max_pool_gradient(const float*, const uint8_t*, int64_t, int64_t, int64_t, int64_t,
                              int64_t, int64_t, int64_t, int64_t, int, float*);
int mmesbnn_program_new(const int64_t*, int64_t, const uint8_t*, int64_t, int64_t*, void**);
int mmesbnn_program_free(void*);
int mmesbnn_program_sizes(const void*, int64_t*);
int mmesbnn_program_shapes(const void*, int64_t*);
int mmesbnn_program_run(const void*, char*, int64_t, const float*, int64_t, float* const*, int,
                        double*);
}

inline std::mt19937_64 chance(1);

// A number from 0 to `most`.
inline int64_t up_to(int64_t most) { return static_cast<int64_t>(chance() % (most + 1)); }

struct Seed {
  std::vector<int64_t> code;
  std::vector<uint8_t> data;
};

template <class T>
std::vector<T> read_some(std::ifstream& file, int64_t count) {
  std::vector<T> values(count);
  file.read(reinterpret_cast<char*>(values.data()), sizeof(T) * count);
  return values;
}

// A program in a file: length of the code and bytes of the data as int64, the code, the data.
inline Seed read_seed(std::ifstream& file) {
  const auto sizes = read_some<int64_t>(file, 2);
  Seed seed;
  seed.code = read_some<int64_t>(file, sizes[0]);
  seed.data = read_some<uint8_t>(file, sizes[1]);
  return seed;
}

// Values of the input of a program, then of each output.
inline std::vector<int64_t> values_of(const void* program) {
  int64_t sizes[3];
  mmesbnn_program_sizes(program, sizes);
  std::vector<int64_t> shapes(3 * (1 + sizes[2])), values;
  mmesbnn_program_shapes(program, shapes.data());
  for (size_t i = 0; i < shapes.size(); i += 3)
    values.push_back(shapes[i] * shapes[i + 1] * shapes[i + 2]);
  return values;
}

// Names of the instruction sets of this processor, the fastest first.
inline std::vector<std::string> instruction_sets() {
  char names[256];
  std::vector<std::string> sets;
  if (mmesbnn_instruction_sets(names, sizeof names) != 0) return sets;
  for (char* name = std::strtok(names, ","); name; name = std::strtok(nullptr, ","))
    sets.push_back(name);
  return sets;
}
