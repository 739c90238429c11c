// A whole MLP on rows, see meshsim/ops/mlp_rows.py.
#include "mlp_cpu.h"

namespace meshsim {

// First layer, `hidden - 1` later ones of equal width, then LayerNorm or a last layer.
template <class T>
struct Rows {
  int64_t inputs, width, outputs, hidden;
  int64_t inputs_full, outputs_full;     // filled up to multiples of 16
  int64_t inputs_grown;                  // and of 4
  int64_t end_size, partial_size;        // numbers in a range's sums: of the end's, of all
  bool silu;
  T eps;
  const T* x;                            // (R, inputs)
  const T *bias, *gamma, *beta;          // (hidden, H), (H,), (H,); these null with a last layer
  const T* last_bias;                    // (outputs,)
  const T *first[2], *later[2], *last[2];  // packed, for forward and backward products
};

}  // namespace meshsim

#define MESHSIM_KERNELS "mlp_rows/mlp_rows_kernels.h"
#include "each_isa.h"

namespace meshsim {
namespace {

constexpr int64_t range = 960;  // rows that a thread takes at a time; sets the order of sums

int64_t filled(int64_t n) { return (n + 15) / 16 * 16; }

std::string name_of(int64_t i) { return "parameters[" + std::to_string(i) + "]"; }

struct Given {
  Tensor x;
  std::vector<Tensor> parameters;  // weight and bias of each layer, LayerNorm's
  int64_t rows, inputs, width, outputs, layers, hidden;
  bool norm, silu;
  double eps;

  Given(const Tensor& x_, const std::vector<Tensor>& parameters_, bool norm_,
        const std::string& activation, double eps_)
      : x(dense(x_)), norm(norm_), silu(is_silu(activation)), eps(eps_) {
    check_cpu(x, "x");
    check_shape(x, -1, -1, "x");
    rows = x.size(0);
    inputs = x.size(1);
    if (inputs == 0) bad_input("`x`: expected one column or more, got shape ", shape_of(x));
    const int64_t count = parameters_.size();
    if (count < 4 || count % 2)
      bad_input("`parameters`: expected weight and bias of each layer",
                norm ? " and those of LayerNorm" : ", two layers or more", ", got ", count,
                " tensors");
    layers = count / 2 - (norm ? 1 : 0);
    hidden = norm ? layers : layers - 1;
    for (int64_t i = 0; i < count; ++i) {
      check_like(parameters_[i], x, name_of(i).c_str());
      parameters.push_back(dense(parameters_[i]));
    }
    check_shape(parameters[0], -1, inputs, "parameters[0]");
    width = parameters[0].size(0);
    if (width == 0 || width % 16)
      bad_input("`parameters[0]`: expected rows in a multiple of 16, got ", width);
    for (int64_t l = 0; l < layers; ++l) {
      check_shape(parameters[2 * l], l < hidden ? width : -1, l ? width : inputs,
                  name_of(2 * l).c_str());
      outputs = parameters[2 * l].size(0);
      if (outputs == 0) bad_input("`", name_of(2 * l), "`: expected one row or more, got none");
      check_shape(parameters[2 * l + 1], outputs, 0, name_of(2 * l + 1).c_str());
    }
    for (int64_t i = 2 * layers; i < count; ++i)
      check_shape(parameters[i], width, 0, name_of(i).c_str());
  }

  template <class T>
  const T* at(int64_t i) const {
    return parameters[i].const_data_ptr<T>();
  }
};

// The network with its weights packed, in memory that this owns.
template <class T>
struct Packed {
  Rows<T> rows{};
  Buffer<T> room;

  Packed(const Given& in, bool both) : room(room_of(in)) {
    const int64_t h = in.width, last = 2 * in.layers - 2;
    rows.inputs = in.inputs, rows.width = h, rows.outputs = in.outputs, rows.hidden = in.hidden;
    rows.inputs_full = filled(in.inputs), rows.outputs_full = in.norm ? 0 : filled(in.outputs);
    rows.inputs_grown = (in.inputs + 3) / 4 * 4;
    rows.end_size = in.norm ? 2 * h : rows.outputs_full * (h + 1);
    rows.partial_size = ((in.hidden - 1) * h + in.hidden + rows.inputs_grown) * h + rows.end_size;
    rows.silu = in.silu, rows.eps = T(in.eps), rows.x = in.x.const_data_ptr<T>();
    T *bias = room.data, *spare = bias + in.hidden * h, *next = spare + spare_of(in);
    rows.bias = bias;
    for (int64_t l = 0; l < in.hidden; ++l) std::copy_n(in.at<T>(2 * l + 1), h, bias + l * h);
    const auto put = [&](int64_t i, int64_t height, int64_t across, const T** to) {
      const int64_t out = in.parameters[i].size(0), wide = in.parameters[i].size(1);
      T *forward = next, *backward = both ? next + height * wide : nullptr;
      MESHSIM_DISPATCH(
          pack_filled<T>(in.at<T>(i), out, wide, height, across, spare, forward, backward));
      if (to) to[0] = forward, to[1] = backward;
    };
    put(0, h, rows.inputs_full, rows.first);
    next += h * (in.inputs + rows.inputs_full);
    // later weights lie one after the other: all for forward products, then all for backward ones
    T *forward = next, *backward = next + (in.hidden - 1) * h * h;
    for (int64_t l = 1; l < in.hidden; ++l)
      MESHSIM_DISPATCH(pack_filled<T>(in.at<T>(2 * l), h, h, h, h, spare,
                                      forward + (l - 1) * h * h,
                                      both ? backward + (l - 1) * h * h : nullptr));
    rows.later[0] = forward, rows.later[1] = backward;
    next = backward + (in.hidden - 1) * h * h;
    if (in.norm) {
      rows.gamma = in.at<T>(2 * in.layers), rows.beta = in.at<T>(2 * in.layers + 1);
    } else {
      put(last, rows.outputs_full, h, rows.last);
      rows.last_bias = in.at<T>(last + 1);
    }
  }

