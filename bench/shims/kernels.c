/* Copy kernels that a data plane would choose from by hand; glibc's memcpy is called directly. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>

int tg_has_avx512(void) { return __builtin_cpu_supports("avx512f"); }
int tg_has_avx2(void) { return __builtin_cpu_supports("avx2"); }

void tg_rep_movsb(void *to, const void *from, size_t n)
{
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
}

/* `to` is 64-byte aligned and `n` a multiple of 256: the benches ask for nothing else. */
__attribute__((target("avx512f"))) void tg_nt_avx512(void *to, const void *from, size_t n)
{
    char *d = to;
    const char *s = from;
    for (size_t i = 0; i < n; i += 256) {
        __m512i a = _mm512_loadu_si512(s + i), b = _mm512_loadu_si512(s + i + 64);
        __m512i c = _mm512_loadu_si512(s + i + 128), e = _mm512_loadu_si512(s + i + 192);
        _mm512_stream_si512((void *)(d + i), a);
        _mm512_stream_si512((void *)(d + i + 64), b);
        _mm512_stream_si512((void *)(d + i + 128), c);
        _mm512_stream_si512((void *)(d + i + 192), e);
    }
    _mm_sfence();
}

__attribute__((target("avx2"))) void tg_nt_avx2(void *to, const void *from, size_t n)
{
    char *d = to;
    const char *s = from;
    for (size_t i = 0; i < n; i += 128) {
        __m256i a = _mm256_loadu_si256((const void *)(s + i)), b = _mm256_loadu_si256((const void *)(s + i + 32));
        __m256i c = _mm256_loadu_si256((const void *)(s + i + 64)), e = _mm256_loadu_si256((const void *)(s + i + 96));
        _mm256_stream_si256((void *)(d + i), a);
        _mm256_stream_si256((void *)(d + i + 32), b);
        _mm256_stream_si256((void *)(d + i + 64), c);
        _mm256_stream_si256((void *)(d + i + 96), e);
    }
    _mm_sfence();
}
#else
int tg_has_avx512(void) { return 0; }
int tg_has_avx2(void) { return 0; }
void tg_rep_movsb(void *to, const void *from, size_t n) { memcpy(to, from, n); }
void tg_nt_avx512(void *to, const void *from, size_t n) { memcpy(to, from, n); }
void tg_nt_avx2(void *to, const void *from, size_t n) { memcpy(to, from, n); }
#endif
