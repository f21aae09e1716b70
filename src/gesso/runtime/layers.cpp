// Passes over the numbers of a layer in bfloat16, for processors with AVX512-BF16. The interface is C.
//
// The gate of a feed-forward layer, value * gelu(gate), exact GELU: one pass instead of two, computed in float32 and
// rounded once; torch rounds gelu(gate) first. `gesso.runtime.kernels` calls it; its plain twin is
// `gesso.nn.attention.gated`.
//
// From bfloat16 to 8 bits: least and greatest number, then whole steps between them. `gesso.runtime.int8` calls both,
// and has their plain twins, which give the same bits.
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

// Numbers of bfloat16 as whole numbers of the same order; those that are not finite lie beyond all others.
INLINE __m512i ordered(__m512i x) {
    const __m512i sign = _mm512_srai_epi16(x, 15);
    return _mm512_xor_si512(x, _mm512_and_si512(sign, _mm512_set1_epi16(0x7fff)));
}

FAST void range_of(const uint16_t *x, int64_t count, int16_t *least, int16_t *greatest) {
    __m512i low = _mm512_setzero_si512(), high = low;
    for (int64_t at = 0; at < count; at += 32) {
        const __mmask32 mask = count - at < 32 ? (1u << (count - at)) - 1 : 0xffffffffu;
        const __m512i y = ordered(_mm512_maskz_loadu_epi16(mask, x + at));
        low = _mm512_min_epi16(low, y);
        high = _mm512_max_epi16(high, y);
    }
    alignas(64) int16_t lows[32], highs[32];
    _mm512_store_si512(lows, low);
    _mm512_store_si512(highs, high);
    for (int i = 0; i < 32; i++) {
        *least = lows[i] < *least ? lows[i] : *least;
        *greatest = highs[i] > *greatest ? highs[i] : *greatest;
    }
}

FAST void quantize(const uint16_t *x, uint8_t *out, int64_t count, float per_step, int zero) {
    const __m512 by = _mm512_set1_ps(per_step);
    const __m512i shift = _mm512_set1_epi32(zero);
    for (int64_t at = 0; at < count; at += 16) {
        const __mmask16 mask = static_cast<__mmask16>(count - at < 16 ? (1u << (count - at)) - 1 : 0xffff);
        const __m512 y = _mm512_mul_ps(widened(_mm256_maskz_loadu_epi16(mask, x + at)), by);
        const __m512i whole = _mm512_max_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(y), shift), _mm512_setzero_si512());
        _mm512_mask_cvtusepi32_storeu_epi8(out + at, mask, whole);
    }
}

constexpr int64_t PIECE = 1 << 15;  // numbers that a thread takes at a time

}  // namespace

// Least and greatest of x and 0, each as a whole number of the order of bfloat16: 16 bits, those of a negative number
// but the sign inverted. Beyond +-0x7f7f: something is not finite.
extern "C" void gesso_range(const uint16_t *x, int64_t count, int16_t *range, int threads) {
    int16_t least = 0, greatest = 0;
#pragma omp parallel for num_threads(threads) schedule(static) reduction(min : least) reduction(max : greatest)
    for (int64_t at = 0; at < count; at += PIECE)
        range_of(x + at, count - at < PIECE ? count - at : PIECE, &least, &greatest);
    range[0] = least;
    range[1] = greatest;
}

// x times steps per unit, rounded to even, plus zero, within 0 and 255.
extern "C" void gesso_quantize(const uint16_t *x, uint8_t *out, int64_t count, float per_step, int zero, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t at = 0; at < count; at += PIECE)
        quantize(x + at, out + at, count - at < PIECE ? count - at : PIECE, per_step, zero);
}

// x [rows, 2 width]: values, then gates -> out [rows, width], both without gaps. For processors that
// `gesso_attention_is_supported` says have what it takes.
extern "C" void gesso_gate(const uint16_t *x, uint16_t *out, int64_t rows, int64_t width, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = 0; row < rows; row++)
        gate_row(x + 2 * row * width, x + (2 * row + 1) * width, out + row * width, width);
}

#else

extern "C" void gesso_gate(const uint16_t *, uint16_t *, int64_t, int64_t, int) {}
extern "C" void gesso_range(const uint16_t *, int64_t, int16_t *, int) {}
extern "C" void gesso_quantize(const uint16_t *, uint8_t *, int64_t, float, int, int) {}

#endif
