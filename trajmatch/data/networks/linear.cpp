// The linear layer, and the order of channels: m images of `features` numbers, weights W (classes, features).

namespace {

struct Linear {
    int64_t classes, features;

    // The weights (classes, channels, positions), channels last; back: the other way round.
    template <typename T> void turn(int64_t channels, const T* from, T* to, bool back) const {
        const int64_t k = features / channels;
        for (int64_t i = 0; i < classes; ++i)
            for (int64_t o = 0; o < channels; ++o)
                for (int64_t j = 0; j < k; ++j) {
                    const int64_t outside = i * features + o * k + j, inside = i * features + j * channels + o;
                    if (back) to[outside] = from[inside];
                    else to[inside] = from[outside];
                }
    }

    // to (m, classes) += from W'.
    template <typename T> void times(int64_t m, const T* from, const T* W, T* to) const {
#pragma omp parallel for schedule(static)
        for (int64_t i = 0; i < m; ++i)
            for (int64_t k = 0; k < classes; ++k) {
                T sum = 0;
#pragma omp simd reduction(+ : sum)
                for (int64_t f = 0; f < features; ++f) sum += from[i * features + f] * W[k * features + f];
                to[i * classes + k] += sum;
            }
    }

    // to (m, features) += from W.
    template <typename T> void times_turned(int64_t m, const T* from, const T* W, T* to) const {
#pragma omp parallel for schedule(static)
        for (int64_t i = 0; i < m; ++i)
            for (int64_t k = 0; k < classes; ++k)
#pragma omp simd
                for (int64_t f = 0; f < features; ++f)
                    to[i * features + f] += from[i * classes + k] * W[k * features + f];
    }

    // W += rows' from, of rows (m, classes) and from (m, features).
    template <typename T> void outer(int64_t m, const T* rows, const T* from, T* W) const {
#pragma omp parallel for schedule(static)
        for (int64_t k = 0; k < classes; ++k)
            for (int64_t i = 0; i < m; ++i)
#pragma omp simd
                for (int64_t f = 0; f < features; ++f)
                    W[k * features + f] += rows[i * classes + k] * from[i * features + f];
    }
};

// Images (m, C, k) of k positions from channels last, or to it.
template <typename T> void swap_channels(int64_t m, int64_t C, int64_t k, const T* from, T* to, bool first) {
    for (int64_t i = 0; i < m; ++i)
        for (int64_t c = 0; c < C; ++c)
            for (int64_t j = 0; j < k; ++j) {
                if (first) to[(i * C + c) * k + j] = from[(i * k + j) * C + c];
                else to[(i * k + j) * C + c] = from[(i * C + c) * k + j];
            }
}

// to (width) += the sum of m rows.
template <typename T> void sum_rows(int64_t m, const T* from, int64_t width, T* to) {
    for (int64_t i = 0; i < m; ++i)
        for (int64_t j = 0; j < width; ++j) to[j] += from[i * width + j];
}

}  // namespace
