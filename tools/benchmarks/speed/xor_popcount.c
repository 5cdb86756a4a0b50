#include <stdint.h>
#ifdef __AVX2__
#include <immintrin.h>
#endif
/* Multiply one input with four weights at a time, 512 words each. All data stay in the first
   cache, and each load of an input serves four sums, as in a convolution. */
uint64_t plain(const uint64_t *x, const uint64_t *w, long repeats) {
    uint64_t sums[4] = {0, 0, 0, 0};
    for (long r = 0; r < repeats; ++r) {
        uint64_t a = 0, b = 0, c = 0, d = 0;
        for (int i = 0; i < 512; ++i) {
            uint64_t v = x[i] ^ (uint64_t)r;
            a += __builtin_popcountll(v ^ w[i]);
            b += __builtin_popcountll(v ^ w[512 + i]);
            c += __builtin_popcountll(v ^ w[1024 + i]);
            d += __builtin_popcountll(v ^ w[1536 + i]);
        }
        sums[0] += a; sums[1] += b; sums[2] += c; sums[3] += d;
    }
    return sums[0] + sums[1] + sums[2] + sums[3];
}
/* The same result with one popcount for two words, as in a row of full adders. A sum bit is the
   xor of all words so far, which is linear: the prefix xors of inputs and of weights are made
   once, so they are data here. xp and wp: the xor of the words up to each second vector. */
#ifdef __AVX512VPOPCNTDQ__
uint64_t prefix(const uint64_t *x, const uint64_t *w, const uint64_t *xp, const uint64_t *wp,
                long repeats) {
    __m512i twos[4], ones[4];
    for (int k = 0; k < 4; ++k) twos[k] = ones[k] = _mm512_setzero_si512();
    for (long r = 0; r < repeats; ++r) {
        __m512i parity[4], turn = _mm512_set1_epi64(r);
        for (int k = 0; k < 4; ++k) parity[k] = _mm512_setzero_si512();
        for (int i = 0; i < 32; ++i) {
            __m512i v = _mm512_xor_si512(_mm512_loadu_si512(x + 16 * i), turn);
            __m512i p = _mm512_loadu_si512(xp + 8 * i);
            #pragma GCC unroll 4
            for (int k = 0; k < 4; ++k) {
                __m512i a = _mm512_xor_si512(v, _mm512_loadu_si512(w + 512 * k + 16 * i));
                __m512i n = _mm512_xor_si512(p, _mm512_loadu_si512(wp + 256 * k + 8 * i));
                /* of the parity before, a, and the second word: whether two of them are 1 */
                __m512i carry = _mm512_ternarylogic_epi64(parity[k], a, n, 0xd4);
                twos[k] = _mm512_add_epi64(twos[k], _mm512_popcnt_epi64(carry));
                parity[k] = n;
            }
        }
        for (int k = 0; k < 4; ++k)
            ones[k] = _mm512_add_epi64(ones[k], _mm512_popcnt_epi64(parity[k]));
    }
    uint64_t sum = 0;
    for (int k = 0; k < 4; ++k)
        sum += _mm512_reduce_add_epi64(ones[k]) + 2 * _mm512_reduce_add_epi64(twos[k]);
    return sum;
}
#endif
/* Four rows of 8 words with 64 kernels, by tables: a byte of a row selects the tables of its two
   halves, and a shuffle looks up the counts of 32 kernels. w: (2, 128, 32) bytes of four bits.
   tables: (256, 2, 16) bytes. */
#ifdef __AVX2__
uint64_t table(const uint8_t *x, const uint8_t *w, const uint8_t *tables, long repeats) {
    const __m256i zero = _mm256_setzero_si256();
    __m256i sum = zero;
    for (long r = 0; r < repeats; ++r) {
        for (int begin = 0; begin < 64; begin += 16) {
            __m256i bytes[4][2];
            for (int k = 0; k < 4; ++k) bytes[k][0] = bytes[k][1] = zero;
            for (int i = begin; i < begin + 16; ++i) {
                #pragma GCC unroll 2
                for (int half = 0; half < 2; ++half) {
                    const uint8_t *at = w + 32 * (2 * i + half);
                    __m256i a = _mm256_loadu_si256((const __m256i *)at);
                    __m256i b = _mm256_loadu_si256((const __m256i *)(at + 4096));
                    __asm__("" : "+x"(a), "+x"(b));
                    #pragma GCC unroll 4
                    for (int k = 0; k < 4; ++k) {
                        const uint8_t *row = tables + 32 * (x[64 * k + i] ^ (r & 255));
                        __m256i t = _mm256_broadcastsi128_si256(
                            _mm_loadu_si128((const __m128i *)(row + 16 * half)));
                        bytes[k][0] = _mm256_add_epi8(bytes[k][0], _mm256_shuffle_epi8(t, a));
                        bytes[k][1] = _mm256_add_epi8(bytes[k][1], _mm256_shuffle_epi8(t, b));
                    }
                }
            }
            for (int k = 0; k < 4; ++k)
                for (int g = 0; g < 2; ++g)
                    sum = _mm256_add_epi64(sum, _mm256_sad_epu8(bytes[k][g], zero));
        }
    }
    uint64_t parts[4];
    _mm256_storeu_si256((__m256i *)parts, sum);
    return parts[0] + parts[1] + parts[2] + parts[3];
}
#endif
