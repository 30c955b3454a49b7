// Matrix products. Right-hand sides lie in panels of WIDE columns, filled up with zeros.
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

template <typename T> struct Lanes {
    typedef T Vector __attribute__((vector_size(BYTES), aligned(sizeof(T)), may_alias));  // anywhere in memory
    typedef T Value __attribute__((vector_size(BYTES)));
    static constexpr int64_t COUNT = BYTES / int64_t(sizeof(T)), WIDE = 2 * COUNT;
    static Value load(const T* from) { return *reinterpret_cast<const Vector*>(from); }
    static void store(T* to, Value value) { *reinterpret_cast<Vector*>(to) = value; }
};
template <typename T> struct Single {
    using Value = T;
    static T load(const T* from) { return *from; }
    static void store(T* to, T value) { *to = value; }
};

// Calls f(first channel, Lanes or Single) for all of `channels`, as many at a time as a vector holds.
template <typename T, typename F> void each_lane(int64_t channels, F f) {
    int64_t c = 0;
    for (; c + Lanes<T>::COUNT <= channels; c += Lanes<T>::COUNT) f(c, Lanes<T>());
    for (; c < channels; ++c) f(c, Single<T>());
}
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

}  // namespace
