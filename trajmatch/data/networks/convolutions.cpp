// A 3 x 3 convolution's value and gradients, each as a sum of several of them: winograd.cpp says how.
#include <utility>

namespace {

// The terms of a sum: images and weights, or images and gradients.
template <typename T> using Terms = std::initializer_list<std::pair<const T*, const T*>>;

// y (n, h, w, O) = sum of conv(x, w) over terms (x, U), padded by one.
template <typename T, int S> void convolve(const Tiles<S>& s, int64_t C, int64_t O, Terms<T> terms, T* y) {
    constexpr int64_t K = frequencies<S>;
    const int64_t wide = padded<T>(O), block = tiles_at_once<T, S>(C + wide), blocks = (s.count() + block - 1) / block;
    const int64_t gap = apart<T>(block, C), gap_out = apart<T>(block, wide);
#pragma omp parallel
    {
        Buffer<T> V(K * gap), M(K * gap_out), none(C), spare(O);
        std::fill_n(static_cast<T*>(none), C, T(0));
#pragma omp for schedule(static)
        for (int64_t b = 0; b < blocks; ++b) {
            const int64_t first = b * block, last = std::min(first + block, s.count());
            bool add = false;
            for (const auto& [x, U] : terms) {
                seen<T, S>(s, C, x, first, last, V, gap, none);
                for (int64_t k = 0; k < K; ++k)
                    product<T>(last - first, wide, C, V + k * gap, C, 1, U + k * C * wide, M + k * gap_out, wide, add);
                add = true;
            }
            outputs<T, S>(s, O, M, wide, gap_out, first, last, y, spare);
        }
    }
}

// U (N^2, C, padded O) += sum of the weights' gradients, in frequencies, over terms (x, g).
template <typename T, int S> void weigh(const Tiles<S>& s, int64_t C, int64_t O, Terms<T> terms, T* U) {
    constexpr int64_t K = frequencies<S>;
    const int64_t wide = padded<T>(O), part = tiles_at_once<T, S>(C + wide), block = 4 * part;
    const int64_t gap = apart<T>(block, C), gap_g = apart<T>(block, wide);
    Buffer<T> all_V(K * gap), all_M(K * gap_g), zeros(std::max(C, wide));
    T *V = all_V, *M = all_M, *none = zeros;
    std::fill_n(none, zeros.held, T(0));
#pragma omp parallel
    for (const auto& [x, g] : terms)
        for (int64_t first = 0; first < s.count(); first += block) {
            const int64_t last = std::min(first + block, s.count()), many = last - first;
#pragma omp for schedule(static)
            for (int64_t at = first; at < last; at += part) {
                const int64_t end = std::min(at + part, last);
                seen<T, S>(s, C, x, at, end, V + (at - first) * C, gap, none);
                spread<T, S>(s, O, g, at, end, M + (at - first) * Lanes<T>::WIDE, many, gap_g, none);
            }
#pragma omp for schedule(static)
            for (int64_t k = 0; k < K; ++k)
                product<T>(C, wide, many, V + k * gap, 1, C, M + k * gap_g, U + k * C * wide, wide, true);
        }
}

// A first layer: images (n, h, w, C) of few channels, padded by `pad`; outputs H x W; columns of 9 C numbers.
struct Frame {
    int64_t n, h, w, C, pad;
    int64_t H() const { return h + 2 * pad - 2; }
    int64_t W() const { return w + 2 * pad - 2; }
    int64_t count() const { return n * H() * W(); }
    // Calls f(number in the column, pixel) for what is in the image of the column of an output.
    template <typename F> void each(int64_t output, F f) const {
        const int64_t i = output / (H() * W()), y = output / W() % H() - pad, x = output % W() - pad;
        for (int64_t k = 0; k < 9; ++k) {
            const int64_t row = y + k / 3, column = x + k % 3;
            if (row >= 0 && column >= 0 && row < h && column < w) f(k * C, ((i * h + row) * w + column) * C);
        }
    }
};
constexpr int64_t OUTPUTS = 8 * ROWS;  // at a time

// The columns (outputs, 9 C) of all outputs, which every form of the layer reads.
template <typename T> void columns(const Frame& s, const T* x, T* out) {
    const int64_t K = 9 * s.C;
#pragma omp parallel for schedule(static)
    for (int64_t t = 0; t < s.count(); ++t) {
        T* to = out + t * K;
        const int64_t i = t / (s.H() * s.W()), row = t / s.W() % s.H() - s.pad, column = t % s.W() - s.pad;
        const T* from = x + ((i * s.h + row) * s.w + column) * s.C;
        if (row >= 0 && column >= 0 && row + 3 <= s.h && column + 3 <= s.w) {
            if (s.C == 3) {  // colour: lengths that the compiler knows
                for (int64_t k = 0; k < 3; ++k) std::memcpy(to + 9 * k, from + k * s.w * 3, 9 * sizeof(T));
            } else {
                for (int64_t k = 0; k < 3; ++k) std::copy_n(from + k * s.w * s.C, 3 * s.C, to + 3 * k * s.C);
            }
            continue;
        }
        std::fill_n(to, K, T(0));
        s.each(t, [&](int64_t number, int64_t pixel) { std::copy_n(x + pixel, s.C, to + number); });
    }
}

// Rows of `width` numbers out of rows of `wide`.
template <typename T> void rows_out(int64_t many, int64_t width, const T* from, int64_t wide, T* to) {
    for (int64_t t = 0; t < many; ++t) std::copy_n(from + t * wide, width, to + t * width);
}

// y (n, H, W, O) = conv of the images whose columns are A, w in panels (9 C, O).
template <typename T> void convolve_first(const Frame& s, int64_t O, const T* A, const T* w, T* y) {
    const int64_t wide = padded<T>(O), K = 9 * s.C, blocks = (s.count() + OUTPUTS - 1) / OUTPUTS;
#pragma omp parallel
    {
        Buffer<T> C(OUTPUTS * wide);
#pragma omp for schedule(static)
        for (int64_t b = 0; b < blocks; ++b) {
            const int64_t first = b * OUTPUTS, last = std::min(first + OUTPUTS, s.count());
            T* to = wide == O ? y + first * O : static_cast<T*>(C);
            product<T>(last - first, wide, K, A + first * K, K, 1, w, to, wide, false);
            if (wide != O) rows_out<T>(last - first, O, to, wide, y + first * O);
        }
    }
}

// dx (n, h, w, C) = sum of the input's gradients over terms (g, w), w in panels (O, 9 C).
template <typename T> void back_first(const Frame& s, int64_t O, Terms<T> terms, T* dx) {
    const int64_t wide = padded<T>(9 * s.C), each = s.H() * s.W();
    std::fill_n(dx, s.n * s.h * s.w * s.C, T(0));
#pragma omp parallel
    {
        Buffer<T> C(OUTPUTS * wide);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < s.n; ++i)
            for (int64_t first = i * each; first < (i + 1) * each; first += OUTPUTS) {
                const int64_t last = std::min(first + OUTPUTS, (i + 1) * each);
                bool add = false;
                for (const auto& [g, w] : terms) {
                    product<T>(last - first, wide, O, g + first * O, O, 1, w, C, wide, add);
                    add = true;
                }
                for (int64_t t = first; t < last; ++t)
                    s.each(t, [&](int64_t number, int64_t pixel) {
                        const T* from = C + (t - first) * wide + number;
                        for (int64_t c = 0; c < s.C; ++c) dx[pixel + c] += from[c];
                    });
            }
    }
}

