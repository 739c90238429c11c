// Which simplex a point lies in, on CUDA, see meshsim/ops/locate.py.
//
// One thread a query, queries in the order of Morton's curve. Each cell is a leaf of the tree. All
// is in float64, every step rounded as on the CPU: no fused multiply-add.
#include "neighbors/boxes.h"

namespace meshsim {
namespace {

template <int D, class T>
struct Mesh {
  const T* points;
  int64_t n;
  const int64_t* cells;
  double tolerance;

  // Where the corners of a cell are; false if it has one that does not exist.
  __device__ bool corners(int64_t c, double (&x)[D + 1][D]) const {
    for (int i = 0; i <= D; ++i) {
      const int64_t p = cells[c * (D + 1) + i];
      if (uint64_t(p) >= uint64_t(n)) return false;
      for (int d = 0; d < D; ++d) x[i][d] = points[p * D + d];
    }
    return true;
  }
};

// a · b − c · d
__device__ double cross(double a, double b, double c, double d) {
  return __dsub_rn(__dmul_rn(a, b), __dmul_rn(c, d));
}

__device__ double orient(const double (&x)[3][2]) {
  return cross(x[1][0] - x[0][0], x[2][1] - x[0][1], x[1][1] - x[0][1], x[2][0] - x[0][0]);
}

__device__ double orient(const double (&x)[4][3]) {
  double e[3][3];
  for (int i = 0; i < 3; ++i)
    for (int d = 0; d < 3; ++d) e[i][d] = x[i + 1][d] - x[0][d];
  const double u = cross(e[1][1], e[2][2], e[1][2], e[2][1]);
  const double v = cross(e[1][2], e[2][0], e[1][0], e[2][2]);
  const double w = cross(e[1][0], e[2][1], e[1][1], e[2][0]);
  return __dadd_rn(__dadd_rn(__dmul_rn(e[0][0], u), __dmul_rn(e[0][1], v)), __dmul_rn(e[0][2], w));
}

// A little larger than the cell.
template <int D>
__device__ Box<D, double> box_of(const double (&x)[D + 1][D], double tolerance) {
  Box<D, double> box = Box<D, double>::none();
  double extent = 0.0;
  for (int i = 0; i <= D; ++i) {
    Box<D, double> corner;
    for (int d = 0; d < D; ++d) corner.lo[d] = corner.hi[d] = x[i][d];
    box.add(corner);
  }
  for (int d = 0; d < D; ++d) extent = fmax(extent, box.hi[d] - box.lo[d]);
  const double pad = __dmul_rn(__dmul_rn(D + 2, tolerance), extent);
  for (int d = 0; d < D; ++d) {
    box.lo[d] = __dsub_rn(box.lo[d], pad);
    box.hi[d] = __dadd_rn(box.hi[d], pad);
  }
  return box;
}

template <int D, class T>
__global__ void key_cells(Mesh<D, T> mesh, int64_t count, Frame frame, uint64_t* key, int32_t* id) {
  const int64_t c = thread_number();
  if (c >= count) return;
  double x[D + 1][D], centre[D];
  key[c] = 0;
  id[c] = static_cast<int32_t>(c);
  if (!mesh.corners(c, x)) return;
  const Box<D, double> box = box_of<D>(x, 0.0);
  for (int d = 0; d < D; ++d) centre[d] = 0.5 * box.lo[d] + 0.5 * box.hi[d];
  key[c] = curve_key(centre, frame);
}

template <int D, class T>
__global__ void box_cells(Mesh<D, T> mesh, const int32_t* id, int64_t count, int leaves,
                          Box<D, double>* boxes) {
  const int64_t leaf = thread_number();
  if (leaf >= leaves) return;
  double x[D + 1][D];
  boxes[leaves + leaf] = leaf < count && mesh.corners(id[leaf], x)
                             ? box_of<D>(x, mesh.tolerance)
                             : Box<D, double>::none();
}

// Barycentric coordinates of `at` in cell c; false if it lies outside.
template <int D, class T>
__device__ bool weigh(const Mesh<D, T>& mesh, int64_t c, const double (&at)[D],
                      double (&weights)[D + 1]) {
  double x[D + 1][D];
  if (!mesh.corners(c, x)) return false;
  const double all = orient(x);
  if (all == 0.0) return false;
#pragma unroll
  for (int i = 0; i <= D; ++i) {
    double part[D + 1][D];
#pragma unroll
    for (int j = 0; j <= D; ++j)
      for (int d = 0; d < D; ++d) part[j][d] = j == i ? at[d] : x[j][d];
    weights[i] = orient(part) / all;
    if (!(weights[i] >= -mesh.tolerance)) return false;
  }
  return true;
}

template <int D, class T>
__global__ void find(Mesh<D, T> mesh, const int32_t* cell, const Box<D, double>* boxes, int leaves,
                     const T* queries, const int32_t* order, int64_t m, int64_t* ids, T* weights) {
  const int64_t i = thread_number();
  if (i >= m) return;
  const int64_t row = order[i];
  double at[D], best[D + 1];
  int64_t found = -1;
  for (int d = 0; d < D; ++d) at[d] = queries[row * D + d];
  for (int d = 0; d <= D; ++d) best[d] = 0.0;
  walk(
      1, 0, leaves, [&](int node) { return boxes[node].holds(at); },
      [&](int leaf) {
        const int64_t c = cell[leaf];
        double w[D + 1];
        if ((found >= 0 && c > found) || !weigh(mesh, c, at, w)) return;
        found = c;
        for (int d = 0; d <= D; ++d) best[d] = w[d];
      });
  ids[row] = found;
  for (int d = 0; d <= D; ++d) weights[row * (D + 1) + d] = static_cast<T>(best[d]);
}

template <int D, class T>
std::tuple<Tensor, Tensor> find_all(const Tensor& points, const Tensor& cells,
                                    const Tensor& queries, double tolerance) {
  const Frame frame = frame_of<D, T>(points, "points");
  frame_of<D, T>(queries, "queries");  // are they finite?
  const int64_t count = cells.size(0), m = queries.size(0);
  const Mesh<D, T> mesh{static_cast<const T*>(points.const_data_ptr()), points.size(0),
                        static_cast<const int64_t*>(cells.const_data_ptr()), tolerance};
  Room<uint64_t> keys(points, count);
  Room<int32_t> order(points, count);
  launch(points, key_cells<D, T>, blocks_of(count, 128), 128, 0, mesh, count, frame, keys.data,
         order.data);
  sort_pairs(keys, order, 62 / D * D);
  Room<Box<D, double>> boxes(points, 2 * leaves_for(count));
  const int64_t leaves = boxes.size / 2;
  launch(points, box_cells<D, T>, blocks_of(leaves, 128), 128, 0, mesh, order.data, count, leaves,
         boxes.data);
  build_tree(boxes);
  const Room<int32_t> by = along_curve<D, T>(queries, frame);
  const Tensor ids = integers(points, {m});
  const Tensor weights = torch::stable::new_empty(points, {m, D + 1});
  launch(points, find<D, T>, blocks_of(m, 64), 64, 0, mesh, order.data, boxes.data, leaves,
         static_cast<const T*>(queries.const_data_ptr()), by.data, m,
         numbers(ids), static_cast<T*>(weights.mutable_data_ptr()));
  return {ids, weights};
}

std::tuple<Tensor, Tensor> locate(Tensor points_, Tensor cells_, Tensor queries_,
                                  double tolerance) {
  const Tensor points = dense(points_), cells = dense(cells_), queries = dense(queries_);
  check_points(points, "points", 2);
  const int64_t dim = points.size(1);
  check_device(queries, "queries", points);
  check_device(cells, "cells", points);
  check_shape(queries, -1, dim, "queries");
  check_dtype(queries, points.scalar_type(), "queries");
  check_points(queries, "queries", 2);
  check_shape(cells, -1, dim + 1, "cells");
  check_index(cells, points.size(0), "cells");
  if (cells.size(0) > int64_t(1) << 29)
    bad_input("`cells`: expected at most 2^29, got ", cells.size(0));
  if (!(tolerance >= 0)) bad_input("`tolerance`: expected a number >= 0, got ", tolerance);
  return with_points(points, [&](auto t, auto dimension) {
    constexpr int D = decltype(dimension)::value;
    if constexpr (D > 1) return find_all<D, decltype(t)>(points, cells, queries, tolerance);
    return std::tuple<Tensor, Tensor>(points, points);  // not reached
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(meshsim, MESHSIM_DEVICE, m) { m.impl("locate", TORCH_BOX(&locate)); }

}  // namespace meshsim
