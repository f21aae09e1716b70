// Passes over the numbers of a layer in bfloat16, for processors with AVX512-BF16. The interface is C.
//
// The gate of a feed-forward layer, value * gelu(gate), exact GELU: one pass instead of two, computed in float32 and
// rounded once; torch rounds gelu(gate) first. `gesso.runtime.kernels` calls it; its plain twin is
// `gesso.nn.attention.gated`.
//
// Layer norm, and group norm with SiLU behind it: computed in float32, rounded once. Their plain twins are torch's
// functions. These and the gate say the range of what they give, so that int8 need not look for it.
//
// From bfloat16 to 8 bits: least and greatest number, then whole steps between them. `gesso.runtime.int8` calls both,
// and has their plain twins, which give the same bits.
#include <cstdint>
#include <cstdlib>

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

// 1 / x, error 1e-8 relative.
INLINE __m512 inverse(__m512 x) {
    const __m512 y = _mm512_rcp14_ps(x);
    return _mm512_mul_ps(y, _mm512_fnmadd_ps(x, y, _mm512_set1_ps(2.0f)));
}

// x Phi(x), with erfc after Abramowitz and Stegun 7.1.26: error 1.5e-7 of Phi.
INLINE __m512 gelu(__m512 x) {
    // Beyond 12 nothing is left of the tail; the bound keeps squares finite, and x itself what it is.
    const __m512 z = _mm512_min_ps(_mm512_mul_ps(_mm512_abs_ps(x), _mm512_set1_ps(0.70710678f)), _mm512_set1_ps(12.0f));
    const __m512 t = inverse(_mm512_fmadd_ps(z, _mm512_set1_ps(0.3275911f), _mm512_set1_ps(1.0f)));
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

// Least and greatest number of what is written, and 0; NaN once something is not a number.
struct Span {
    __m512 low, high, strange;  // strange: NaN once a number is not finite, else 0
};

INLINE Span no_span() { return {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()}; }

constexpr __mmask16 ALL = 0xffff;

INLINE __mmask16 mask_at(int64_t at, int64_t count) {
    return static_cast<__mmask16>(count - at < 16 ? (1u << (count - at)) - 1 : ALL);
}

INLINE __m512 load(const uint16_t *x, __mmask16 mask) {
    if (mask == ALL) return widened(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(x)));
    return widened(_mm256_maskz_loadu_epi16(mask, x));
}

// Rounds, writes and takes note. y: 0 where nothing is written.
INLINE void put(uint16_t *to, __mmask16 mask, __m512 y, Span &span) {
    span.low = _mm512_min_ps(span.low, y);
    span.high = _mm512_max_ps(span.high, y);
    span.strange = _mm512_fmadd_ps(y, _mm512_setzero_ps(), span.strange);
    const __m256i bits = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(y));
    if (mask == ALL) _mm256_storeu_si256(reinterpret_cast<__m256i *>(to), bits);
    else _mm256_mask_storeu_epi16(to, mask, bits);
}

// Rounded as the numbers were, which keeps their order.
INLINE float rounded(float x) {
    alignas(32) uint16_t bits[16];
    _mm256_store_si256(reinterpret_cast<__m256i *>(bits), reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(_mm512_set1_ps(x))));
    return _mm512_cvtss_f32(widened(_mm256_load_si256(reinterpret_cast<const __m256i *>(bits))));
}

FAST void note(const Span &span, float *low, float *high) {
    const float strange = _mm512_reduce_add_ps(span.strange);
    *low = rounded(_mm512_reduce_min_ps(span.low)) + strange;
    *high = rounded(_mm512_reduce_max_ps(span.high)) + strange;
}

// The span of all parts, in their order. NaN stays.
void join(const float *lows, const float *highs, int64_t parts, float *span) {
    span[0] = span[1] = 0;
    for (int64_t part = 0; part < parts; part++) {
        span[0] = lows[part] >= span[0] ? span[0] : lows[part];
        span[1] = highs[part] <= span[1] ? span[1] : highs[part];
        if (span[0] != span[0]) return;
    }
}

INLINE __m512 silu(__m512 x) {
    const __m512 part = exponential(_mm512_sub_ps(_mm512_setzero_ps(), _mm512_abs_ps(x)));  // e^-|x|
    const __mmask16 negative = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_LT_OQ);
    const __m512 above = _mm512_mask_blend_ps(negative, _mm512_set1_ps(1.0f), part);
    return _mm512_mul_ps(_mm512_mul_ps(x, above), inverse(_mm512_add_ps(_mm512_set1_ps(1.0f), part)));
}

