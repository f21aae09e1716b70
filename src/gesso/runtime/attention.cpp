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

constexpr int QUERIES = 32;  // of a tile: two vectors, a query in each place
constexpr int KEYS = 96;     // of a block: its scores stay in the first cache
constexpr int SIDE = 12;     // keys whose scores are computed together: with two vectors each they fill the registers
constexpr int GROUP = 10;    // numbers of a head that are summed together, likewise: 40, 80 and 160 divide into them
constexpr float NEVER = -1e30f;

struct Call {
    const uint16_t *q, *k, *v;
    uint16_t *out;
    int64_t heads, queries, keys, dim;      // dim: of a head, even
    int64_t q_batch, q_head, q_row;         // strides in numbers; those of one head's numbers are 1
    int64_t k_batch, k_head, k_row, v_batch, v_head, v_row, out_batch, out_head, out_row;
    float scale;                            // times log2(e)
    int64_t key_blocks, pairs;              // pairs of a head's numbers
};

// The numbers of a head that are summed together, from `at` on: groups of 10, then of 4 and 2.
INLINE int64_t group_at(int64_t at, int64_t dim) { return dim - at >= GROUP ? GROUP : dim - at >= 4 ? 4 : 2; }

// [rows, pairs] -> [pair][row], for up to 16 rows, of which `there` exist; the others become zeros. width: of a result's
// row, of which as many places are written as it has, and 16 at most.
FAST void turn(const uint16_t *from, int64_t stride, int64_t there, int64_t pairs, uint32_t *to, int64_t width) {
    const __mmask16 places = static_cast<__mmask16>(width < 16 ? (1u << width) - 1 : 0xffff);
    for (int64_t pair = 0; pair < pairs; pair += 16) {
        const __mmask16 mask = static_cast<__mmask16>(pairs - pair < 16 ? (1u << (pairs - pair)) - 1 : 0xffff);
        __m512i a[16], b[16];
        for (int64_t row = 0; row < 16; row++)
            a[row] = row < there ? _mm512_maskz_loadu_epi32(mask, from + row * stride + 2 * pair) : _mm512_setzero_si512();
        for (int i = 0; i < 16; i += 2) {
            b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
            b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
        }
        for (int i = 0; i < 16; i += 4)
            for (int j = 0; j < 2; j++) {
                a[i + 2 * j] = _mm512_unpacklo_epi64(b[i + j], b[i + 2 + j]);
                a[i + 2 * j + 1] = _mm512_unpackhi_epi64(b[i + j], b[i + 2 + j]);
            }
        for (int j = 0; j < 4; j++)
            for (int i = 0; i < 16; i += 8) {
                b[i + j] = _mm512_shuffle_i32x4(a[i + j], a[i + 4 + j], 0x88);
                b[i + 4 + j] = _mm512_shuffle_i32x4(a[i + j], a[i + 4 + j], 0xdd);
            }
        for (int j = 0; j < 8; j++) {
            a[j] = _mm512_shuffle_i32x4(b[j], b[8 + j], 0x88);
            a[8 + j] = _mm512_shuffle_i32x4(b[j], b[8 + j], 0xdd);
        }
        for (int64_t row = 0; row < 16 && pair + row < pairs; row++)
            _mm512_mask_storeu_epi32(to + (pair + row) * width, places, a[row]);
    }
}

// [keys, dim] -> [block][12 keys][pair][key][2]: a pair of each key's numbers side by side, zeros behind the last key.
FAST void pack_keys(const Call &c, const uint16_t *k, uint32_t *packed, int64_t block) {
    for (int64_t key = block * KEYS; key < (block + 1) * KEYS; key += SIDE) {
        const int64_t there = c.keys - key < SIDE ? c.keys - key : SIDE;
        turn(k + key * c.k_row, c.k_row, there, c.pairs, packed + key * c.pairs, SIDE);
    }
}

