#include "pool.h"

#include "api.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#endif

#if defined(_WIN32)
#include <process.h>
#define getpid _getpid
#else
#include <unistd.h>
#endif

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#endif

namespace mmesbnn {
namespace {

void pause() {
#if defined(__x86_64__) || defined(_M_X64)
  _mm_pause();
#elif defined(__aarch64__) && !defined(_MSC_VER)
  asm volatile("yield");
#else
  std::this_thread::yield();
#endif
}

// Waits up to 0.2 milliseconds. A network has more than a hundred steps of some ten microseconds,
// and between them others that one thread computes. To fall asleep and wake up takes longer.
template <class Condition>
bool spin(Condition condition) {
  using Clock = std::chrono::steady_clock;
  const auto end = Clock::now() + std::chrono::microseconds(200);
  do {
    for (int i = 0; i < 64; ++i) {
      if (condition()) return true;
      pause();
    }
  } while (Clock::now() < end);
  return condition();
}

class Pool {
 public:
  Pool() : owner_(static_cast<int>(getpid())) {}

  // A forked child has none of its parent's threads.
  bool is_of_this_process() const { return owner_ == static_cast<int>(getpid()); }

  void run(int64_t total, int parts, const std::function<void(int64_t, int64_t)>& work) {
    start(parts - 1);
    keep_off_this_core();
    work_ = &work, total_ = total, parts_ = parts, left_ = parts;
    untaken_ = parts - 1;
    if (asleep_ != 0) wake(awake_);
    do_part(0);
    take();
    if (spin([this] { return left_ == 0; })) return;
    std::unique_lock<std::mutex> lock(mutex_);
    waits_ = true;
    done_.wait(lock, [this] { return left_ == 0; });
    waits_ = false;
  }

 private:
  // Starts threads until there are `count`, or as many as the system gives. Those that exist, and
  // the caller, take all parts.
  void start(int count) {
    try {
      while (static_cast<int>(threads_.size()) < count) {
        threads_.emplace_back([this] { serve(); });
        core_ = -1;  // the new thread does not know it yet
      }
    } catch (const std::system_error&) {
    } catch (const std::bad_alloc&) {
    }
  }

  // Works on parts until none is free. No lock is taken, because a thread that waits for one falls
  // asleep, and to wake up takes longer than many parts.
  void take() {
    for (int untaken = untaken_; untaken > 0;) {
      if (!untaken_.compare_exchange_weak(untaken, untaken - 1)) continue;
      do_part(parts_ - untaken);
      untaken = untaken_;
    }
  }

  void do_part(int64_t part) {
    (*work_)(total_ * part / parts_, total_ * (part + 1) / parts_);
    if (--left_ == 0 && waits_) wake(done_);
  }

  // One that is about to wait has the mutex, and has said so before it looked for the last time.
  void wake(std::condition_variable& waiting) {
    { const std::lock_guard<std::mutex> lock(mutex_); }
    waiting.notify_all();
  }

  // Lets the threads run on every core of the caller but on the one where it is now. Linux often
  // wakes a thread on the core of the thread that wakes it, though another core is idle, and moves
  // it only after milliseconds. Then two threads take as long as one.
  void keep_off_this_core() {
#if defined(__linux__)
    const int core = sched_getcpu();
    cpu_set_t cores;
    if (core < 0 || core == core_ || sched_getaffinity(0, sizeof cores, &cores) != 0) return;
    core_ = core;
    CPU_CLR(core, &cores);
    if (CPU_COUNT(&cores) == 0) return;
    for (std::thread& thread : threads_)
      pthread_setaffinity_np(thread.native_handle(), sizeof cores, &cores);
#endif
  }

  void serve() {
    const auto has_work = [this] { return untaken_ > 0; };
    for (;;) {
      if (!spin(has_work)) {
        std::unique_lock<std::mutex> lock(mutex_);
        ++asleep_;
        awake_.wait(lock, has_work);
        --asleep_;
      }
      take();
    }
  }

  const int owner_;
  std::mutex mutex_;
  std::condition_variable awake_, done_;
  std::vector<std::thread> threads_;
  int core_ = -1;  // where the last caller ran
  std::atomic<int> asleep_{0};
  std::atomic<bool> waits_{false};
  // Written while no part is left, and read by those that have taken one.
  alignas(64) const std::function<void(int64_t, int64_t)>* work_ = nullptr;
  int64_t total_ = 0;
  int parts_ = 0;
  std::atomic<int> untaken_{0};  // parts that no thread has taken
  // In a line of its own: the caller looks at it again and again.
  alignas(64) std::atomic<int> left_{0};  // parts that are not done
};

// More would only take memory.
constexpr int kMostThreads = 1024;

using OpenMp = void(void (*)(void*), void*, unsigned, unsigned);
std::atomic<OpenMp*> openmp{nullptr};
thread_local int own_threads = 0;

// Parts of work that the threads of OpenMP take.
struct Parts {
  int64_t total;
  int count;
  const std::function<void(int64_t, int64_t)>& work;
  std::atomic<int> next{0};

  static void take(void* data) {
    Parts& parts = *static_cast<Parts*>(data);
    for (int part; (part = parts.next++) < parts.count;)
      parts.work(parts.total * part / parts.count, parts.total * (part + 1) / parts.count);
  }
};

}  // namespace

OwnThreads::OwnThreads() { ++own_threads; }
OwnThreads::~OwnThreads() { --own_threads; }

void parallel(int64_t total, int threads, const std::function<void(int64_t, int64_t)>& work) {
  threads = std::min(threads, kMostThreads);
  const int parts = static_cast<int>(std::min<int64_t>(threads, total));
  if (parts <= 1) {
    if (total > 0) work(0, total);
    return;
  }
  OpenMp* const shared = own_threads ? nullptr : openmp.load();
  if (shared != nullptr) {
    // More parts than threads, because others may need the cores, too.
    Parts list{total, static_cast<int>(std::min<int64_t>(4 * threads, total)), work};
    shared(Parts::take, &list, static_cast<unsigned>(parts), 0);
    return;
  }
  // Never deleted: its threads wait for work until the process ends.
  static std::mutex mutex;
  static Pool* pool = nullptr;
  std::unique_lock<std::mutex> lock(mutex, std::try_to_lock);
  if (!lock.owns_lock()) {  // another thread has the pool: it keeps the cores busy
    work(0, total);
    return;
  }
  if (pool == nullptr || !pool->is_of_this_process()) pool = new Pool;
  pool->run(total, parts, work);
}

}  // namespace mmesbnn

// Makes single operators run on the threads of an OpenMP library: `gomp_parallel` is its
// GOMP_parallel, or null for our own threads. Threads of OpenMP spin for milliseconds after each
// use, so beside a library that uses them ours would wait for a core. Programs run on our own.
API int mmesbnn_share_threads(void* gomp_parallel) {
  mmesbnn::openmp.store(reinterpret_cast<mmesbnn::OpenMp*>(gomp_parallel));
  return mmesbnn::status::kOk;
}