// dw (9 C, padded O) += the weights' gradient for images whose columns are A.
template <typename T> void weigh_first(const Frame& s, int64_t O, const T* A, const T* g, T* dw) {
    constexpr int64_t WIDE = Lanes<T>::WIDE;
    const int64_t wide = padded<T>(O), K = 9 * s.C;
#pragma omp parallel
    {
        Buffer<T> B(OUTPUTS * WIDE);
#pragma omp for schedule(static)
        for (int64_t j = 0; j < wide; j += WIDE)
            for (int64_t first = 0; first < s.count(); first += OUTPUTS) {
                const int64_t many = std::min(OUTPUTS, s.count() - first), width = std::min(WIDE, O - j);
                T* to = B;
                for (int64_t t = 0; t < many; ++t, to += WIDE) {
                    std::copy_n(g + (first + t) * O + j, width, to);
                    std::fill(to + width, to + WIDE, T(0));
                }
                product<T>(K, WIDE, many, A + first * K, 1, K, B, dw + j, wide, true);
            }
    }
}

// Weights (O, C, 3, 3) of a first layer in panels (9 C, O), and in panels (O, 9 C) for the input's gradient.
template <typename T> void weights_first(int64_t C, int64_t O, const T* w, T* straight, T* turned) {
    std::fill_n(straight, 9 * C * padded<T>(O), T(0));
    std::fill_n(turned, O * padded<T>(9 * C), T(0));
    for (int64_t o = 0; o < O; ++o)
        for (int64_t c = 0; c < C; ++c)
            for (int64_t k = 0; k < 9; ++k) {
                const T value = w[(o * C + c) * 9 + k];
                straight[in_panel<T>(9 * C, k * C + c, o)] = value;
                turned[in_panel<T>(O, o, k * C + c)] = value;
            }
}

template <typename T> void weights_first_back(int64_t C, int64_t O, const T* dw, T* w) {
    for (int64_t o = 0; o < O; ++o)
        for (int64_t c = 0; c < C; ++c)
            for (int64_t k = 0; k < 9; ++k) w[(o * C + c) * 9 + k] = dw[(k * C + c) * padded<T>(O) + o];
}

}  // namespace
