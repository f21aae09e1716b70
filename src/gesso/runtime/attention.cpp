// Attention in bfloat16 for processors with AVX512-BF16: softmax(scale q k^T) v without the matrix of all scores.
//
// Keys go by in blocks, with a running maximum and sum (Milakov and Gimelshein 2018, arXiv:1805.02867; Dao et al. 2022,
// arXiv:2205.14135). Products are of pairs (vdpbf16ps), sums and the softmax are float32. A row's result depends on that
// row and on its keys alone, not on the other rows of the call or on the number of threads.
// The interface is C; `gesso.runtime.kernels` calls it. Its plain twin is torch's scaled_dot_product_attention.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#include <omp.h>
// Warnings of GCC 12's own headers.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#define FAST __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")))
#define INLINE FAST inline __attribute__((always_inline))

namespace {

constexpr int KEYS = 128;  // keys of a block: its scores stay in the first cache
constexpr int ROWS = 12;   // queries of a tile, in groups of 6 or 4 that fill the registers
constexpr float NEVER = -1e30f;

struct Call {
    const uint16_t *q, *k, *v;
    uint16_t *out;
    int64_t heads, queries, keys, dim;      // dim: of a head, even
    int64_t q_batch, q_head, q_row;         // strides in numbers; those of one head's numbers are 1
    int64_t k_batch, k_head, k_row, v_batch, v_head, v_row, out_batch, out_head, out_row;
    float scale;                            // times log2(e)
    int64_t key_blocks, pairs, lanes;       // pairs of a head's numbers; lanes: vectors of 16 that hold them
};

// [keys, dim] -> [block][pair][key][2]: 16 keys' pairs side by side, zeros behind the last key.
FAST void pack_keys(const Call &c, const uint16_t *k, uint32_t *packed, int64_t block) {
    uint32_t *to = packed + block * c.pairs * KEYS;
    for (int key = 0; key < KEYS; key++) {
        const int64_t row = block * KEYS + key;
        if (row < c.keys) {
            const uint16_t *from = k + row * c.k_row;
            for (int64_t pair = 0; pair < c.pairs; pair++) memcpy(to + pair * KEYS + key, from + 2 * pair, 4);
        } else {
            for (int64_t pair = 0; pair < c.pairs; pair++) to[pair * KEYS + key] = 0;
        }
    }
}

// [keys, dim] -> [block][lane][pair of keys][16 numbers][2], zeros behind the last key and the last number.
FAST void pack_values(const Call &c, const uint16_t *v, uint16_t *packed, int64_t block) {
    for (int64_t lane = 0; lane < c.lanes; lane++) {
        const int64_t count = c.dim - 16 * lane < 16 ? c.dim - 16 * lane : 16;
        const __mmask16 mask = static_cast<__mmask16>((1u << count) - 1);
        uint16_t *to = packed + (block * c.lanes + lane) * KEYS * 16;
        for (int pair = 0; pair < KEYS / 2; pair++) {
            const int64_t row = block * KEYS + 2 * pair;
            const uint16_t *from = v + row * c.v_row + 16 * lane;
            const __m256i zero = _mm256_setzero_si256();
            const __m256i even = row < c.keys ? _mm256_maskz_loadu_epi16(mask, from) : zero;
            const __m256i odd = row + 1 < c.keys ? _mm256_maskz_loadu_epi16(mask, from + c.v_row) : zero;
            const __m512i low = _mm512_cvtepu16_epi32(even), high = _mm512_cvtepu16_epi32(odd);
            _mm512_storeu_si512(to + pair * 32, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
        }
    }
}

INLINE __m512bh as_bf16(__m512i x) { return reinterpret_cast<__m512bh>(x); }

// Scores of 6 queries and 64 keys.
INLINE void scores(const uint16_t *const *rows, const uint32_t *keys, int64_t pairs, float *out) {
    __m512 sum[6][4];
    for (auto &row : sum)
        for (auto &each : row) each = _mm512_setzero_ps();
    for (int64_t pair = 0; pair < pairs; pair++) {
        const uint32_t *at = keys + pair * KEYS;
        const __m512i k0 = _mm512_loadu_si512(at), k1 = _mm512_loadu_si512(at + 16);
        const __m512i k2 = _mm512_loadu_si512(at + 32), k3 = _mm512_loadu_si512(at + 48);
#pragma GCC unroll 6
        for (int row = 0; row < 6; row++) {
            uint32_t both;
            memcpy(&both, rows[row] + 2 * pair, 4);
            const __m512bh q = as_bf16(_mm512_set1_epi32(static_cast<int>(both)));
            sum[row][0] = _mm512_dpbf16_ps(sum[row][0], q, as_bf16(k0));
            sum[row][1] = _mm512_dpbf16_ps(sum[row][1], q, as_bf16(k1));
            sum[row][2] = _mm512_dpbf16_ps(sum[row][2], q, as_bf16(k2));
            sum[row][3] = _mm512_dpbf16_ps(sum[row][3], q, as_bf16(k3));
        }
    }
    for (int row = 0; row < 6; row++)
        for (int each = 0; each < 4; each++) _mm512_storeu_ps(out + row * KEYS + 16 * each, sum[row][each]);
}

// Adds weights [R rows, KEYS] of so many pairs of keys times values to `total`, for LANES vectors of the head's numbers
// and half a vector more (the last of heads of 40): half a vector takes half the time.
template <int R, int LANES, bool HALF>
INLINE void mix(const uint16_t *weights, const uint16_t *values, float *total, int64_t width, int64_t pairs) {
    __m512 sum[R][LANES + 1];
    __m256 half[R];
    for (int row = 0; row < R; row++) {
        for (int lane = 0; lane < LANES; lane++) sum[row][lane] = _mm512_loadu_ps(total + row * width + 16 * lane);
        if (HALF) half[row] = _mm256_loadu_ps(total + row * width + 16 * LANES);
    }
    for (int64_t pair = 0; pair < pairs; pair++) {
        __m512i v[LANES + 1];
        __m256i v_half;
#pragma GCC unroll 5
        for (int lane = 0; lane < LANES; lane++) v[lane] = _mm512_loadu_si512(values + lane * KEYS * 16 + pair * 32);
        if (HALF)
            v_half = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(values + LANES * KEYS * 16 + pair * 32));
#pragma GCC unroll 6
        for (int row = 0; row < R; row++) {
            uint32_t both;
            memcpy(&both, weights + row * KEYS + 2 * pair, 4);
            const __m512bh w = as_bf16(_mm512_set1_epi32(static_cast<int>(both)));
#pragma GCC unroll 5
            for (int lane = 0; lane < LANES; lane++)
                sum[row][lane] = _mm512_dpbf16_ps(sum[row][lane], w, as_bf16(v[lane]));
            if (HALF)
                half[row] = _mm256_dpbf16_ps(half[row], reinterpret_cast<__m256bh>(_mm256_set1_epi32(static_cast<int>(both))),
                                             reinterpret_cast<__m256bh>(v_half));
        }
    }
    for (int row = 0; row < R; row++) {
        for (int lane = 0; lane < LANES; lane++) _mm512_storeu_ps(total + row * width + 16 * lane, sum[row][lane]);
        if (HALF) _mm256_storeu_ps(total + row * width + 16 * LANES, half[row]);
    }
}

template <int R, int LANES, bool HALF = false>
FAST void mix_tile(const uint16_t *weights, const uint16_t *values, float *total, int64_t width, int64_t pairs) {
    for (int row = 0; row < ROWS; row += R)
        mix<R, LANES, HALF>(weights + row * KEYS, values, total + row * width, width, pairs);
}

FAST void mix_all(const uint16_t *weights, const uint16_t *values, float *total, int64_t dim, int64_t pairs) {
    const int64_t lanes = (dim + 15) / 16, width = 16 * lanes;
    if (lanes == 3 && dim <= 40) return mix_tile<6, 2, true>(weights, values, total, width, pairs);
    for (int64_t lane = 0; lane < lanes;) {
        const int64_t left = lanes - lane;
        const int64_t now = left == 5 || left == 10 ? 5 : left < 4 ? left : 4;
        const uint16_t *v = values + lane * KEYS * 16;
        float *to = total + 16 * lane;
        if (now == 5) mix_tile<4, 5>(weights, v, to, width, pairs);
        else if (now == 4) mix_tile<6, 4>(weights, v, to, width, pairs);
        else if (now == 3) mix_tile<6, 3>(weights, v, to, width, pairs);
        else if (now == 2) mix_tile<12, 2>(weights, v, to, width, pairs);
        else mix_tile<12, 1>(weights, v, to, width, pairs);
        lane += now;
    }
}

// 2^x for x <= 8, to the precision of bfloat16 and three bits more.
INLINE __m512 power_of_two(__m512 x) {
    const __m512 part = _mm512_reduce_ps(x, 1);  // x - floor(x)
    __m512 y = _mm512_set1_ps(0.0794402f);       // minimax on [0, 1): error 1e-4
    y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(0.2242764f));
    y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(0.6960656f));
    y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(0.9999250f));
    return _mm512_scalef_ps(y, x);
}

