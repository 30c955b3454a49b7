// Instance norm, ReLU and average pooling as one operation, with its first and second derivatives.
//
// Tensors are channels last: n images of h x w positions of C channels, k = h * w. With xh = (c - m) r, where m is
// the mean and r the reciprocal standard deviation of a channel of one image,
//
//     forward    y = max(w xh + b, 0),   p = mean of y over pool x pool positions
//     gradient   gy = [y > 0] gp / pool^2,   S1 = sum gy,   S2 = sum gy xh      (sums over positions)
//                gc = w r (gy - S1/k - xh S2/k),   gw = S2,   gb = S1           (summed over images by the caller)
//     curvature  the gradient of <v, gc> + <vw, gw> + <vb, gb> in gp, c and w: with V1 = sum v, V2 = sum v xh,
//                P = sum v gy, E = P - (S1 V1 + S2 V2)/k,
//                d/dgp = sum over the pool of [y > 0] (w r (v - V1/k - xh V2/k) + vw xh + vb) / pool^2
//                d/dxh = vw gy - (w r/k) (V2 gy + S2 v)
//                d/dc  = r (d/dxh - mean(d/dxh) - xh mean(xh d/dxh)) - w E r^2 xh / k
//                d/dw  = r E
//
// Every pass handles one image and BLOCK channels, which stay in the core's own cache from pass to pass.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace {

constexpr int64_t BLOCK = 64;

using Brain = uint16_t;  // bfloat16: the upper half of a float

inline float get(float value) { return value; }
inline double get(double value) { return value; }
inline float get(Brain bits) {
    const uint32_t wide = uint32_t(bits) << 16;
    float value;
    std::memcpy(&value, &wide, 4);
    return value;
}

inline void put(float& place, float value) { place = value; }
inline void put(double& place, double value) { place = value; }
inline void put(Brain& place, float value) {  // rounded to the nearest, ties to even
    uint32_t wide;
    std::memcpy(&wide, &value, 4);
    place = Brain((wide + 0x7FFF + ((wide >> 16) & 1)) >> 16);
}

template <typename S> struct Sum { using type = float; };
template <> struct Sum<double> { using type = double; };

struct Shape {
    int64_t n, h, w, C, pool;
    double eps;
};

// Calls f(image, first channel, channels) for every image and block of channels, on all threads.
template <typename F> void each_block(const Shape& s, F f) {
    const int64_t blocks = (s.C + BLOCK - 1) / BLOCK;
#pragma omp parallel for collapse(2) schedule(static)
    for (int64_t i = 0; i < s.n; ++i)
        for (int64_t j = 0; j < blocks; ++j) {
            const int64_t first = j * BLOCK, m = s.C - first < BLOCK ? s.C - first : BLOCK;
            // A width known to the compiler makes straight vector code of every loop over channels.
            if (m == 64) f(i, first, std::integral_constant<int64_t, 64>());
            else if (m == 32) f(i, first, std::integral_constant<int64_t, 32>());
            else f(i, first, m);
        }
}

// Calls f(place in the image, place in the pooled image) for every position, the members of a pool one after another.
template <typename F> inline void each_position(const Shape& s, F f) {
    const int64_t pooled_w = s.w / s.pool;
    for (int64_t row = 0; row < s.h / s.pool; ++row)
        for (int64_t column = 0; column < pooled_w; ++column)
            for (int64_t down = 0; down < s.pool; ++down)
                for (int64_t right = 0; right < s.pool; ++right)
                    f(((row * s.pool + down) * s.w + column * s.pool + right) * s.C, (row * pooled_w + column) * s.C);
}

