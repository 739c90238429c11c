// Edges of cells, each once, on CUDA, see meshsim/ops/tables.py: sorted as numbers (low, high).
#include "tables/corners.h"

namespace meshsim {
namespace {

// What is no edge comes after all that are.
__global__ void key_edges(Part part, int bits, uint64_t* key) {
  const int64_t i = thread_number();
  if (i >= part.rows()) return;
  const int64_t a = part.node(i / part.count, i % part.count, 0);
  const int64_t b = part.node(i / part.count, i % part.count, 1);
  key[i] = a < 0 || b < 0 || a == b ? uint64_t(1) << 2 * bits
                                    : uint64_t(min(a, b)) << bits | uint64_t(max(a, b));
}

__global__ void mark_new(const uint64_t* key, int64_t n, int bits, int64_t* is_new) {
  const int64_t i = thread_number();
  if (i < n) is_new[i] = !(key[i] >> 2 * bits) && (i == 0 || key[i] != key[i - 1]);
}

__global__ void write_edges(const uint64_t* key, const int64_t* found, int64_t n, int bits,
                            int64_t* out) {
  const int64_t i = thread_number();
  if (i >= n || found[i] == (i ? found[i - 1] : 0)) return;
  out[2 * found[i] - 2] = key[i] >> bits;
  out[2 * found[i] - 1] = key[i] & ((uint64_t(1) << bits) - 1);
}

Tensor cells_to_edges(std::vector<Tensor> nodes, std::vector<Tensor> local, int64_t n_points) {
  const Parts parts(nodes, local, n_points);
  for (const Tensor& table : parts.local) check_shape(table, -1, 2, "local");
  if (parts.all.empty()) return torch::stable::empty({0, 2}, ScalarType::Long);
  const Tensor& like = parts.nodes[0];
  const int64_t n = parts.rows;
  const int bits = bits_of(n_points);
  Room<uint64_t> keys(like, n);
  for (size_t p = 0; p < parts.all.size(); ++p)
    launch(like, key_edges, blocks_of(parts.all[p].rows(), 256), 256, 0, parts.all[p], bits,
           keys.data + parts.base[p]);
  sort_keys(keys, 2 * bits + 1);
  const Room<int64_t> found(like, n);
  launch(like, mark_new, blocks_of(n, 256), 256, 0, keys.data, n, bits, found.data);
  sum_up(like, found.data, n);
  const int64_t edges = n ? read_back(like, found.data + n - 1, 1)[0] : 0;
  const Tensor out = integers(like, {edges, 2});
  launch(like, write_edges, blocks_of(n, 256), 256, 0, keys.data, found.data, n, bits,
         numbers(out));
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(meshsim, MESHSIM_DEVICE, m) {
  m.impl("cells_to_edges", TORCH_BOX(&cells_to_edges));
}

}  // namespace meshsim