// One tile of up to ROWS queries against all keys.
FAST void tile(const Call &c, const uint16_t *q, const uint32_t *keys, const uint16_t *values, uint16_t *out,
               int64_t first, float *total) {
    alignas(64) float score[ROWS * KEYS];
    alignas(64) uint16_t weight[ROWS * KEYS];
    float highest[ROWS], sum[ROWS];
    const uint16_t *rows[ROWS];
    const int64_t width = 16 * c.lanes, left = c.queries - first;
    for (int row = 0; row < ROWS; row++) {
        rows[row] = q + (first + (row < left ? row : left - 1)) * c.q_row;
        highest[row] = NEVER;
        sum[row] = 0;
    }
    memset(total, 0, sizeof(float) * static_cast<size_t>(ROWS * width));
    const __m512 scale = _mm512_set1_ps(c.scale);
    for (int64_t block = 0; block < c.key_blocks; block++) {
        const uint32_t *k = keys + block * c.pairs * KEYS;
        const int64_t here = c.keys - block * KEYS < KEYS ? c.keys - block * KEYS : KEYS;
        for (int half = 0; half < KEYS; half += 64) {
            if (half >= here) break;
            scores(rows, k + half, c.pairs, score + half);
            scores(rows + 6, k + half, c.pairs, score + 6 * KEYS + half);
        }
        const int64_t padded = (here + 31) / 32 * 32;
        for (int row = 0; row < ROWS; row++)
            for (int64_t key = here; key < padded; key++) score[row * KEYS + key] = NEVER;
        for (int row = 0; row < ROWS; row++) {
            const float *s = score + row * KEYS;
            __m512 top = _mm512_loadu_ps(s);
            for (int64_t each = 1; each < padded / 16; each++) top = _mm512_max_ps(top, _mm512_loadu_ps(s + 16 * each));
            const float most = _mm512_reduce_max_ps(top) * c.scale;
            if (most > highest[row] + 8) {  // less: weights up to 2^8 do no harm
                const float less = highest[row] - most;
                const float factor = less < -120 ? 0.0f : __builtin_exp2f(less);
                highest[row] = most;
                sum[row] *= factor;
                const __m512 by = _mm512_set1_ps(factor);
                float *t = total + row * width;
                for (int64_t lane = 0; lane < c.lanes; lane++)
                    _mm512_storeu_ps(t + 16 * lane, _mm512_mul_ps(_mm512_loadu_ps(t + 16 * lane), by));
            }
            const __m512 minus = _mm512_set1_ps(-highest[row]);
            __m512 added = _mm512_setzero_ps();
#pragma GCC unroll 4
            for (int64_t each = 0; each < padded / 32; each++) {
                const __m512 a = power_of_two(_mm512_fmadd_ps(_mm512_loadu_ps(s + 32 * each), scale, minus));
                const __m512 b = power_of_two(_mm512_fmadd_ps(_mm512_loadu_ps(s + 32 * each + 16), scale, minus));
                added = _mm512_add_ps(added, _mm512_add_ps(a, b));
                _mm512_storeu_si512(weight + row * KEYS + 32 * each,
                                    reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(b, a)));
            }
            sum[row] += _mm512_reduce_add_ps(added);
        }
        mix_all(weight, values + block * c.lanes * KEYS * 16, total, c.dim, (here + 1) / 2);
    }
    for (int row = 0; row < ROWS && row < left; row++) {
        const __m512 by = _mm512_set1_ps(1.0f / sum[row]);
        uint16_t *to = out + (first + row) * c.out_row;
        for (int64_t lane = 0; lane < c.lanes; lane++) {
            const int64_t count = c.dim - 16 * lane < 16 ? c.dim - 16 * lane : 16;
            const __m512 y = _mm512_mul_ps(_mm512_loadu_ps(total + row * width + 16 * lane), by);
            _mm256_mask_storeu_epi16(to + 16 * lane, static_cast<__mmask16>((1u << count) - 1),
                                     reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(y)));
        }
    }
}

}  // namespace