template <typename T>
void forward(const Shape& s, const T* c, const typename Sum<T>::type* w, const typename Sum<T>::type* b, T* p,
             typename Sum<T>::type* mean, typename Sum<T>::type* rstd) {
    using A = typename Sum<T>::type;
    const int64_t k = s.h * s.w, pooled = k / (s.pool * s.pool), pooled_w = s.w / s.pool;
    const A share = A(1) / A(s.pool * s.pool);
    each_block(s, [&](int64_t i, int64_t first, auto m) {
        const T* x = c + i * k * s.C + first;
        T* out = p + i * pooled * s.C + first;
        A mu[BLOCK] = {}, square[BLOCK] = {}, r[BLOCK];
        for (int64_t at = 0; at < k; ++at)
#pragma omp simd
            for (int64_t j = 0; j < m; ++j) mu[j] += get(x[at * s.C + j]);
        for (int64_t j = 0; j < m; ++j) mu[j] /= A(k);
        for (int64_t at = 0; at < k; ++at)
#pragma omp simd
            for (int64_t j = 0; j < m; ++j) {
                const A gap = get(x[at * s.C + j]) - mu[j];
                square[j] += gap * gap;
            }
        for (int64_t j = 0; j < m; ++j) {
            r[j] = A(1) / std::sqrt(square[j] / A(k) + A(s.eps));
            mean[i * s.C + first + j] = mu[j];
            rstd[i * s.C + first + j] = r[j];
        }
        for (int64_t row = 0; row < s.h / s.pool; ++row)
            for (int64_t column = 0; column < pooled_w; ++column) {
                A total[BLOCK] = {};
                for (int64_t down = 0; down < s.pool; ++down)
                    for (int64_t right = 0; right < s.pool; ++right) {
                        const T* here = x + ((row * s.pool + down) * s.w + column * s.pool + right) * s.C;
#pragma omp simd
                        for (int64_t j = 0; j < m; ++j) {
                            const A y = w[first + j] * ((get(here[j]) - mu[j]) * r[j]) + b[first + j];
                            total[j] += y <= A(0) ? A(0) : y;  // not y > 0 ? y : 0, which would make a NaN zero
                        }
                    }
#pragma omp simd
                for (int64_t j = 0; j < m; ++j) put(out[(row * pooled_w + column) * s.C + j], total[j] * share);
            }
    });
}

// Add: gc is added to what is there.
template <typename T, bool Add = false>
void gradient(const Shape& s, const T* gp, const T* c, const typename Sum<T>::type* w, const typename Sum<T>::type* b,
              const typename Sum<T>::type* mean, const typename Sum<T>::type* rstd, T* gc,
              typename Sum<T>::type* S1, typename Sum<T>::type* S2) {
    using A = typename Sum<T>::type;
    const int64_t k = s.h * s.w, pooled = k / (s.pool * s.pool);
    const A share = A(1) / A(s.pool * s.pool);
    each_block(s, [&](int64_t i, int64_t first, auto m) {
        const T* x = c + i * k * s.C + first;
        const T* g = gp + i * pooled * s.C + first;
        T* out = gc + i * k * s.C + first;
        const A *mu = mean + i * s.C + first, *r = rstd + i * s.C + first, *wj = w + first, *bj = b + first;
        A s1[BLOCK] = {}, s2[BLOCK] = {}, scale[BLOCK];
        each_position(s, [&](int64_t at, int64_t into) {
#pragma omp simd
            for (int64_t j = 0; j < m; ++j) {
                const A xh = (get(x[at + j]) - mu[j]) * r[j];
                const A gy = (wj[j] * xh + bj[j] <= A(0) ? A(0) : A(1)) * get(g[into + j]) * share;
                s1[j] += gy;
                s2[j] += gy * xh;
            }
        });
        for (int64_t j = 0; j < m; ++j) {
            S1[i * s.C + first + j] = s1[j];
            S2[i * s.C + first + j] = s2[j];
            scale[j] = wj[j] * r[j];
            s1[j] /= A(k);
            s2[j] /= A(k);
        }
        each_position(s, [&](int64_t at, int64_t into) {
#pragma omp simd
            for (int64_t j = 0; j < m; ++j) {
                const A xh = (get(x[at + j]) - mu[j]) * r[j];
                const A gy = (wj[j] * xh + bj[j] <= A(0) ? A(0) : A(1)) * get(g[into + j]) * share;
                const A here = scale[j] * (gy - s1[j] - xh * s2[j]);
                put(out[at + j], Add ? get(out[at + j]) + here : here);
            }
        });
    });
}