// [keys, dim] -> [block][group of numbers][pair of keys][number][2], zeros behind the last key.
FAST void pack_values(const Call &c, const uint16_t *v, uint32_t *packed, int64_t block) {
    uint32_t *to = packed + block * c.dim * (KEYS / 2);
    for (int pair = 0; pair < KEYS / 2; pair++) {
        const int64_t row = block * KEYS + 2 * pair;
        const uint16_t *from = v + row * c.v_row;
        for (int64_t at = 0; at < c.dim;) {
            const int64_t count = group_at(at, c.dim);
            uint32_t *group = to + at * (KEYS / 2) + pair * count;
            const __mmask16 mask = static_cast<__mmask16>((1u << count) - 1), none = 0;
            const __m256i even = _mm256_maskz_loadu_epi16(row < c.keys ? mask : none, from + at);
            const __m256i odd = _mm256_maskz_loadu_epi16(row + 1 < c.keys ? mask : none, from + c.v_row + at);
            const __m512i low = _mm512_cvtepu16_epi32(even), high = _mm512_cvtepu16_epi32(odd);
            _mm512_mask_storeu_epi32(group, mask, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
            at += count;
        }
    }
}

INLINE __m512bh as_bf16(__m512i x) { return reinterpret_cast<__m512bh>(x); }

INLINE __m512bh twice(const uint32_t *pair) { return as_bf16(_mm512_set1_epi32(static_cast<int>(*pair))); }

// Scores of 12 keys and 32 queries.  q [pair][query][2]
INLINE void scores(const uint32_t *q, const uint32_t *keys, int64_t pairs, float *out) {
    __m512 sum[SIDE][2];
    for (auto &row : sum) row[0] = row[1] = _mm512_setzero_ps();
    for (int64_t pair = 0; pair < pairs; pair++) {
        const __m512bh q0 = as_bf16(_mm512_load_si512(q + pair * QUERIES));
        const __m512bh q1 = as_bf16(_mm512_load_si512(q + pair * QUERIES + 16));
#pragma GCC unroll 12
        for (int key = 0; key < SIDE; key++) {
            const __m512bh k = twice(keys + pair * SIDE + key);
            sum[key][0] = _mm512_dpbf16_ps(sum[key][0], q0, k);
            sum[key][1] = _mm512_dpbf16_ps(sum[key][1], q1, k);
        }
    }
    for (int key = 0; key < SIDE; key++)
        for (int half = 0; half < 2; half++) _mm512_store_ps(out + key * QUERIES + 16 * half, sum[key][half]);
}

// Adds so many pairs of keys' weights times values to COUNT numbers of `total`.  weights [pair][query][2]
template <int COUNT>
INLINE void mix(const uint32_t *weights, const uint32_t *values, float *total, int64_t pairs) {
    __m512 sum[COUNT][2];
    for (int number = 0; number < COUNT; number++)
        for (int half = 0; half < 2; half++) sum[number][half] = _mm512_load_ps(total + number * QUERIES + 16 * half);
    for (int64_t pair = 0; pair < pairs; pair++) {
        const __m512bh w0 = as_bf16(_mm512_load_si512(weights + pair * QUERIES));
        const __m512bh w1 = as_bf16(_mm512_load_si512(weights + pair * QUERIES + 16));
#pragma GCC unroll 10
        for (int number = 0; number < COUNT; number++) {
            const __m512bh v = twice(values + pair * COUNT + number);
            sum[number][0] = _mm512_dpbf16_ps(sum[number][0], w0, v);
            sum[number][1] = _mm512_dpbf16_ps(sum[number][1], w1, v);
        }
    }
    for (int number = 0; number < COUNT; number++)
        for (int half = 0; half < 2; half++) _mm512_store_ps(total + number * QUERIES + 16 * half, sum[number][half]);
}

FAST void mix_all(const uint32_t *weights, const uint32_t *values, float *total, int64_t dim, int64_t pairs) {
    for (int64_t at = 0; at < dim;) {
        const int64_t count = group_at(at, dim);
        const uint32_t *v = values + at * (KEYS / 2);
        float *to = total + at * QUERIES;
        if (count == GROUP) mix<GROUP>(weights, v, to, pairs);
        else if (count == 4) mix<4>(weights, v, to, pairs);
        else mix<2>(weights, v, to, pairs);
        at += count;
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

// 2^x for x <= 0, error 2e-7 relative; 1 for 0.
INLINE __m512 exactly(__m512 x) {
    const __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m512 part = _mm512_mul_ps(_mm512_sub_ps(x, whole), _mm512_set1_ps(0.69314718f));
    const float series[] = {1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f};
    __m512 y = _mm512_set1_ps(1.0f / 720);
    for (const float each : series) y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(each));
    return _mm512_scalef_ps(y, whole);
}

// Scores of 16 queries and so many pairs of keys -> weights, as pairs of bfloat16.
// highest: of each query, so far; where scores lie more than 8 above it, it rises, and sums of before count by as much
// less. Below 8 it does no harm: weights are 2^8 at most.
INLINE void weigh(const float *score, uint32_t *weights, int64_t pairs, __m512 scale, float *highest, float *sum,
                  float *total, int64_t dim) {
    const __m512i side_by_side = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8,
                                                  23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    __m512 top = _mm512_load_ps(score), other = _mm512_load_ps(score + QUERIES);
    for (int64_t pair = 1; pair < pairs; pair++) {
        top = _mm512_max_ps(top, _mm512_load_ps(score + 2 * pair * QUERIES));
        other = _mm512_max_ps(other, _mm512_load_ps(score + (2 * pair + 1) * QUERIES));
    }
    const __m512 most = _mm512_mul_ps(_mm512_max_ps(top, other), scale);
    __m512 high = _mm512_load_ps(highest), added = _mm512_load_ps(sum);
    const __mmask16 above = _mm512_cmp_ps_mask(most, _mm512_add_ps(high, _mm512_set1_ps(8)), _CMP_GT_OQ);
    if (above) {
        const __m512 factor = exactly(_mm512_maskz_sub_ps(above, high, most));
        high = _mm512_mask_mov_ps(high, above, most);
        added = _mm512_mul_ps(added, factor);
        for (int64_t number = 0; number < dim; number++) {
            float *at = total + number * QUERIES;
            _mm512_store_ps(at, _mm512_mul_ps(_mm512_load_ps(at), factor));
        }
        _mm512_store_ps(highest, high);
    }
#pragma GCC unroll 4
    for (int64_t pair = 0; pair < pairs; pair++) {
        const float *at = score + 2 * pair * QUERIES;
        const __m512 a = power_of_two(_mm512_fmsub_ps(_mm512_load_ps(at), scale, high));
        const __m512 b = power_of_two(_mm512_fmsub_ps(_mm512_load_ps(at + QUERIES), scale, high));
        added = _mm512_add_ps(added, _mm512_add_ps(a, b));
        const __m512i both = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(b, a));
        _mm512_store_si512(weights + pair * QUERIES, _mm512_permutexvar_epi16(side_by_side, both));
    }
    _mm512_store_ps(sum, added);
}

// One tile of up to 32 queries against all keys. Everything lies with a query in each place of a vector, so that
// nothing is added up across one.  q: memory for the tile's queries; total: for its sums, [dim][query]
FAST void tile(const Call &c, const uint16_t *queries, const uint32_t *keys, const uint32_t *values, uint16_t *out,
               int64_t first, uint32_t *q, float *total) {
    alignas(64) float score[KEYS * QUERIES];
    alignas(64) uint32_t weights[KEYS / 2 * QUERIES];
    alignas(64) float highest[QUERIES], sum[QUERIES];
    const int64_t left = c.queries - first < QUERIES ? c.queries - first : QUERIES;
    for (int half = 0; half < QUERIES; half += 16)
        turn(queries + (first + half) * c.q_row, c.q_row, left - half, c.pairs, q + half, QUERIES);
    for (int row = 0; row < QUERIES; row++) {
        highest[row] = NEVER;
        sum[row] = 0;
    }
    memset(total, 0, sizeof(float) * static_cast<size_t>(QUERIES * c.dim));
    const __m512 scale = _mm512_set1_ps(c.scale);
    for (int64_t block = 0; block < c.key_blocks; block++) {
        const uint32_t *k = keys + block * c.pairs * KEYS;
        const int64_t here = c.keys - block * KEYS < KEYS ? c.keys - block * KEYS : KEYS, pairs = (here + 1) / 2;
        for (int64_t key = 0; key < here; key += SIDE) scores(q, k + key * c.pairs, c.pairs, score + key * QUERIES);
        if (here % 2)
            for (int row = 0; row < QUERIES; row++) score[here * QUERIES + row] = NEVER;
        for (int half = 0; half < QUERIES; half += 16)
            weigh(score + half, weights + half, pairs, scale, highest + half, sum + half, total + half, c.dim);
        mix_all(weights, values + block * c.dim * (KEYS / 2), total, c.dim, pairs);
    }
    const __m512i places = _mm512_mullo_epi32(_mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
                                              _mm512_set1_epi32(QUERIES));
    for (int64_t row = 0; row < left; row++) {
        const __m512 by = _mm512_set1_ps(1.0f / sum[row]);
        uint16_t *to = out + (first + row) * c.out_row;
        for (int64_t at = 0; at < c.dim; at += 16) {
            const __mmask16 mask = static_cast<__mmask16>(c.dim - at < 16 ? (1u << (c.dim - at)) - 1 : 0xffff);
            const float *from = total + at * QUERIES + row;
            const __m512 y = _mm512_mask_i32gather_ps(_mm512_setzero_ps(), mask, places, from, 4);
            _mm256_mask_storeu_epi16(to + at, mask, reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(_mm512_mul_ps(y, by))));
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
           scale * 1.44269504f, (sizes[3] + KEYS - 1) / KEYS, sizes[4] / 2};
    const int64_t all = sizes[0] * sizes[1], together = all < threads ? all : threads;
    const int64_t tiles = (c.queries + QUERIES - 1) / QUERIES;
    const int64_t keys_size = c.key_blocks * c.pairs * KEYS, values_size = c.key_blocks * c.dim * (KEYS / 2);
    const int64_t q_size = c.pairs * QUERIES, total_size = c.dim * QUERIES;  // all in numbers of 32 bits
    const int64_t needed = (keys_size + values_size) * together + (q_size + total_size) * threads;
    uint32_t *memory = static_cast<uint32_t *>(aligned_alloc(64, static_cast<size_t>((4 * needed + 63) / 64 * 64)));
    if (memory == nullptr) return 1;
    uint32_t *own = memory, *packed = memory + (q_size + total_size) * threads;
    auto keys_of = [&](int64_t slot) { return packed + slot * (keys_size + values_size); };
    auto values_of = [&](int64_t slot) { return keys_of(slot) + keys_size; };
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
            uint32_t *q_tile = own + (q_size + total_size) * omp_get_thread_num();
            tile(c, q + batch * c.q_batch + head * c.q_head, keys_of(slot), values_of(slot),
                 out + batch * c.out_batch + head * c.out_head, part % tiles * QUERIES, q_tile,
                 reinterpret_cast<float *>(q_tile + q_size));
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
