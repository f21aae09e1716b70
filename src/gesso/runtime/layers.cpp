// The gate of a feed-forward layer in bfloat16, for processors with AVX512-BF16: value * gelu(gate), exact GELU.
//
// One pass over the numbers instead of two, computed in float32 and rounded once; torch rounds gelu(gate) first.
// The interface is C; `gesso.runtime.kernels` calls it. Its plain twin is `gesso.nn.attention.gated`.
#include <cstdint>

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define FAST __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")))
#define INLINE FAST inline __attribute__((always_inline))

namespace {

INLINE __m512 widened(__m256i x) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16)); }

// e^x for x <= 0, error 2e-7 relative: 2^part by Taylor's series to the sixth power.
INLINE __m512 exponential(__m512 x) {
    x = _mm512_mul_ps(x, _mm512_set1_ps(1.44269504f));
    const __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m512 part = _mm512_mul_ps(_mm512_sub_ps(x, whole), _mm512_set1_ps(0.69314718f));
    __m512 y = _mm512_set1_ps(1.0f / 720);
    y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(1.0f / 120));
    y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(1.0f / 24));
    y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(1.0f / 6));
    y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(0.5f));
    y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(1.0f));
    y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(y, whole);
}

// x Phi(x), with erfc after Abramowitz and Stegun 7.1.26: error 1.5e-7 of Phi.
INLINE __m512 gelu(__m512 x) {
    // Beyond 12 nothing is left of the tail; the bound keeps squares finite, and x itself what it is.
    const __m512 z = _mm512_min_ps(_mm512_mul_ps(_mm512_abs_ps(x), _mm512_set1_ps(0.70710678f)), _mm512_set1_ps(12.0f));
    const __m512 t = _mm512_div_ps(_mm512_set1_ps(1.0f),
                                   _mm512_fmadd_ps(z, _mm512_set1_ps(0.3275911f), _mm512_set1_ps(1.0f)));
    __m512 y = _mm512_set1_ps(1.061405429f);
    y = _mm512_fmadd_ps(y, t, _mm512_set1_ps(-1.453152027f));
    y = _mm512_fmadd_ps(y, t, _mm512_set1_ps(1.421413741f));
    y = _mm512_fmadd_ps(y, t, _mm512_set1_ps(-0.284496736f));
    y = _mm512_fmadd_ps(y, t, _mm512_set1_ps(0.254829592f));
    const __m512 squared = _mm512_mul_ps(z, z);
    const __m512 beyond = _mm512_mul_ps(_mm512_mul_ps(y, t), exponential(_mm512_sub_ps(_mm512_setzero_ps(), squared)));
    const __m512 tail = _mm512_mul_ps(beyond, _mm512_set1_ps(0.5f));  // Phi(-|x|)
    const __mmask16 negative = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_LT_OQ);
    return _mm512_mul_ps(x, _mm512_mask_blend_ps(negative, _mm512_sub_ps(_mm512_set1_ps(1.0f), tail), tail));
}

FAST void gate_row(const uint16_t *value, const uint16_t *gate, uint16_t *out, int64_t width) {
    for (int64_t at = 0; at < width; at += 16) {
        const __mmask16 mask = static_cast<__mmask16>(width - at < 16 ? (1u << (width - at)) - 1 : 0xffff);
        const __m512 v = widened(_mm256_maskz_loadu_epi16(mask, value + at));
        const __m512 g = widened(_mm256_maskz_loadu_epi16(mask, gate + at));
        _mm256_mask_storeu_epi16(out + at, mask, reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(_mm512_mul_ps(v, gelu(g)))));
    }
}

}  // namespace

// x [rows, 2 width]: values, then gates -> out [rows, width], both without gaps. For processors that
// `gesso_attention_is_supported` says have what it takes.
extern "C" void gesso_gate(const uint16_t *x, uint16_t *out, int64_t rows, int64_t width, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = 0; row < rows; row++)
        gate_row(x + 2 * row * width, x + (2 * row + 1) * width, out + row * width, width);
}

#else

extern "C" void gesso_gate(const uint16_t *, uint16_t *, int64_t, int64_t, int) {}

#endif