  static int64_t spare_of(const Given& in) {
    return in.width * std::max({filled(in.inputs), filled(in.outputs), in.width});
  }
  static int64_t room_of(const Given& in) {
    const int64_t ends = 2 * (filled(in.inputs) + filled(in.outputs));
    return in.width * (in.hidden + ends + 2 * in.hidden * in.width) + spare_of(in);
  }
  T* scratch(int64_t tiles) const {
    return thread_scratch<T>(
        tile_rows * (rows.inputs_full + rows.outputs_full + 32 + tiles * (rows.width + 16)));
  }
};

template <class T>
Tensor forward(const Given& in) {
  Tensor out = torch::stable::new_empty(in.x, {in.rows, in.outputs});
  const Packed<T> net(in, false);
  T* to = out.mutable_data_ptr<T>();
  each((in.rows + 191) / 192, [&](int64_t i) {
    const int64_t last = std::min(in.rows, 192 * (i + 1));
    MESHSIM_DISPATCH(rows_forward<T>(net.rows, 192 * i, last, net.scratch(4), to));
  });
  return out;
}

// The sums over all rows as gradients, in the order and shapes of `parameters`.
template <class T>
std::vector<Tensor> split(const Given& in, const Rows<T>& net, const T* sums) {
  std::vector<Tensor> out;
  for (const Tensor& p : in.parameters) out.push_back(torch::stable::new_empty(p, p.sizes()));
  const int64_t h = in.width;
  const T *bias = sums + (in.hidden - 1) * h * h, *end = bias + in.hidden * h;
  const T* first = end + net.end_size;  // (inputs, H)
  T* d_first = out[0].mutable_data_ptr<T>();
  for (int64_t j = 0; j < h; ++j)
    for (int64_t i = 0; i < in.inputs; ++i) d_first[j * in.inputs + i] = first[i * h + j];
  for (int64_t l = 0; l < in.hidden; ++l) {
    if (l) std::copy_n(sums + (l - 1) * h * h, h * h, out[2 * l].mutable_data_ptr<T>());
    std::copy_n(bias + l * h, h, out[2 * l + 1].mutable_data_ptr<T>());
  }
  const int64_t at = 2 * in.hidden;
  const int64_t size = in.norm ? h : in.outputs * h;
  std::copy_n(end, size, out[at].mutable_data_ptr<T>());
  std::copy_n(end + (in.norm ? h : net.outputs_full * h), in.norm ? h : in.outputs,
              out[at + 1].mutable_data_ptr<T>());
  return out;
}

using Gradients = std::tuple<Tensor, std::vector<Tensor>>;

template <class T>
Gradients backward(const Given& in, const Tensor& given, bool x_grad) {
  const Tensor grad = dense(given);
  check_shape(grad, in.rows, in.outputs, "grad");
  check_like(grad, in.x, "grad");
  Tensor d_x = torch::stable::new_empty(in.x, {x_grad ? in.rows : 0, in.inputs});
  const Packed<T> net(in, true);
  const int64_t n = (in.rows + range - 1) / range, size = net.rows.partial_size;
  Buffer<T> partial(std::max<int64_t>(n, 1) * size);
  const T* from = grad.const_data_ptr<T>();
  T* to = x_grad ? d_x.mutable_data_ptr<T>() : nullptr;
  each(n, [&](int64_t i) {
    const int64_t last = std::min(in.rows, range * (i + 1));
    MESHSIM_DISPATCH(rows_backward<T>(net.rows, from, range * i, last,
                                      net.scratch(2 + 2 * in.hidden), to,
                                      partial.data + i * size));
  });
  add_lists(partial.data, n, size);
  return {d_x, split(in, net.rows, static_cast<const T*>(partial.data))};
}

Tensor mlp_rows(Tensor x, std::vector<Tensor> parameters, bool norm, std::string activation,
                double eps) {
  const Given in(x, parameters, norm, activation, eps);
  if (x.scalar_type() == ScalarType::Float) return forward<float>(in);
  if (x.scalar_type() == ScalarType::Double) return forward<double>(in);
  bad_dtype(x, "x");
}

Gradients mlp_rows_backward(Tensor grad, Tensor x, std::vector<Tensor> parameters, bool norm,
                            std::string activation, double eps, bool x_grad) {
  const Given in(x, parameters, norm, activation, eps);
  if (x.scalar_type() == ScalarType::Float) return backward<float>(in, grad, x_grad);
  if (x.scalar_type() == ScalarType::Double) return backward<double>(in, grad, x_grad);
  bad_dtype(x, "x");
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(meshsim, CPU, m) {
  m.impl("mlp_rows", TORCH_BOX(&mlp_rows));
  m.impl("mlp_rows_backward", TORCH_BOX(&mlp_rows_backward));
}

}  // namespace meshsim
