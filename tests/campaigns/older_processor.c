/* Lets a process see an older processor: preloaded, it answers CPUID itself.

   Linux on most Intel processors can let CPUID raise a signal (arch_prctl,
   ARCH_SET_CPUID). The handler asks the processor and clears the features that
   TEST_PROCESSOR does not name. Where that is impossible the process ends with 77. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define ARCH_SET_CPUID 0x1012
#define BIT(n) (1u << (n))

enum { SSE42, AVX2, AVX512, AVX512_VNNI };
static int level;

static long allow_cpuid(int allowed) {
  return syscall(SYS_arch_prctl, ARCH_SET_CPUID, allowed);
}

static void answer(int number, siginfo_t *info, void *context) {
  greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
  const uint8_t *code = (const uint8_t *)registers[REG_RIP];
  if (code[0] != 0x0f || code[1] != 0xa2) { /* a real fault */
    signal(SIGSEGV, SIG_DFL);
    return;
  }
  uint32_t leaf = registers[REG_RAX], part = registers[REG_RCX];
  uint32_t a = leaf, b, c = part, d;
  allow_cpuid(1);
  __asm__ volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
  allow_cpuid(0);
  if (leaf == 7 && part == 0) {
    c &= ~BIT(14); /* vpopcntdq */
    if (level < AVX512_VNNI) {
      c &= ~(BIT(1) | BIT(6) | BIT(11) | BIT(12));
      d &= ~(BIT(22) | BIT(23) | BIT(24) | BIT(25)); /* amx, fp16 */
    }
    if (level < AVX512) {
      b &= ~(BIT(16) | BIT(17) | BIT(21) | BIT(26) | BIT(27) | BIT(28) | BIT(30) |
             BIT(31));
      d &= ~(BIT(2) | BIT(3) | BIT(8));
    }
    if (level < AVX2) {
      b &= ~BIT(5);
      c &= ~(BIT(8) | BIT(9) | BIT(10));
    }
  }
  if (leaf == 7 && part == 1 && level < AVX512_VNNI) {
    a &= ~(BIT(4) | BIT(5) | BIT(21) | BIT(23)); /* avx-vnni, bf16, amx-fp16 */
    d = 0;
  }
  if (leaf == 1 && level < AVX2) {
    c &= ~(BIT(12) | BIT(26) | BIT(27) | BIT(28) | BIT(29)); /* fma, avx, f16c */
  }
  registers[REG_RAX] = a;
  registers[REG_RBX] = b;
  registers[REG_RCX] = c;
  registers[REG_RDX] = d;
  registers[REG_RIP] += 2;
}

__attribute__((constructor)) static void begin(void) {
  const char *name = getenv("TEST_PROCESSOR");
  static const char *names[] = {"sse42", "avx2", "avx512", "avx512_vnni"};
  if (name == NULL) return;
  for (level = 0; level < 4 && strcmp(name, names[level]) != 0; level++) continue;
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_sigaction = answer;
  action.sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK;
  if (level == 4 || sigaction(SIGSEGV, &action, NULL) || allow_cpuid(0)) _exit(77);
}
