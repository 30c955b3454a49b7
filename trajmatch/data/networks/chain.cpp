// A whole ConvNet's derivatives in one call: blocks of [convolution 3 x 3, instance norm, ReLU, pooling], one linear
// layer, and the cross-entropy l of its outputs with labels y.
//
//     gradient   u = dl/dtheta
//     mixed      the gradient of h = <u, a> in theta, the images and the labels
//
// With B a block's norm, ReLU and pooling, its input c_i = conv(p_{i-1}, w_i), p_i = B(c_i), and g the gradients of l,
//
//     forward            c_i, p_i upwards
//     first backward     g_c_i from g_p_i by B's gradient,  g_p_{i-1} = back(g_c_i, w_i) downwards
//     back through it    v_i = conv(p_{i-1}, a_i) + conv(r_{i-1}, w_i),  (r_i, d_i) = B's curvature of v_i upwards
//     and the forward    e_i = d_i + B's gradient of q_i,  q_{i-1} = back(g_c_i, a_i) + back(e_i, w_i) downwards
//                        dh/dw_i = weigh(g_c_i, r_{i-1}) + weigh(e_i, p_{i-1})
//
// Images do not meet: a few at a time go through all of it, so that what is passed on is still in the cache.
#include <memory>
#include <vector>

namespace {

struct Layer {
    int64_t C, O, h, w, pad, pool, H, W, at, side;  // side: of the tiles of its convolution
    double eps;
    int64_t shift() const { return at + 9 * C * O + O; }  // theta: weights, biases, and from here on scale and shift
    int64_t whole() const { return H * W * O; }
    int64_t pooled() const { return whole() / (pool * pool); }
};

// A layer's weights and the sums of their gradients, as the products want them; what `some` images need of it.
template <typename T> struct Room {
    Buffer<T> w, w_turned, a, a_turned, dw;
    Buffer<T> c, gc, v, p, gp, mean, rstd, S1, S2, dS;
};

template <typename T> class Chain {
  public:
    Chain(const int64_t* plan, const double* eps) : n(plan[0]), classes(plan[1]), some(plan[2]) {
        int64_t at = 0;
        for (int64_t i = 0; i < plan[3]; ++i) {
            const int64_t* p = plan + 4 + 7 * i;
            Layer s{p[0], p[1], p[2], p[3], p[4], p[5], p[2] + 2 * p[4] - 2, p[3] + 2 * p[4] - 2, at, p[6], eps[i]};
            at += 9 * s.C * s.O + 3 * s.O;
            layers.push_back(s);
            rooms.push_back(std::make_unique<Room<T>>());
        }
        top = at, features = layers.back().pooled();
    }

    void run(const T* theta_, const T* z, const T* y, const T* a_, T* d_theta, T* d_z, T* d_y) {
        theta = theta_, a = a_, out = d_theta;
        prepare();
        for (int64_t first = 0; first < n; first += some) {
            m = std::min(some, n - first);
            images_in(z + first * pixels());
            up();
            outputs_of_loss(y + first * classes);
            down();
            if (a == nullptr) continue;
            up_again();
            top_again(y + first * classes, d_y + first * classes);
            down_again();
            images_out(d_z + first * pixels());
        }
        if (out != nullptr) finish();
    }

  private:
    int64_t n, classes, some, m = 0, top, features;
    std::vector<Layer> layers;
    std::vector<std::unique_ptr<Room<T>>> rooms;
    const T *theta = nullptr, *a = nullptr;
    T* out = nullptr;
    Buffer<T> x, cols, dx, q, q_below, linear, a_linear, d_linear, prob, go, go_bar, o_bar, weight;

    int64_t pixels() const { return layers[0].C * layers[0].h * layers[0].w; }
    Shape shape(const Layer& s) const { return {m, s.H, s.W, s.O, s.pool, s.eps}; }
    Linear head() const { return {classes, features}; }
    Frame frame() const { return {m, layers[0].h, layers[0].w, layers[0].C, layers[0].pad}; }

    void turn(const T* from, T* to, bool back) const { head().turn(layers.back().O, from, to, back); }
    void times(const T* from, const T* W, T* to) const { head().times(m, from, W, to); }
    void times_turned(const T* from, const T* W, T* to) const { head().times_turned(m, from, W, to); }
    void outer(const T* rows, const T* from, T* W) const { head().outer(m, rows, from, W); }
    void sum_into(const T* from, int64_t width, T* to) const { sum_rows(m, from, width, to); }

    // Layers but the first, by tiles of one side or the other; downwards: from its outputs to its inputs.
    void by_tiles(const Layer& s, bool downwards, Terms<T> terms, T* y) const {
        const int64_t in = downwards ? s.O : s.C, out = downwards ? s.C : s.O;
        if (s.side == 4) convolve<T, 4>({m, s.h, s.w}, in, out, terms, y);
        else convolve<T, 2>({m, s.h, s.w}, in, out, terms, y);
    }
    void weigh_by_tiles(const Layer& s, Terms<T> terms, T* dw) const {
        if (s.side == 4) weigh<T, 4>({m, s.h, s.w}, s.C, s.O, terms, dw);
        else weigh<T, 2>({m, s.h, s.w}, s.C, s.O, terms, dw);
    }
    void seen_weights(size_t i, const T* from, T* straight, T* turned) const {
        const Layer& s = layers[i];
        if (i == 0) return weights_first<T>(s.C, s.O, from, straight, turned);
        for (bool back : {false, true}) {
            if (s.side == 4) weights<T, 4>(s.C, s.O, from + s.at, back ? turned : straight, back);
            else weights<T, 2>(s.C, s.O, from + s.at, back ? turned : straight, back);
        }
    }

    void prepare() {
        for (size_t i = 0; i < layers.size(); ++i) {
            const Layer& s = layers[i];
            Room<T>& r = *rooms[i];
            const int64_t many = (s.side + 2) * (s.side + 2), size = (i ? many : 9) * s.C * padded<T>(s.O);
            const int64_t turned = i ? many * s.O * padded<T>(s.C) : s.O * padded<T>(9 * s.C);
            r.w.grow(size), r.w_turned.grow(turned);
            seen_weights(i, theta, r.w, r.w_turned);
            if (a != nullptr) {
                r.a.grow(size), r.a_turned.grow(turned);
                seen_weights(i, a, r.a, r.a_turned);
            }
            if (out != nullptr) {
                r.dw.grow(size);
                std::fill_n(static_cast<T*>(r.dw), size, T(0));
            }
            const int64_t count = std::min(some, n), big = count * s.whole(), small = count * s.pooled();
            r.c.grow(big), r.gc.grow(big), r.p.grow(small), r.gp.grow(small);
            if (a != nullptr) r.v.grow(big);
            for (Buffer<T>* sums : {&r.mean, &r.rstd, &r.S1, &r.S2, &r.dS}) sums->grow(count * s.O);
            q.grow(small), q_below.grow(small);
        }
        const int64_t count = std::min(some, n), size = classes * features;
        x.grow(count * pixels()), dx.grow(count * pixels());
        cols.grow(count * layers[0].H * layers[0].W * 9 * layers[0].C);
        for (Buffer<T>* b : {&prob, &go, &go_bar, &o_bar}) b->grow(count * classes);
        weight.grow(count);
        linear.grow(size);
        turn(theta + top, linear, false);
        if (a != nullptr) a_linear.grow(size), turn(a + top, a_linear, false);
        if (out != nullptr) {
            d_linear.grow(size);
            std::fill_n(static_cast<T*>(d_linear), size, T(0));
            std::fill_n(out, top + size + classes, T(0));
        }
    }

    void images_in(const T* z) {
        swap_channels<T>(m, layers[0].C, layers[0].h * layers[0].w, z, x, false);
        columns<T>(frame(), x, cols);
    }
    void images_out(T* z) { swap_channels<T>(m, layers[0].C, layers[0].h * layers[0].w, dx, z, true); }
    void up() {
        for (size_t i = 0; i < layers.size(); ++i) {
            const Layer& s = layers[i];
            Room<T>& r = *rooms[i];
            if (i == 0) convolve_first<T>(frame(), s.O, cols, r.w, r.c);
            else by_tiles(s, false, {{rooms[i - 1]->p, r.w}}, r.c);
            const T* scale = theta + s.shift();
            forward<T>(shape(s), r.c, scale, scale + s.O, r.p, r.mean, r.rstd);
        }
    }

    // prob = softmax of the outputs, go = dl/doutputs.
    void outputs_of_loss(const T* y) {
        for (int64_t i = 0; i < m; ++i) std::copy_n(theta + top + classes * features, classes, prob + i * classes);
        times(rooms.back()->p, linear, prob);
        for (int64_t i = 0; i < m; ++i) {
            T *row = prob + i * classes, most = row[0], total = 0, labels = 0;
            for (int64_t k = 1; k < classes; ++k) most = row[k] > most ? row[k] : most;
            for (int64_t k = 0; k < classes; ++k) total += row[k] = std::exp(row[k] - most);
            for (int64_t k = 0; k < classes; ++k) row[k] /= total, labels += y[i * classes + k];
            weight[i] = labels;
            for (int64_t k = 0; k < classes; ++k) go[i * classes + k] = (labels * row[k] - y[i * classes + k]) / T(n);
        }
    }

    void down() {
        const bool plain = a == nullptr;
        Room<T>& last = *rooms.back();
        std::fill_n(static_cast<T*>(last.gp), m * features, T(0));
        times_turned(go, linear, last.gp);
        if (plain) outer(go, last.p, d_linear), sum_into(go, classes, out + top + classes * features);
        for (size_t i = layers.size(); i-- > 0;) {
            const Layer& s = layers[i];
            Room<T>& r = *rooms[i];
            const T* scale = theta + s.shift();
            gradient<T>(shape(s), r.gp, r.c, scale, scale + s.O, r.mean, r.rstd, r.gc, r.S1, r.S2);
            if (plain) {
                sum_into(r.S2, s.O, out + s.shift()), sum_into(r.S1, s.O, out + s.shift() + s.O);
                if (i == 0) weigh_first<T>(frame(), s.O, cols, r.gc, r.dw);
                else weigh_by_tiles(s, {{rooms[i - 1]->p, r.gc}}, r.dw);
            }
            if (i > 0) by_tiles(s, true, {{r.gc, r.w_turned}}, rooms[i - 1]->gp);
        }
    }

    // r_i takes the place of g_p_i, and d_i that of v_i.
    void up_again() {
        for (size_t i = 0; i < layers.size(); ++i) {
            const Layer& s = layers[i];
            Room<T>& r = *rooms[i];
            if (i == 0) convolve_first<T>(frame(), s.O, cols, r.a, r.v);
            else by_tiles(s, false, {{rooms[i - 1]->p, r.a}, {rooms[i - 1]->gp, r.w}}, r.v);
            const T *scale = theta + s.shift(), *along = a + s.shift();
            curvature<T>(shape(s), r.v, along, along + s.O, r.gp, r.c, scale, scale + s.O, r.mean, r.rstd, r.S1, r.S2,
                         r.gp, r.v, r.dS);
            if (out != nullptr) sum_into(r.dS, s.O, out + s.shift());
        }
    }

    void top_again(const T* y, T* d_y) {
        Room<T>& last = *rooms.back();
        for (int64_t i = 0; i < m; ++i) std::copy_n(a + top + classes * features, classes, go_bar + i * classes);
        times(last.gp, linear, go_bar);
        times(last.p, a_linear, go_bar);
        for (int64_t i = 0; i < m; ++i) {
            const T *s = prob + i * classes, *t = go_bar + i * classes;
            T mean = 0;
            for (int64_t k = 0; k < classes; ++k) mean += s[k] * t[k];
            for (int64_t k = 0; k < classes; ++k) {
                o_bar[i * classes + k] = weight[i] / T(n) * s[k] * (t[k] - mean);
                d_y[i * classes + k] = (mean - t[k]) / T(n);
            }
        }
        std::fill_n(static_cast<T*>(q), m * features, T(0));
        times_turned(go, a_linear, q);
        times_turned(o_bar, linear, q);
        if (out == nullptr) return;
        outer(go, last.gp, d_linear), outer(o_bar, last.p, d_linear);
        sum_into(o_bar, classes, out + top + classes * features);
    }

    void down_again() {
        T *here = q, *below = q_below;
        for (size_t i = layers.size(); i-- > 0;) {
            const Layer& s = layers[i];
            Room<T>& r = *rooms[i];
            const T* scale = theta + s.shift();
            gradient<T, true>(shape(s), here, r.c, scale, scale + s.O, r.mean, r.rstd, r.v, r.S1, r.S2);
            if (out != nullptr) {
                sum_into(r.S2, s.O, out + s.shift()), sum_into(r.S1, s.O, out + s.shift() + s.O);
                if (i == 0) weigh_first<T>(frame(), s.O, cols, r.v, r.dw);
                else weigh_by_tiles(s, {{rooms[i - 1]->gp, r.gc}, {rooms[i - 1]->p, r.v}}, r.dw);
            }
            if (i == 0) back_first<T>(frame(), s.O, {{r.gc, r.a_turned}, {r.v, r.w_turned}}, dx);
            else by_tiles(s, true, {{r.gc, r.a_turned}, {r.v, r.w_turned}}, below);
            std::swap(here, below);
        }
    }

    void finish() {
        for (size_t i = 0; i < layers.size(); ++i) {
            const Layer& s = layers[i];
            if (i == 0) weights_first_back<T>(s.C, s.O, rooms[i]->dw, out);
            else if (s.side == 4) weights_back<T, 4>(s.C, s.O, rooms[i]->dw, out + s.at);
            else weights_back<T, 2>(s.C, s.O, rooms[i]->dw, out + s.at);
        }
        turn(d_linear, out + top, true);
    }
};

template <typename T>
int chain(const int64_t* plan, const double* eps, const T* theta, const T* z, const T* y, const T* a, T* d_theta,
          T* d_z, T* d_y) {
    try {
        Chain<T>(plan, eps).run(theta, z, y, a, d_theta, d_z, d_y);
        return 0;
    } catch (const std::bad_alloc&) {
        return 1;
    }
}

}  // namespace

// gradient: without a; inputs alone: without d_theta. Returns 1 where there is no memory for it.
extern "C" int chain_float32(const int64_t* plan, const double* eps, const float* theta, const float* z, const float* y,
                             const float* a, float* d_theta, float* d_z, float* d_y) {
    return chain<float>(plan, eps, theta, z, y, a, d_theta, d_z, d_y);
}
extern "C" int chain_float64(const int64_t* plan, const double* eps, const double* theta, const double* z,
                             const double* y, const double* a, double* d_theta, double* d_z, double* d_y) {
    return chain<double>(plan, eps, theta, z, y, a, d_theta, d_z, d_y);
}