template <typename T>
void curvature(const Shape& s, const T* v, const typename Sum<T>::type* vw, const typename Sum<T>::type* vb,
               const T* gp, const T* c, const typename Sum<T>::type* w, const typename Sum<T>::type* b,
               const typename Sum<T>::type* mean, const typename Sum<T>::type* rstd, const typename Sum<T>::type* S1,
               const typename Sum<T>::type* S2, T* d_gp, T* d_c, typename Sum<T>::type* d_w) {
    using A = typename Sum<T>::type;
    const int64_t k = s.h * s.w, pooled = k / (s.pool * s.pool), pooled_w = s.w / s.pool;
    const A share = A(1) / A(s.pool * s.pool), over_k = A(1) / A(k);
    each_block(s, [&](int64_t i, int64_t first, auto m) {
        const T *x = c + i * k * s.C + first, *g = gp + i * pooled * s.C + first, *u = v + i * k * s.C + first;
        T *out = d_c + i * k * s.C + first, *out_gp = d_gp + i * pooled * s.C + first;
        const A *mu = mean + i * s.C + first, *r = rstd + i * s.C + first, *wj = w + first, *bj = b + first;
        A v1[BLOCK] = {}, v2[BLOCK] = {}, P[BLOCK] = {};
        each_position(s, [&](int64_t at, int64_t into) {
#pragma omp simd
            for (int64_t j = 0; j < m; ++j) {
                const A xh = (get(x[at + j]) - mu[j]) * r[j], uj = get(u[at + j]);
                const A gy = (wj[j] * xh + bj[j] <= A(0) ? A(0) : A(1)) * get(g[into + j]) * share;
                v1[j] += uj;
                v2[j] += uj * xh;
                P[j] += uj * gy;
            }
        });
        // d/dc = by_gy gy + by_v v - level - by_xh xh,   d/dgy = scale (v - V1/k) + vb + slope xh
        A scale[BLOCK], slope[BLOCK], offset[BLOCK], by_gy[BLOCK], by_v[BLOCK], level[BLOCK], by_xh[BLOCK];
        for (int64_t j = 0; j < m; ++j) {
            const A s1 = S1[i * s.C + first + j], s2 = S2[i * s.C + first + j], a = wj[j] * r[j];
            const A E = P[j] - (s1 * v1[j] + s2 * v2[j]) * over_k;
            const A G1 = vw[first + j] * s1 - a * over_k * (s1 * v2[j] + v1[j] * s2);
            const A G2 = vw[first + j] * s2 - 2 * a * over_k * s2 * v2[j];
            d_w[i * s.C + first + j] = r[j] * E;
            scale[j] = a;
            slope[j] = vw[first + j] - a * v2[j] * over_k;
            offset[j] = vb[first + j] - a * v1[j] * over_k;
            by_gy[j] = r[j] * (vw[first + j] - a * over_k * v2[j]);
            by_v[j] = -r[j] * a * over_k * s2;
            level[j] = r[j] * G1 * over_k;
            by_xh[j] = (r[j] * G2 + wj[j] * E * r[j] * r[j]) * over_k;
        }
        for (int64_t row = 0; row < s.h / s.pool; ++row)
            for (int64_t column = 0; column < pooled_w; ++column) {
                const int64_t into = (row * pooled_w + column) * s.C;
                A total[BLOCK] = {};
                for (int64_t down = 0; down < s.pool; ++down)
                    for (int64_t right = 0; right < s.pool; ++right) {
                        const int64_t at = ((row * s.pool + down) * s.w + column * s.pool + right) * s.C;
#pragma omp simd
                        for (int64_t j = 0; j < m; ++j) {
                            const A xh = (get(x[at + j]) - mu[j]) * r[j], uj = get(u[at + j]);
                            // A factor instead of a branch, which would keep the loop from becoming vector code.
                            const A open = wj[j] * xh + bj[j] <= A(0) ? A(0) : A(1);
                            const A gy = open * get(g[into + j]) * share;
                            total[j] += open * (scale[j] * uj + offset[j] + slope[j] * xh);
                            put(out[at + j], by_gy[j] * gy + by_v[j] * uj - level[j] - by_xh[j] * xh);
                        }
                    }
#pragma omp simd
                for (int64_t j = 0; j < m; ++j) put(out_gp[into + j], total[j] * share);
            }
    });
}

}  // namespace

#define EXPORT(NAME, T, A)                                                                                           \
    extern "C" void forward_##NAME(Shape s, const T* c, const A* w, const A* b, T* p, A* mean, A* rstd) {            \
        forward<T>(s, c, w, b, p, mean, rstd);                                                                       \
    }                                                                                                                \
    extern "C" void gradient_##NAME(Shape s, const T* gp, const T* c, const A* w, const A* b, const A* mean,         \
                                    const A* rstd, T* gc, A* S1, A* S2) {                                            \
        gradient<T>(s, gp, c, w, b, mean, rstd, gc, S1, S2);                                                         \
    }                                                                                                                \
    extern "C" void curvature_##NAME(Shape s, const T* v, const A* vw, const A* vb, const T* gp, const T* c,         \
                                     const A* w, const A* b, const A* mean, const A* rstd, const A* S1, const A* S2, \
                                     T* d_gp, T* d_c, A* d_w) {                                                      \
        curvature<T>(s, v, vw, vb, gp, c, w, b, mean, rstd, S1, S2, d_gp, d_c, d_w);                                 \
    }

EXPORT(float32, float, float)
EXPORT(float64, double, double)
EXPORT(bfloat16, Brain, float)