extern "C" int gesso_attention_is_supported() {
    return __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

// sizes: batch, heads, queries, keys, dim; strides: batch, head and row of q, k, v and out.
// 0: done; 1: this processor, or no memory; nothing was written.
extern "C" int gesso_attention(const uint16_t *q, const uint16_t *k, const uint16_t *v, uint16_t *out,
                               const int64_t *sizes, const int64_t *strides, float scale, int threads) {
    if (!gesso_attention_is_supported() || sizes[4] % 2) return 1;
    Call c{q, k, v, out, sizes[1], sizes[2], sizes[3], sizes[4],
           strides[0], strides[1], strides[2], strides[3], strides[4], strides[5],
           strides[6], strides[7], strides[8], strides[9], strides[10], strides[11],
           scale * 1.44269504f, (sizes[3] + KEYS - 1) / KEYS, sizes[4] / 2, (sizes[4] + 15) / 16};
    const int64_t all = sizes[0] * sizes[1], together = all < threads ? all : threads;
    const int64_t tiles = (c.queries + ROWS - 1) / ROWS;
    const size_t keys_size = static_cast<size_t>(c.key_blocks * c.pairs * KEYS) * 4;
    const size_t values_size = static_cast<size_t>(c.key_blocks * c.lanes * KEYS * 16) * 2;
    const size_t total_size = static_cast<size_t>(ROWS * 16 * c.lanes) * 4;
    const size_t needed = (keys_size + values_size) * static_cast<size_t>(together) + total_size * static_cast<size_t>(threads);
    char *memory = static_cast<char *>(aligned_alloc(64, (needed + 63) / 64 * 64));
    if (memory == nullptr) return 1;
    auto keys_of = [&](int64_t slot) { return reinterpret_cast<uint32_t *>(memory + slot * (keys_size + values_size)); };
    auto values_of = [&](int64_t slot) {
        return reinterpret_cast<uint16_t *>(memory + slot * (keys_size + values_size) + keys_size);
    };
    float *totals = reinterpret_cast<float *>(memory + (keys_size + values_size) * static_cast<size_t>(together));
#pragma omp parallel num_threads(threads)
    for (int64_t begin = 0; begin < all; begin += together) {
        const int64_t now = all - begin < together ? all - begin : together;
#pragma omp for schedule(static)
        for (int64_t part = 0; part < now * c.key_blocks; part++) {
            const int64_t slot = part / c.key_blocks, which = begin + slot;
            const int64_t batch = which / c.heads, head = which % c.heads;
            pack_keys(c, k + batch * c.k_batch + head * c.k_head, keys_of(slot), part % c.key_blocks);
            pack_values(c, v + batch * c.v_batch + head * c.v_head, values_of(slot), part % c.key_blocks);
        }
#pragma omp for schedule(static)
        for (int64_t part = 0; part < now * tiles; part++) {
            const int64_t slot = part / tiles, which = begin + slot;
            const int64_t batch = which / c.heads, head = which % c.heads;
            float *total = totals + static_cast<int64_t>(total_size / 4) * omp_get_thread_num();
            tile(c, q + batch * c.q_batch + head * c.q_head, keys_of(slot), values_of(slot),
                 out + batch * c.out_batch + head * c.out_head, part % tiles * ROWS, total);
        }
    }
    free(memory);
    return 0;
}

#else

extern "C" int gesso_attention_is_supported() { return 0; }

extern "C" int gesso_attention(const uint16_t *, const uint16_t *, const uint16_t *, uint16_t *, const int64_t *,
                               const int64_t *, float, int) {
    return 1;
}

#endif
