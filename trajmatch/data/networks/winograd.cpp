// Winograd's forms of a 3 x 3 convolution, and the tiles that images are cut into for them.
//
// <g, conv(x, w)> is linear in g, x and w. F(S x S, 3 x 3) writes it, for tiles t of S x S outputs, as a sum of products
// over N x N frequencies k, N = S + 2,
//
//     sum_t sum_k M[k,t,o] V[k,t,c] U[k,c,o],   M = A g A',  V = B' x B,  U = G w G',
//
// so that conv, the input's gradient (a conv with w turned round) and the weights' gradient are N^2 matrix products
// each, with N^2 / 9 S^2 of the multiplications: 4/9 for S = 2, 1/4 for S = 4. Tiles go by in blocks that stay in the
// cache.
#include <type_traits>

namespace {

// The forms in one dimension, of numbers or vectors of them: B' x, A' m, A g, G w and G' u.
template <typename T, int S> struct Form;

// Of the points 0, 1, -1 and infinity.
template <typename T> struct Form<T, 2> {
    static constexpr T half = T(0.5);
    template <typename V> static void image(const V* x, V* v) {
        v[0] = x[0] - x[2], v[1] = x[1] + x[2], v[2] = x[2] - x[1], v[3] = x[1] - x[3];
    }
    template <typename V> static void output(const V* m, V* y) {
        y[0] = m[0] + m[1] + m[2], y[1] = m[1] - m[2] - m[3];
    }
    template <typename V> static void gradient(const V* g, V* m) {
        m[0] = g[0], m[1] = g[0] + g[1], m[2] = g[0] - g[1], m[3] = -g[1];
    }
    template <typename V> static void kernel(const V* w, V* u) {
        u[0] = w[0], u[1] = (w[0] + w[1] + w[2]) * half, u[2] = (w[0] - w[1] + w[2]) * half, u[3] = w[2];
    }
    template <typename V> static void kernel_back(const V* u, V* w) {
        w[0] = u[0] + (u[1] + u[2]) * half, w[1] = (u[1] - u[2]) * half, w[2] = (u[1] + u[2]) * half + u[3];
    }
};

// Of the points 0, p, -p, q, -q and infinity: half the error that the usual 1 and 2 have (docs/LOG.md).
template <typename T> struct Form<T, 4> {
    static constexpr T p = T(11. / 16), q = T(3. / 2), pp = p * p, qq = q * q, ppp = pp * p, qqq = qq * q;
    static constexpr T n = 1 / (pp * qq), np = 1 / (2 * pp * (pp - qq)), nq = 1 / (2 * qq * (qq - pp));
    template <typename V> static void image(const V* x, V* v) {
        const V a = x[4] - qq * x[2], b = p * (x[3] - qq * x[1]), c = x[4] - pp * x[2], d = q * (x[3] - pp * x[1]);
        v[0] = pp * qq * x[0] - (pp + qq) * x[2] + x[4];
        v[1] = a + b, v[2] = a - b, v[3] = c + d, v[4] = c - d;
        v[5] = pp * qq * x[1] - (pp + qq) * x[3] + x[5];
    }
    template <typename V> static void output(const V* m, V* y) {
        const V a = m[1] + m[2], b = m[1] - m[2], c = m[3] + m[4], d = m[3] - m[4];
        y[0] = m[0] + a + c, y[1] = p * b + q * d, y[2] = pp * a + qq * c, y[3] = ppp * b + qqq * d + m[5];
    }
    template <typename V> static void gradient(const V* g, V* m) {
        const V a = g[0] + pp * g[2], b = p * (g[1] + pp * g[3]), c = g[0] + qq * g[2], d = q * (g[1] + qq * g[3]);
        m[0] = g[0], m[1] = a + b, m[2] = a - b, m[3] = c + d, m[4] = c - d, m[5] = g[3];
    }
    template <typename V> static void kernel(const V* w, V* u) {
        const V a = w[0] + pp * w[2], b = p * w[1], c = w[0] + qq * w[2], d = q * w[1];
        u[0] = n * w[0], u[1] = np * (a + b), u[2] = np * (a - b), u[3] = nq * (c + d), u[4] = nq * (c - d);
        u[5] = w[2];
    }
    template <typename V> static void kernel_back(const V* u, V* w) {
        const V a = np * (u[1] + u[2]), b = np * (u[1] - u[2]), c = nq * (u[3] + u[4]), d = nq * (u[3] - u[4]);
        w[0] = n * u[0] + a + c, w[1] = p * b + q * d, w[2] = pp * a + qq * c + u[5];
    }
};

template <int S> constexpr int64_t frequencies = (S + 2) * (S + 2);

// Images of h x w positions of channels side by side, seen as tiles of S x S.
template <int S> struct Tiles {
    int64_t n, h, w;
    int64_t down() const { return (h + S - 1) / S; }
    int64_t across() const { return (w + S - 1) / S; }
    int64_t count() const { return n * down() * across(); }
    // Calls f(t - first, image, top row, left column) for tiles first, ..., last - 1.
    template <typename F> void each(int64_t first, int64_t last, F f) const {
        for (int64_t t = first; t < last; ++t)
            f(t - first, t / (down() * across()), t / across() % down() * S, t % across() * S);
    }
    // Where the channels of a position are, or `absent` outside of the image.
    template <typename P> P* at(P* x, int64_t C, int64_t i, int64_t row, int64_t column, P* absent) const {
        return row < 0 || column < 0 || row >= h || column >= w ? absent : x + ((i * h + row) * w + column) * C;
    }
};

// Numbers between frequencies of a block of tiles: not a power of two, at which caches collide.
template <typename T> int64_t apart(int64_t tiles, int64_t channels) { return tiles * channels + 64 / sizeof(T); }

constexpr int64_t CACHED = 1 << 19;  // what a block of tiles may take of a core's own cache
template <typename T, int S> int64_t tiles_at_once(int64_t channels) {
    return std::max<int64_t>(1, CACHED / (frequencies<S> * channels * int64_t(sizeof(T)) * ROWS)) * ROWS;
}

// M X M', M of TO x FROM: X by load(row, column), M by apply(column of X, to), the result by store(row, column, value).
template <typename V, int FROM, int TO, typename Load, typename Apply, typename Store>
inline void on_both_sides(Load load, Apply apply, Store store) {
    V from[FROM], to[TO], m[TO][FROM];
#pragma GCC unroll 6
    for (int b = 0; b < FROM; ++b) {
#pragma GCC unroll 6
        for (int a = 0; a < FROM; ++a) from[a] = load(a, b);
        apply(from, to);
#pragma GCC unroll 6
        for (int a = 0; a < TO; ++a) m[a][b] = to[a];
    }
#pragma GCC unroll 6
    for (int a = 0; a < TO; ++a) {
        apply(m[a], to);
#pragma GCC unroll 6
        for (int b = 0; b < TO; ++b) store(a, b, to[b]);
    }
}

// V[k,t,c] = B' x B for tiles first ... last - 1; absent: a row of zeros.
template <typename T, int S>
void seen(const Tiles<S>& s, int64_t C, const T* x, int64_t first, int64_t last, T* V, int64_t gap, const T* absent) {
    constexpr int N = S + 2;
    s.each(first, last, [&](int64_t t, int64_t i, int64_t top, int64_t left) {
        const T* at[N][N];
        for (int64_t a = 0; a < N; ++a)
            for (int64_t b = 0; b < N; ++b) at[a][b] = s.at(x, C, i, top - 1 + a, left - 1 + b, absent);
        each_lane<T>(C, [&](int64_t c, auto lanes) {
            using L = decltype(lanes);
            using Of = typename L::Value;
            T* out = V + t * C + c;
            on_both_sides<Of, N, N>([&](int a, int b) { return L::load(at[a][b] + c); },
                                    [](const Of* from, Of* to) { Form<T, S>::image(from, to); },
                                    [&](int a, int b, Of v) { L::store(out + (N * a + b) * gap, v); });
        });
    });
}

// y = A' M A for tiles first ... last - 1, the frequencies `gap` and the tiles `ld` apart.
template <typename T, int S>
void outputs(const Tiles<S>& s, int64_t C, const T* M, int64_t ld, int64_t gap, int64_t first, int64_t last, T* y,
             T* spare) {
    constexpr int N = S + 2;
    s.each(first, last, [&](int64_t t, int64_t i, int64_t top, int64_t left) {
        T* at[S][S];
        for (int64_t a = 0; a < S; ++a)
            for (int64_t b = 0; b < S; ++b) at[a][b] = s.at(y, C, i, top + a, left + b, spare);
        each_lane<T>(C, [&](int64_t c, auto lanes) {
            using L = decltype(lanes);
            using Of = typename L::Value;
            const T* in = M + t * ld + c;
            on_both_sides<Of, N, S>([&](int a, int b) { return L::load(in + (N * a + b) * gap); },
                                    [](const Of* from, Of* to) { Form<T, S>::output(from, to); },
                                    [&](int a, int b, Of v) { L::store(at[a][b] + c, v); });
        });
    });
}

// M[k,t,o] = A g A' in panels of `many` rows; absent: a row of zeros.
template <typename T, int S>
void spread(const Tiles<S>& s, int64_t C, const T* g, int64_t first, int64_t last, T* M, int64_t many, int64_t gap,
            const T* absent) {
    constexpr int64_t WIDE = Lanes<T>::WIDE, N = S + 2;
    s.each(first, last, [&](int64_t t, int64_t i, int64_t top, int64_t left) {
        const T* at[S][S];
        for (int64_t a = 0; a < S; ++a)
            for (int64_t b = 0; b < S; ++b) at[a][b] = s.at(g, C, i, top + a, left + b, absent);
        for (int64_t j = 0; j < C; j += WIDE) {
            T* out = M + (j / WIDE * many + t) * WIDE;
            const int64_t width = std::min(WIDE, C - j);
            each_lane<T>(width, [&](int64_t c, auto lanes) {
                using L = decltype(lanes);
                using Of = typename L::Value;
                on_both_sides<Of, S, N>([&](int a, int b) { return L::load(at[a][b] + j + c); },
                                        [](const Of* from, Of* to) { Form<T, S>::gradient(from, to); },
                                        [&](int a, int b, Of v) { L::store(out + (N * a + b) * gap + c, v); });
            });
            for (int64_t k = 0; k < frequencies<S>; ++k) std::fill(out + k * gap + width, out + k * gap + WIDE, T(0));
        }
    });
}

// U[k,c,o] = G w G' in panels from weights w (O, C, 3, 3); turned: for the input's gradient, in and out exchanged.
template <typename T, int S> void weights(int64_t C, int64_t O, const T* w, T* U, bool turned) {
    constexpr int N = S + 2;
    const int64_t in = turned ? O : C, out = turned ? C : O, wide = padded<T>(out);
#pragma omp parallel for schedule(static)
    for (int64_t c = 0; c < in; ++c) {
        Buffer<T> nine(9 * wide);
        T* row = nine;
        for (int64_t o = 0; o < out; ++o) {
            const T* from = turned ? w + (c * C + o) * 9 : w + (o * C + c) * 9;
            for (int64_t k = 0; k < 9; ++k) row[k * wide + o] = from[turned ? 8 - k : k];
        }
        for (int64_t k = 0; k < 9; ++k) std::fill(row + k * wide + out, row + (k + 1) * wide, T(0));
        each_lane<T>(wide, [&](int64_t o, auto lanes) {
            using L = decltype(lanes);
            using Of = typename L::Value;
            T* to = U + in_panel<T>(in, c, o);
            on_both_sides<Of, 3, N>([&](int a, int b) { return L::load(row + (3 * a + b) * wide + o); },
                                    [](const Of* from, Of* into) { Form<T, S>::kernel(from, into); },
                                    [&](int a, int b, Of v) { L::store(to + (N * a + b) * in * wide, v); });
        });
    }
}

// w (O, C, 3, 3) = G' U G from U (N^2, C, padded O).
template <typename T, int S> void weights_back(int64_t C, int64_t O, const T* U, T* w) {
    constexpr int N = S + 2;
    const int64_t wide = padded<T>(O), gap = C * wide;
#pragma omp parallel for schedule(static)
    for (int64_t c = 0; c < C; ++c)
        for (int64_t o = 0; o < O; ++o) {
            const T* u = U + c * wide + o;
            T* out = w + (o * C + c) * 9;
            on_both_sides<T, N, 3>([&](int a, int b) { return u[(N * a + b) * gap]; },
                                   [](const T* from, T* to) { Form<T, S>::kernel_back(from, to); },
                                   [&](int a, int b, T v) { out[3 * a + b] = v; });
        }
}

}  // namespace
