// Matrix products, and the three forms of a 3 x 3 convolution that are made of them.
//
// <g, conv(x, w)> is linear in g, x and w. Winograd's F(2 x 2, 3 x 3) writes it, for tiles t of 2 x 2 outputs, as a sum
// of products over 16 frequencies k,
//
//     sum_t sum_k M[k,t,o] V[k,t,c] U[k,c,o],   M = A g A',  V = B' x B,  U = G w G',
//
// so that conv, the input's gradient (a conv with w turned round) and the weights' gradient are 16 matrix products
// each, with 4/9 of the multiplications. A first layer of few channels is one product over columns of 9 c numbers.
// Right-hand sides lie in panels of WIDE columns, filled up with zeros; tiles go by in blocks that stay in the cache.
#include <algorithm>
#include <cstdlib>
#include <new>

namespace {

#if defined(__AVX512F__)
constexpr int64_t BYTES = 64, ROWS = 12;
#elif defined(__AVX__)
constexpr int64_t BYTES = 32, ROWS = 6;
#else
constexpr int64_t BYTES = 16, ROWS = 6;
#endif
constexpr int64_t CACHED = 1 << 19;  // what a block of tiles may take of a core's own cache

template <typename T> struct Lanes {
    typedef T Vector __attribute__((vector_size(BYTES), aligned(sizeof(T)), may_alias));
    static constexpr int64_t COUNT = BYTES / int64_t(sizeof(T)), WIDE = 2 * COUNT;
};
template <typename T> int64_t padded(int64_t columns) {
    return (columns + Lanes<T>::WIDE - 1) / Lanes<T>::WIDE * Lanes<T>::WIDE;
}

// Memory of its own, not filled in.
template <typename T> class Buffer {
    void* start = nullptr;

  public:
    explicit Buffer(int64_t count = 0) { grow(count); }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    ~Buffer() { std::free(start); }
    int64_t held = 0;
    void grow(int64_t count) {
        if (count <= held) return;
        std::free(start);
        start = nullptr, held = 0;
        if (posix_memalign(&start, 64, size_t(count) * sizeof(T))) throw std::bad_alloc();
        held = count;
    }
    operator T*() { return static_cast<T*>(start); }
};

// R rows of C (+)= A B, for one panel of B: A's rows are `row` apart, what they are made of `step`.
template <typename T, int R>
void rows(int64_t K, const T* A, int64_t row, int64_t step, const T* B, T* C, int64_t ld, bool add) {
    using V = typename Lanes<T>::Vector;
    constexpr int64_t L = Lanes<T>::COUNT;
    V left[R], right[R];
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
        left[r] = add ? *reinterpret_cast<const V*>(C + r * ld) : V{};
        right[r] = add ? *reinterpret_cast<const V*>(C + r * ld + L) : V{};
    }
    for (int64_t k = 0; k < K; ++k, B += 2 * L, A += step) {
        const V b = *reinterpret_cast<const V*>(B), d = *reinterpret_cast<const V*>(B + L);
#pragma GCC unroll 12
        for (int r = 0; r < R; ++r) {
            const T a = A[r * row];
            left[r] += a * b;
            right[r] += a * d;
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < R; ++r) {
        *reinterpret_cast<V*>(C + r * ld) = left[r];
        *reinterpret_cast<V*>(C + r * ld + L) = right[r];
    }
}

template <typename T, int R>
void last_rows(int64_t M, int64_t K, const T* A, int64_t row, int64_t step, const T* B, T* C, int64_t ld, bool add) {
    if (M == R) rows<T, R>(K, A, row, step, B, C, ld, add);
    else if constexpr (R > 1) last_rows<T, R - 1>(M, K, A, row, step, B, C, ld, add);
}

// C (M, N) (+)= A (M, K) B (K, N), with N a multiple of WIDE and B in panels (N / WIDE, K, WIDE).
template <typename T>
void product(int64_t M, int64_t N, int64_t K, const T* A, int64_t row, int64_t step, const T* B, T* C, int64_t ld,
             bool add) {
    for (int64_t j = 0; j < N; j += Lanes<T>::WIDE, B += K * Lanes<T>::WIDE) {
        int64_t i = 0;
        for (; i + ROWS <= M; i += ROWS) rows<T, ROWS>(K, A + i * row, row, step, B, C + i * ld + j, ld, add);
        if (i < M) last_rows<T, ROWS - 1>(M - i, K, A + i * row, row, step, B, C + i * ld + j, ld, add);
    }
}

// Where column j of row k lies in panels of K rows.
template <typename T> int64_t in_panel(int64_t K, int64_t k, int64_t j) {
    return (j / Lanes<T>::WIDE * K + k) * Lanes<T>::WIDE + j % Lanes<T>::WIDE;
}

// Images of h x w positions of channels side by side, seen as tiles of 2 x 2.
struct Tiles {
    int64_t n, h, w;
    int64_t down() const { return (h + 1) / 2; }
    int64_t across() const { return (w + 1) / 2; }
    int64_t count() const { return n * down() * across(); }
    // Calls f(t - first, image, top row, left column) for tiles first, ..., last - 1.
    template <typename F> void each(int64_t first, int64_t last, F f) const {
        for (int64_t t = first; t < last; ++t)
            f(t - first, t / (down() * across()), t / across() % down() * 2, t % across() * 2);
    }
};

// Numbers between frequencies of a block of tiles: not a power of two, at which caches collide.
template <typename T> int64_t apart(int64_t tiles, int64_t channels) { return tiles * channels + 64 / sizeof(T); }

template <typename T> int64_t tiles_at_once(int64_t channels) {
    return std::max<int64_t>(1, CACHED / (16 * channels * int64_t(sizeof(T)) * ROWS)) * ROWS;
}

// V[k,t,c] = B' x B for tiles first ... last - 1; absent: a row of zeros.
template <typename T>
void seen(const Tiles& s, int64_t C, const T* x, int64_t first, int64_t last, T* V, int64_t gap, const T* absent) {
    s.each(first, last, [&](int64_t t, int64_t i, int64_t top, int64_t left) {
        const T* at[4][4];
        for (int64_t a = 0; a < 4; ++a)
            for (int64_t b = 0; b < 4; ++b) {
                const int64_t y = top - 1 + a, z = left - 1 + b;
                at[a][b] = y < 0 || z < 0 || y >= s.h || z >= s.w ? absent : x + ((i * s.h + y) * s.w + z) * C;
            }
        T* out = V + t * C;
#pragma omp simd
        for (int64_t c = 0; c < C; ++c) {
            T m[4][4];
#pragma GCC unroll 4
            for (int b = 0; b < 4; ++b) {
                m[0][b] = at[0][b][c] - at[2][b][c];
                m[1][b] = at[1][b][c] + at[2][b][c];
                m[2][b] = at[2][b][c] - at[1][b][c];
                m[3][b] = at[1][b][c] - at[3][b][c];
            }
#pragma GCC unroll 4
            for (int a = 0; a < 4; ++a) {
                out[(4 * a + 0) * gap + c] = m[a][0] - m[a][2];
                out[(4 * a + 1) * gap + c] = m[a][1] + m[a][2];
                out[(4 * a + 2) * gap + c] = m[a][2] - m[a][1];
                out[(4 * a + 3) * gap + c] = m[a][1] - m[a][3];
            }
        }
    });
}

// y = A' M A for tiles first ... last - 1, the frequencies `gap` and the tiles `ld` apart.
template <typename T>
void outputs(const Tiles& s, int64_t C, const T* M, int64_t ld, int64_t gap, int64_t first, int64_t last, T* y,
             T* spare) {
    s.each(first, last, [&](int64_t t, int64_t i, int64_t top, int64_t left) {
        T* at[2][2];
        for (int64_t a = 0; a < 2; ++a)
            for (int64_t b = 0; b < 2; ++b)
                at[a][b] = top + a < s.h && left + b < s.w ? y + ((i * s.h + top + a) * s.w + left + b) * C : spare;
        const T* in = M + t * ld;
        T *p = at[0][0], *q = at[0][1], *r = at[1][0], *v = at[1][1];
#pragma omp simd
        for (int64_t c = 0; c < C; ++c) {
            T m[2][4];
#pragma GCC unroll 4
            for (int b = 0; b < 4; ++b) {
                const T one = in[(4 + b) * gap + c], two = in[(8 + b) * gap + c];
                m[0][b] = in[b * gap + c] + one + two;
                m[1][b] = one - two - in[(12 + b) * gap + c];
            }
            p[c] = m[0][0] + m[0][1] + m[0][2];
            q[c] = m[0][1] - m[0][2] - m[0][3];
            r[c] = m[1][0] + m[1][1] + m[1][2];
            v[c] = m[1][1] - m[1][2] - m[1][3];
        }
    });
}

// M[k,t,o] = A g A' in panels of `many` rows; absent: a row of zeros.
template <typename T>
void spread(const Tiles& s, int64_t C, const T* g, int64_t first, int64_t last, T* M, int64_t many, int64_t gap,
            const T* absent) {
    constexpr int64_t WIDE = Lanes<T>::WIDE;
    s.each(first, last, [&](int64_t t, int64_t i, int64_t top, int64_t left) {
        const T* at[2][2];
        for (int64_t a = 0; a < 2; ++a)
            for (int64_t b = 0; b < 2; ++b)
                at[a][b] = top + a < s.h && left + b < s.w ? g + ((i * s.h + top + a) * s.w + left + b) * C : absent;
        for (int64_t j = 0; j < C; j += WIDE) {
            const T *p = at[0][0] + j, *q = at[0][1] + j, *r = at[1][0] + j, *v = at[1][1] + j;
            T* out = M + (j / WIDE * many + t) * WIDE;
            const int64_t width = std::min(WIDE, C - j);
#pragma omp simd
            for (int64_t c = 0; c < width; ++c) {
                const T m[4][2] = {
                    {p[c], q[c]}, {p[c] + r[c], q[c] + v[c]}, {p[c] - r[c], q[c] - v[c]}, {-r[c], -v[c]}};
#pragma GCC unroll 4
                for (int a = 0; a < 4; ++a) {
                    out[(4 * a + 0) * gap + c] = m[a][0];
                    out[(4 * a + 1) * gap + c] = m[a][0] + m[a][1];
                    out[(4 * a + 2) * gap + c] = m[a][0] - m[a][1];
                    out[(4 * a + 3) * gap + c] = -m[a][1];
                }
            }
            for (int64_t k = 0; k < 16; ++k)
                for (int64_t c = width; c < WIDE; ++c) out[k * gap + c] = 0;
        }
    });
}

// U[k,c,o] = G w G' in panels from weights w (O, C, 3, 3); turned: for the input's gradient, in and out exchanged.
template <typename T> void weights(int64_t C, int64_t O, const T* w, T* U, bool turned) {
    const int64_t in = turned ? O : C, out = turned ? C : O, wide = padded<T>(out);
#pragma omp parallel for schedule(static)
    for (int64_t c = 0; c < in; ++c) {
        Buffer<T> nine(9 * wide);
        T* row = nine;
        for (int64_t o = 0; o < out; ++o) {
            const T* from = turned ? w + (c * C + o) * 9 : w + (o * C + c) * 9;
            for (int64_t k = 0; k < 9; ++k) row[k * wide + o] = from[turned ? 8 - k : k];
        }
        for (int64_t k = 0; k < 9; ++k)
            for (int64_t o = out; o < wide; ++o) row[k * wide + o] = 0;
        for (int64_t j = 0; j < wide; j += Lanes<T>::WIDE) {
            T* to = U + in_panel<T>(in, c, j);
            const T* from = row + j;
#pragma omp simd
            for (int64_t o = 0; o < Lanes<T>::WIDE; ++o) {
                T m[4][3];
#pragma GCC unroll 3
                for (int b = 0; b < 3; ++b) {
                    const T p = from[b * wide + o], q = from[(3 + b) * wide + o], r = from[(6 + b) * wide + o];
                    m[0][b] = p, m[1][b] = (p + q + r) / 2, m[2][b] = (p - q + r) / 2, m[3][b] = r;
                }
#pragma GCC unroll 4
                for (int a = 0; a < 4; ++a) {
                    T* here = to + 4 * a * in * wide + o;
                    here[0] = m[a][0];
                    here[in * wide] = (m[a][0] + m[a][1] + m[a][2]) / 2;
                    here[2 * in * wide] = (m[a][0] - m[a][1] + m[a][2]) / 2;
                    here[3 * in * wide] = m[a][2];
                }
            }
        }
    }
}

// w (O, C, 3, 3) = G' U G from U (16, C, padded O).
template <typename T> void weights_back(int64_t C, int64_t O, const T* U, T* w) {
    const int64_t wide = padded<T>(O), gap = C * wide;
#pragma omp parallel for schedule(static)
    for (int64_t c = 0; c < C; ++c)
        for (int64_t o = 0; o < O; ++o) {
            const T* u = U + c * wide + o;
            T m[3][4], *out = w + (o * C + c) * 9;
            for (int b = 0; b < 4; ++b) {
                const T one = u[(4 + b) * gap], two = u[(8 + b) * gap];
                m[0][b] = u[b * gap] + (one + two) / 2, m[1][b] = (one - two) / 2;
                m[2][b] = (one + two) / 2 + u[(12 + b) * gap];
            }
            for (int a = 0; a < 3; ++a) {
                out[3 * a] = m[a][0] + (m[a][1] + m[a][2]) / 2;
                out[3 * a + 1] = (m[a][1] - m[a][2]) / 2;
                out[3 * a + 2] = (m[a][1] + m[a][2]) / 2 + m[a][3];
            }
        }
}

}  // namespace
