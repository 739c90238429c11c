// Orders of points and nodes, see meshsim/ops/order.py.
#if defined(__clang__)
#pragma clang fp contract(off)
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off")
#endif

#include "common.h"

#include <cmath>

namespace meshsim {
namespace {

struct Keyed {
  uint64_t key;
  int64_t id;
};

// By key, equal ones as they came: eleven bits at a time.
void sort_by_key(std::vector<Keyed>& items) {
  std::vector<Keyed> spare(items.size());
  for (int shift = 0; shift < 64; shift += 11) {
    size_t start[2049] = {};
    for (const Keyed& item : items) ++start[(item.key >> shift & 2047) + 1];
    if (std::find(start, start + 2049, items.size()) != start + 2049) continue;  // all equal
    for (int i = 0; i < 2048; ++i) start[i + 1] += start[i];
    for (const Keyed& item : items) spare[start[item.key >> shift & 2047]++] = item;
    items.swap(spare);
  }
}

template <class T>
void morton(const T* x, int64_t n, int64_t dim, int64_t* out) {
  double lo[3], side = 0.0;
  for (int64_t d = 0; d < dim; ++d) {
    double low = x[d], high = x[d];
    for (int64_t i = 0; i < n; ++i) {
      const double v = x[i * dim + d];
      if (!std::isfinite(v))
        bad_input("`points`: expected finite coordinates, got ", v, " at row ", i);
      low = std::min(low, v);
      high = std::max(high, v);
    }
    lo[d] = low;
    side = std::max(side, high - low);
  }
  const int64_t bits = 62 / dim;
  const double scale = std::ldexp(1.0, bits);
  std::vector<Keyed> items(n);
  for (int64_t i = 0; i < n; ++i) {
    uint64_t key = 0;
    for (int64_t d = 0; d < dim; ++d) {
      const double t = side > 0.0 ? (x[i * dim + d] - lo[d]) / side : 0.0;
      const uint64_t cell = static_cast<uint64_t>(std::min(std::floor(t * scale), scale - 1.0));
      if (dim == 1) key = cell;
      for (int64_t b = 0; dim > 1 && b < bits; ++b)
        key |= (cell >> b & 1) << (b * dim + (dim - 1 - d));
    }
    items[i] = {key, i};
  }
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
  if (type == ScalarType::Float) morton(points.const_data_ptr<float>(), n, dim, to);
  else morton(points.const_data_ptr<double>(), n, dim, to);
  return out;
}

class Cuthill {
 public:
  Cuthill(const int64_t* rowptr_, const int64_t* indices_, int64_t n_)
      : rowptr(rowptr_), indices(indices_), n(n_), seen(n, 0), placed(n, 0) {}

  void run(int64_t* out) {
    std::vector<int64_t> starts(n);
    for (int64_t i = 0; i < n; ++i) starts[i] = i;
    std::sort(starts.begin(), starts.end(), [this](int64_t a, int64_t b) { return before(a, b); });
    std::vector<int64_t> order;
    int64_t done = 0;
    for (const int64_t first : starts) {
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