// Sums of x - first and of its square over so many rows, by channel.
FAST void sums_of(const uint16_t *x, const uint16_t *first, int64_t rows, int64_t channels, float *sums) {
    for (int64_t at = 0; at < channels; at += 64) {
        __mmask16 mask[4];
        __m512 shift[4], sum[4], square[4];
        for (int i = 0; i < 4; i++) {
            mask[i] = at + 16 * i < channels ? mask_at(at + 16 * i, channels) : static_cast<__mmask16>(0);
            shift[i] = load(first + at + 16 * i, mask[i]);
            sum[i] = square[i] = _mm512_setzero_ps();
        }
        for (int64_t row = 0; row < rows; row++)
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++) {
                const __m512 y = _mm512_sub_ps(load(x + row * channels + at + 16 * i, mask[i]), shift[i]);
                sum[i] = _mm512_add_ps(sum[i], y);
                square[i] = _mm512_fmadd_ps(y, y, square[i]);
            }
        for (int i = 0; i < 4; i++) {
            _mm512_mask_storeu_ps(sums + at + 16 * i, mask[i], sum[i]);
            _mm512_mask_storeu_ps(sums + channels + at + 16 * i, mask[i], square[i]);
        }
    }
}

FAST void silu_rows(const uint16_t *x, uint16_t *out, int64_t rows, int64_t channels, const float *by, const float *plus,
                    float *low, float *high) {
    Span span = no_span();
    const int64_t whole = channels / 16 * 16;
    for (int64_t row = 0; row < rows; row++, x += channels, out += channels) {
        for (int64_t at = 0; at < whole; at += 16)
            put(out + at, ALL, silu(_mm512_fmadd_ps(load(x + at, ALL), _mm512_loadu_ps(by + at), _mm512_loadu_ps(plus + at))),
                span);
        if (whole < channels) {
            const __mmask16 mask = mask_at(whole, channels);
            put(out + whole, mask,
                silu(_mm512_fmadd_ps(load(x + whole, mask), _mm512_maskz_loadu_ps(mask, by + whole),
                                     _mm512_maskz_loadu_ps(mask, plus + whole))),
                span);
        }
    }
    note(span, low, high);
}

FAST void norm_rows(const uint16_t *x, const uint16_t *weight, const uint16_t *bias, uint16_t *out, int64_t rows,
                    int64_t width, float eps, float *low, float *high) {
    Span span = no_span();
    for (int64_t row = 0; row < rows; row++, x += width, out += width) {
        __m512 sum = _mm512_setzero_ps(), square = sum;
        for (int64_t at = 0; at < width; at += 16) sum = _mm512_add_ps(sum, load(x + at, mask_at(at, width)));
        const __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(sum) / static_cast<float>(width));
        for (int64_t at = 0; at < width; at += 16) {
            const __mmask16 mask = mask_at(at, width);
            const __m512 y = _mm512_maskz_sub_ps(mask, load(x + at, mask), mean);
            square = _mm512_fmadd_ps(y, y, square);
        }
        const float variance = _mm512_reduce_add_ps(square) / static_cast<float>(width);
        const __m512 by = _mm512_set1_ps(1.0f / __builtin_sqrtf(variance + eps));
        for (int64_t at = 0; at < width; at += 16) {
            const __mmask16 mask = mask_at(at, width);
            const __m512 y = _mm512_mul_ps(_mm512_sub_ps(load(x + at, mask), mean), by);
            put(out + at, mask, _mm512_fmadd_ps(y, load(weight + at, mask), load(bias + at, mask)), span);
        }
    }
    note(span, low, high);
}

FAST void gate_row(const uint16_t *value, const uint16_t *gate, uint16_t *out, int64_t width, Span &span) {
    const int64_t whole = width / 16 * 16;
    for (int64_t at = 0; at < whole; at += 16)
        put(out + at, ALL, _mm512_mul_ps(load(value + at, ALL), gelu(load(gate + at, ALL))), span);
    if (whole < width) {
        const __mmask16 mask = mask_at(whole, width);
        put(out + whole, mask, _mm512_mul_ps(load(value + whole, mask), gelu(load(gate + whole, mask))), span);
    }
}

FAST void gate_rows(const uint16_t *x, uint16_t *out, int64_t rows, int64_t width, float *low, float *high) {
    Span span = no_span();
    for (int64_t row = 0; row < rows; row++)
        gate_row(x + 2 * row * width, x + (2 * row + 1) * width, out + row * width, width, span);
    note(span, low, high);
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

// The following are for processors that `gesso_attention_is_supported` says have what it takes. Nothing that they take
// has gaps. Each gives the least and the greatest number that it wrote, and 0, in `span`; NaN where one is none. They
// return 1, with nothing written, where there is no memory.

// x [rows, 2 width]: values, then gates -> out [rows, width]
extern "C" int gesso_gate(const uint16_t *x, uint16_t *out, int64_t rows, int64_t width, float *span, int threads) {
    const int64_t each = PIECE / width + 1, parts = (rows + each - 1) / each;
    float *spans = static_cast<float *>(malloc(sizeof(float) * static_cast<size_t>(2 * parts + 1)));
    if (spans == nullptr) return 1;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t part = 0; part < parts; part++) {
        const int64_t row = part * each, count = rows - row < each ? rows - row : each;
        gate_rows(x + 2 * row * width, out + row * width, count, width, spans + part, spans + parts + part);
    }
    join(spans, spans + parts, parts, span);
    free(spans);
    return 0;
}

