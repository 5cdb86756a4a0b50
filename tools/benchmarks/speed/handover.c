#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <time.h>
/* Two threads on two cores write a number to one cache line in turn. */
struct turns {
    _Alignas(128) atomic_long number;
    long rounds;
    int core;
};
static int stay_on(int core) {
    cpu_set_t cores;
    CPU_ZERO(&cores);
    CPU_SET(core, &cores);
    return pthread_setaffinity_np(pthread_self(), sizeof cores, &cores);
}
static void *answer(void *data) {
    struct turns *turns = data;
    stay_on(turns->core);
    for (long i = 0; i < turns->rounds; ++i) {
        while (atomic_load(&turns->number) != 2 * i + 1) {}
        atomic_store(&turns->number, 2 * i + 2);
    }
    return 0;
}
/* Nanoseconds from one core to the other; negative if there is no second thread. */
double handover(int first, int second, long rounds) {
    struct turns turns = {.rounds = rounds, .core = second};
    struct timespec begin, end;
    cpu_set_t before;
    pthread_t other;
    if (sched_getaffinity(0, sizeof before, &before) != 0 || stay_on(first) != 0) return -1;
    double taken = -1;
    if (pthread_create(&other, 0, answer, &turns) == 0) {
        clock_gettime(CLOCK_MONOTONIC, &begin);
        for (long i = 0; i < rounds; ++i) {
            atomic_store(&turns.number, 2 * i + 1);
            while (atomic_load(&turns.number) != 2 * i + 2) {}
        }
        clock_gettime(CLOCK_MONOTONIC, &end);
        pthread_join(other, 0);
        taken = (end.tv_sec - begin.tv_sec) * 1e9 + (end.tv_nsec - begin.tv_nsec);
    }
    pthread_setaffinity_np(pthread_self(), sizeof before, &before);
    return taken / (2.0 * rounds);
}
