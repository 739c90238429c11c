// Reductions of rows by an index that need not be sorted on CUDA, see meshsim/ops/scatter.py.
//
// Rows are sorted by their group, those of a group staying in order, and then read where they lie.
#include "device/sort.h"
#include "segment/inputs.h"
#include "segment/rows.h"

#include <limits>

namespace meshsim {
namespace {

// Each row's group, n for those outside, and its number.
__global__ void number_rows(const int64_t* index, int64_t rows, int64_t n, uint64_t* group,
                            int32_t* row) {
  const int64_t e = thread_number();
  if (e >= rows) return;
  group[e] = uint64_t(index[e]) < uint64_t(n) ? uint64_t(index[e]) : uint64_t(n);
  row[e] = static_cast<int32_t>(e);
}

// ptr[i] = how many of the sorted groups are less than i, for i in 0 … n.
__global__ void find_starts(const uint64_t* group, int64_t rows, int64_t n, int64_t* ptr) {
  const int64_t i = thread_number();
  if (i > n) return;
  int64_t low = 0, high = rows;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (group[middle] < uint64_t(i)) low = middle + 1;
    else high = middle;
  }
  ptr[i] = low;
}

// What a scatter is given, and its rows by group.
struct Given : ScatterInputs {
  Room<int32_t> order;
  Room<int64_t> ptr;
  RowLists of;

  Given(const Tensor& src_, const Tensor& index_, int64_t n_, const char* name = "src")
      : ScatterInputs(packed(src_), index_, n_, name), order(src, numbered(block.rows)),
        ptr(src, n + 1) {
    const int64_t rows = block.rows;
    check_index(index, n, "index");
    Room<uint64_t> group(src, rows);
    launch(src, number_rows, blocks_of(rows, 256), dim3(256), 0, index.const_data_ptr<int64_t>(),
           rows, n, group.data, order.data);
    sort_pairs(group, order, bits_of(n + 1));
    launch(src, find_starts, blocks_of(n + 1, 256), dim3(256), 0, group.data, rows, n, ptr.data);
    of = {block, n, rows, ptr.data, nullptr, order.data};
  }

  static int64_t numbered(int64_t rows) {
    if (rows > std::numeric_limits<int32_t>::max())
      bad_input("`src`: expected at most 2147483647 rows, got ", rows);
    return rows;
  }

  const void* data() const { return src.const_data_ptr(); }

  Tensor alike(const Tensor& x, int64_t rows, const char* name) const {
    check_alike(x, rows, name);
    return packed(x);
  }

  std::vector<int64_t> shape() const { return {of.block.batch, of.lists, of.block.width}; }
};

Tensor scatter_fold(const Tensor& src, const Tensor& index, int64_t n, Fold how) {
  const Given in(src, index, n);
  Tensor out = torch::stable::new_empty(in.src, in.shape());
  fold(in.src, in.of, how, in.data(), out.mutable_data_ptr());
  return out;
}

std::tuple<Tensor, Tensor> scatter_extreme(const Tensor& src, const Tensor& index, int64_t n,
                                           bool least) {
  const Given in(src, index, n);
  Tensor out = torch::stable::new_empty(in.src, in.shape());
  Tensor arg = torch::stable::new_empty(in.src, in.shape(), ScalarType::Long);
  extreme(in.src, in.of, least, in.data(), out.mutable_data_ptr(),
          arg.mutable_data_ptr<int64_t>());
  return {out, arg};
}

Tensor scatter_sum(Tensor src, Tensor index, int64_t n) {
  return scatter_fold(src, index, n, Fold::sum);
}

Tensor scatter_mean(Tensor src, Tensor index, int64_t n) {
  return scatter_fold(src, index, n, Fold::mean);
}

Tensor scatter_mul(Tensor src, Tensor index, int64_t n) {
  return scatter_fold(src, index, n, Fold::mul);
}

std::tuple<Tensor, Tensor> scatter_max(Tensor src, Tensor index, int64_t n) {
  return scatter_extreme(src, index, n, false);
}

std::tuple<Tensor, Tensor> scatter_min(Tensor src, Tensor index, int64_t n) {
  return scatter_extreme(src, index, n, true);
}

Tensor scatter_softmax(Tensor src, Tensor index, int64_t n) {
  const Given in(src, index, n);
  check_float(in.src, "src");
  const Block& block = in.of.block;
  Tensor out = torch::stable::new_empty(in.src, {block.batch, block.rows, block.width});
  softmax(in.src, in.of, in.data(), out.mutable_data_ptr());
  return out;
}

Tensor scatter_softmax_backward(Tensor grad, Tensor y, Tensor index, int64_t n) {
  const Given in(y, index, n, "y");
  check_float(in.src, "y");
  const Block& block = in.of.block;
  const Tensor g = in.alike(grad, block.rows, "grad");
  Tensor out = torch::stable::new_empty(in.src, {block.batch, block.rows, block.width});
  softmax_backward(in.src, in.of, g.const_data_ptr(), in.data(), out.mutable_data_ptr());
  return out;
}

Tensor scatter_logsumexp_backward(Tensor grad, Tensor src, Tensor y, Tensor index) {
  const Given in(src, index, y.dim() == 3 ? y.size(1) : 0);
  check_float(in.src, "src");
  const Block& block = in.of.block;
  const Tensor g = in.alike(grad, in.of.lists, "grad"), top = in.alike(y, in.of.lists, "y");
  Tensor out = torch::stable::new_empty(in.src, {block.batch, block.rows, block.width});
  logsumexp_backward(in.src, in.of, g.const_data_ptr(), in.data(), top.const_data_ptr(),
                     out.mutable_data_ptr());
  return out;
}

Tensor scatter_logsumexp(Tensor src, Tensor index, int64_t n) {
  const Given in(src, index, n);
  check_float(in.src, "src");
  Tensor out = torch::stable::new_empty(in.src, in.shape());
  logsumexp(in.src, in.of, in.data(), out.mutable_data_ptr());
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(meshsim, MESHSIM_DEVICE, m) {
  m.impl("scatter_sum", TORCH_BOX(&scatter_sum));
  m.impl("scatter_mean", TORCH_BOX(&scatter_mean));
  m.impl("scatter_mul", TORCH_BOX(&scatter_mul));
  m.impl("scatter_max", TORCH_BOX(&scatter_max));
  m.impl("scatter_min", TORCH_BOX(&scatter_min));
  m.impl("scatter_softmax", TORCH_BOX(&scatter_softmax));
  m.impl("scatter_logsumexp", TORCH_BOX(&scatter_logsumexp));
  m.impl("scatter_softmax_backward", TORCH_BOX(&scatter_softmax_backward));
  m.impl("scatter_logsumexp_backward", TORCH_BOX(&scatter_logsumexp_backward));
}

}  // namespace meshsim