// x [rows, width], weight and bias [width] -> out [rows, width]
extern "C" int gesso_layer_norm(const uint16_t *x, const uint16_t *weight, const uint16_t *bias, uint16_t *out,
                                int64_t rows, int64_t width, float eps, float *span, int threads) {
    const int64_t each = PIECE / width + 1, parts = (rows + each - 1) / each;
    float *spans = static_cast<float *>(malloc(sizeof(float) * static_cast<size_t>(2 * parts + 1)));
    if (spans == nullptr) return 1;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t part = 0; part < parts; part++) {
        const int64_t row = part * each, count = rows - row < each ? rows - row : each;
        norm_rows(x + row * width, weight, bias, out + row * width, count, width, eps, spans + part,
                  spans + parts + part);
    }
    join(spans, spans + parts, parts, span);
    free(spans);
    return 0;
}

// x [batch, places, channels], weight and bias [channels] -> out of x's shape: SiLU of the group norm. Sums are of a
// few rows in float32, of these in double, of x without the channel's first number; in an order of their own.
extern "C" int gesso_silu_norm(const uint16_t *x, const uint16_t *weight, const uint16_t *bias, uint16_t *out,
                               int64_t batch, int64_t places, int64_t channels, int64_t groups, float eps, float *span,
                               int threads) {
    const int64_t each = PIECE / channels + 1, pieces = (places + each - 1) / each, parts = batch * pieces;
    const int64_t of_sums = 2 * channels * parts, of_scales = 2 * channels * batch;
    float *memory = static_cast<float *>(malloc(sizeof(float) * static_cast<size_t>(of_sums + of_scales + 2 * parts + 1)));
    if (memory == nullptr) return 1;
    float *scales = memory + of_sums, *spans = scales + of_scales;
    const auto rows_of = [=](int64_t part) {
        const int64_t row = part % pieces * each;
        return places - row < each ? places - row : each;
    };
    const auto at = [=](int64_t part) { return (part / pieces * places + part % pieces * each) * channels; };
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t part = 0; part < parts; part++)
        sums_of(x + at(part), x + part / pieces * places * channels, rows_of(part), channels, memory + 2 * channels * part);
    const int64_t wide = channels / groups;
    const double count = static_cast<double>(places);
    const auto number = [](uint16_t bits) {
        const uint32_t wider = static_cast<uint32_t>(bits) << 16;
        float value;
        __builtin_memcpy(&value, &wider, 4);
        return value;
    };
    for (int64_t row = 0; row < batch; row++)
        for (int64_t group = 0; group < groups; group++) {
            double sum = 0, within = 0, between = 0;
            for (int pass = 0; pass < 2; pass++)
                for (int64_t channel = group * wide; channel < (group + 1) * wide; channel++) {
                    double shifted = 0, square = 0;
                    for (int64_t piece = 0; piece < pieces; piece++) {
                        const float *sums = memory + 2 * channels * (row * pieces + piece);
                        shifted += static_cast<double>(sums[channel]);
                        square += static_cast<double>(sums[channels + channel]);
                    }
                    const double mean = static_cast<double>(number(x[row * places * channels + channel])) + shifted / count;
                    if (pass == 0) {
                        sum += mean;
                        within += square / count - shifted / count * (shifted / count);
                    } else {
                        const double off = mean - sum / static_cast<double>(wide);
                        between += off * off;
                    }
                }
            const double mean = sum / static_cast<double>(wide), variance = (within + between) / static_cast<double>(wide);
            const double gain = 1 / __builtin_sqrt((variance < 0 ? 0 : variance) + static_cast<double>(eps));
            for (int64_t channel = group * wide; channel < (group + 1) * wide; channel++) {
                const double by = gain * static_cast<double>(number(weight[channel]));
                scales[2 * channels * row + channel] = static_cast<float>(by);
                scales[2 * channels * row + channels + channel] =
                    static_cast<float>(static_cast<double>(number(bias[channel])) - mean * by);
            }
        }
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t part = 0; part < parts; part++) {
        const float *by = scales + 2 * channels * (part / pieces);
        silu_rows(x + at(part), out + at(part), rows_of(part), channels, by, by + channels, spans + part,
                  spans + parts + part);
    }
    join(spans, spans + parts, parts, span);
    free(memory);
    return 0;
}

#else

extern "C" int gesso_gate(const uint16_t *, uint16_t *, int64_t, int64_t, float *, int) { return 1; }
extern "C" int gesso_layer_norm(const uint16_t *, const uint16_t *, const uint16_t *, uint16_t *, int64_t, int64_t, float,
                                float *, int) {
    return 1;
}
extern "C" int gesso_silu_norm(const uint16_t *, const uint16_t *, const uint16_t *, uint16_t *, int64_t, int64_t,
                               int64_t, int64_t, float, float *, int) {
    return 1;
}
extern "C" void gesso_range(const uint16_t *, int64_t, int16_t *, int) {}
extern "C" void gesso_quantize(const uint16_t *, uint8_t *, int64_t, float, int, int) {}

#endif
