// Orders of points and nodes, see meshsim/ops/order.py.
#include "geometry.h"

namespace meshsim {
namespace {

// Bits of x, `dim` apart.
uint64_t spread(uint64_t x, int64_t dim) {
  if (dim == 1) return x;
  if (dim == 2) {
    x = (x | x << 16) & 0x0000ffff0000ffff;
    x = (x | x << 8) & 0x00ff00ff00ff00ff;
    x = (x | x << 4) & 0x0f0f0f0f0f0f0f0f;
    x = (x | x << 2) & 0x3333333333333333;
    return (x | x << 1) & 0x5555555555555555;
  }
  x = (x | x << 32) & 0x001f00000000ffff;
  x = (x | x << 16) & 0x001f0000ff0000ff;
  x = (x | x << 8) & 0x100f00f00f00f00f;
  x = (x | x << 4) & 0x10c30c30c30c30c3;
  return (x | x << 2) & 0x1249249249249249;
}

template <class T>
void morton(const Tensor& points, int64_t* out) {
  const T* x = points.const_data_ptr<T>();
  const int64_t n = points.size(0), dim = points.size(1), pieces = pieces_of(n);
  check_finite<T>(points, "points");
  double lo[3], side = 0.0;
  for (int64_t d = 0; d < dim; ++d) {
    T low = x[d], high = x[d];
    for (int64_t i = 0; i < n; ++i) {
      low = std::min(low, x[i * dim + d]);
      high = std::max(high, x[i * dim + d]);
    }
    lo[d] = low;
    side = std::max(side, double(high) - low);
  }
  const double scale = std::ldexp(1.0, 62 / dim);
  std::vector<Keyed> items(n);
  each(pieces, [&](int64_t p) {
    for (int64_t i = n * p / pieces; i < n * (p + 1) / pieces; ++i) {
      uint64_t key = 0;
      for (int64_t d = 0; d < dim; ++d) {
        const double t = side > 0.0 ? (x[i * dim + d] - lo[d]) / side : 0.0;
        const uint64_t cell = static_cast<uint64_t>(std::min(t * scale, scale - 1.0));
        key |= spread(cell, dim) << (dim - 1 - d);
      }
      items[i] = {key, i};
    }
  });
  sort_by_key(items);
  for (int64_t i = 0; i < n; ++i) out[i] = items[i].id;
}

Tensor morton_order(Tensor points_) {
  const Tensor points = dense(points_);
  check_cpu(points, "points");
  check_shape(points, -1, -1, "points");
  const int64_t n = points.size(0), dim = points.size(1);
  if (dim < 1 || dim > 3) bad_input("`points`: expected shape (*, 1..3), got ", shape_of(points));
  Tensor out = torch::stable::empty({n}, ScalarType::Long);
  int64_t* to = out.mutable_data_ptr<int64_t>();
  const ScalarType type = points.scalar_type();
  if (type != ScalarType::Float && type != ScalarType::Double)
    bad_input("`points`: expected float32 or float64, got ", torch::headeronly::toString(type));
  if (n == 0) return out;
  if (type == ScalarType::Float) morton<float>(points, to);
  else morton<double>(points, to);
  return out;
}

class Cuthill {
 public:
  Cuthill(const int64_t* rowptr_, const int64_t* indices_, int64_t n_)
      : rowptr(rowptr_), indices(indices_), n(n_), seen(n, 0), placed(n, 0) {}

  void run(int64_t* out) {
    std::vector<Keyed> starts(n);
    for (int64_t i = 0; i < n; ++i) starts[i] = {static_cast<uint64_t>(degree(i)), i};
    sort_by_key(starts);
    std::vector<int64_t> order;
    int64_t done = 0;
    for (const auto& [_, first] : starts) {
      if (placed[first]) continue;
      breadth(far_end(first), order);
      for (const int64_t i : order) {
        placed[i] = 1;
        out[n - 1 - done++] = i;
      }
    }
  }

 private:
  const int64_t *rowptr, *indices;
  const int64_t n;
  std::vector<int64_t> seen;
  std::vector<char> placed;
  int64_t round = 0;

  int64_t degree(int64_t i) const { return rowptr[i + 1] - rowptr[i]; }
  bool before(int64_t a, int64_t b) const {
    const int64_t of_a = degree(a), of_b = degree(b);
    return of_a != of_b ? of_a < of_b : a < b;
  }

  // Breadth first, neighbours by degree. Returns the number of levels; `level` is where the last
  // begins.
  int64_t breadth(int64_t first, std::vector<int64_t>& order, size_t* level = nullptr) {
    ++round;
    order.assign(1, first);
    seen[first] = round;
    int64_t levels = 0;
    for (size_t begin = 0; begin < order.size(); ++levels) {
      if (level) *level = begin;
      const size_t end = order.size();
      for (; begin < end; ++begin) {
        const size_t from = order.size();
        for (int64_t e = rowptr[order[begin]]; e < rowptr[order[begin] + 1]; ++e) {
          const int64_t i = indices[e];
          if (seen[i] == round || placed[i]) continue;
          seen[i] = round;
          order.push_back(i);
        }
        std::sort(order.begin() + from, order.end(),
                  [this](int64_t a, int64_t b) { return before(a, b); });
      }
    }
    return levels;
  }

  // A node with nobody far behind it (George and Liu).
  int64_t far_end(int64_t first) {
    std::vector<int64_t> order;
    size_t level = 0;
    int64_t levels = breadth(first, order, &level);
    while (true) {
      int64_t next = order[level];
      for (size_t i = level; i < order.size(); ++i)
        if (before(order[i], next)) next = order[i];
      const int64_t more = breadth(next, order, &level);
      if (more <= levels) return first;
      levels = more;
      first = next;
    }
  }
};

Tensor rcm_order(Tensor rowptr_, Tensor indices_) {
  const Tensor rowptr = dense(rowptr_), indices = dense(indices_);
  check_cpu(indices, "indices");
  check_shape(indices, -1, 0, "indices");
  check_rowptr(rowptr, indices.size(0));
  const int64_t n = rowptr.size(0) - 1;
  check_index(indices, n, "indices");
  Tensor out = torch::stable::empty({n}, ScalarType::Long);
  Cuthill(rowptr.const_data_ptr<int64_t>(), indices.const_data_ptr<int64_t>(), n)
      .run(out.mutable_data_ptr<int64_t>());
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(meshsim, CPU, m) {
  m.impl("morton_order", TORCH_BOX(&morton_order));
  m.impl("rcm_order", TORCH_BOX(&rcm_order));
}

}  // namespace meshsim
