// Shares work of many sizes with many numbers of threads, and counts who did it. Between rounds it
// waits sometimes, so that threads fall asleep, and sometimes its parts are long, so that it does.
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <thread>
#include <vector>

#include "../../mmesbnn/native/src/pool.h"

namespace {

void rest(std::mt19937& random) {
  if (random() % 20 == 0) std::this_thread::sleep_for(std::chrono::microseconds(500));
}

}  // namespace

int main(int, char** argv) {
  std::mt19937 random(1);
  std::vector<int> done;  // not atomic: each entry is one thread's, and then this one's
  int64_t others = 0;
  const auto self = std::this_thread::get_id();
  for (int round = 0; round < std::atoi(argv[1]); ++round) {
    done.assign(random() % 40, 0);
    std::atomic<int> by_others{0};
    const int threads = 1 + random() % 5;
    const unsigned seed = random();
    mmesbnn::parallel(done.size(), threads, [&](int64_t first, int64_t last) {
      std::mt19937 own(seed + static_cast<unsigned>(first));
      rest(own);
      for (int64_t i = first; i < last; ++i) ++done[i];
      if (std::this_thread::get_id() != self) ++by_others;
    });
    for (const int count : done)
      if (count != 1) return std::printf("round %d: a part was done %d times\n", round, count), 1;
    others += by_others;
    rest(random);
  }
  std::printf("%lld\n", static_cast<long long>(others));
}
