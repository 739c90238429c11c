// A tree of points on the device, of all batches at once: those of a batch lie side by side.
#pragma once

#include "neighbors/boxes.h"

namespace meshsim {

constexpr int in_leaf = 8;  // points

// Offsets of batches, or one batch if there are none.
struct Batches {
  const int64_t* offsets;
  int64_t count, n;

  Batches(const std::optional<Tensor>& batch, int64_t n_)
      : offsets(batch ? static_cast<const int64_t*>(batch->const_data_ptr()) : nullptr),
        count(batch ? batch->size(0) - 1 : 1),
        n(n_) {}

  // The batch of row i, −1 if the offsets know none.
  __device__ int64_t of(int64_t i) const {
    if (!offsets) return 0;
    int64_t low = 0, high = count;  // offsets[low] <= i < offsets[high]
    if (count == 0 || offsets[0] > i || offsets[count] <= i) return -1;
    while (high - low > 1) {
      const int64_t middle = (low + high) / 2;
      (offsets[middle] <= i ? low : high) = middle;
    }
    return low;
  }
  // Nothing outside is read, whatever the offsets say.
  __device__ int64_t begin(int64_t b) const {
    return offsets ? min(max(offsets[b], int64_t(0)), n) : 0;
  }
  __device__ int64_t end(int64_t b) const { return offsets ? min(offsets[b + 1], n) : n; }
};

static __global__ void key_batches(const int32_t* id, int64_t n, Batches batches, uint64_t* key) {
  const int64_t i = thread_number();
  if (i < n) key[i] = batches.of(id[i]) + 1;
}

// The rows of points by batch, those of a batch in the order of the curve.
template <int D, class T>
Room<int32_t> order_of(const Tensor& points, const Frame& frame, const Batches& batches) {
  Room<int32_t> ids = along_curve<D, T>(points, frame);
  if (batches.count <= 1) return ids;
  const int64_t n = points.size(0);
  Room<uint64_t> keys(points, n);
  launch(points, key_batches, blocks_of(n, 256), 256, 0, ids.data, n, batches, keys.data);
  sort_pairs(keys, ids, bits_of(batches.count + 1));
  return ids;
}

// What a kernel sees: points in order, their rows, boxes of `in_leaf` of them each.
template <int D, class T>
struct Cloud {
  const T* at;
  const int32_t* id;
  const Box<D, T>* boxes;
  int64_t n;
  int leaves;
};

template <int D, class T>
__global__ void box_leaves(const T* x, const int32_t* id, int64_t n, int leaves, T* at,
                           Box<D, T>* boxes) {
  const int64_t leaf = thread_number();
  if (leaf >= leaves) return;
  Box<D, T> box = Box<D, T>::none();
  for (int64_t i = leaf * in_leaf; i < min((leaf + 1) * in_leaf, n); ++i) {
    Box<D, T> point;
    for (int d = 0; d < D; ++d)
      at[i * D + d] = point.lo[d] = point.hi[d] = x[int64_t(id[i]) * D + d];
    box.add(point);
  }
  boxes[leaves + leaf] = box;
}

template <int D, class T>
struct CloudRoom {
  Room<int32_t> id;
  Room<T> at;
  Room<Box<D, T>> boxes;

  CloudRoom(const Tensor& points, const Frame& frame, const Batches& batches)
      : id(order_of<D, T>(points, frame, batches)),
        at(points, points.size(0) * D),
        boxes(points, 2 * leaves_for(blocks_of(points.size(0), in_leaf))) {
    const int64_t leaves = boxes.size / 2;
    launch(points, box_leaves<D, T>, blocks_of(leaves, 128), 128, 0,
           static_cast<const T*>(points.const_data_ptr()), id.data, id.size, leaves, at.data,
           boxes.data);
    build_tree(boxes);
  }
  Cloud<D, T> view() const {
    return {at.data, id.data, boxes.data, id.size, static_cast<int>(boxes.size / 2)};
  }
};

// The points that a query may see: those of its batch.
struct Range {
  int64_t first, last;  // in order, `last` is the one after
  int root, shift;      // the smallest subtree with all of them

  __device__ Range(int64_t a, int64_t b, int leaves) : first(a), last(b), root(leaves) {
    if (empty()) return;
    const int low = leaves + static_cast<int>(a / in_leaf);
    const int high = leaves + static_cast<int>((b - 1) / in_leaf);
    root = low == high ? low : low >> (32 - __clz(low ^ high));
  }
  __device__ bool empty() const { return first >= last; }

  // Whether a node has any of them.
  __device__ bool meets(int node, int leaves) const {
    const int down = __clz(node) - __clz(leaves);
    const int64_t leaf = (int64_t(node) << down) - leaves;
    return leaf * in_leaf < last && (leaf + (int64_t(1) << down)) * in_leaf > first;
  }
};

// Calls found(square, row) for the points of some leaf that are in the range.
template <int D, class T, class Found>
__device__ void look(const Cloud<D, T>& cloud, const Range& in, int64_t leaf,
                     const double (&x)[D], const Found& found) {
  const int64_t last = min((leaf + 1) * in_leaf, in.last);
  for (int64_t i = max(leaf * in_leaf, in.first); i < last; ++i) {
    double sum = 0.0;
    for (int d = 0; d < D; ++d) {
      const double side = double(cloud.at[i * D + d]) - x[d];
      sum = __dadd_rn(sum, __dmul_rn(side, side));
    }
    found(sum, cloud.id[i]);
  }
}

// Calls found(square, row) for the points of the range but for those below `left_out`, where the
// leaves come within √limit(), which may sink.
template <int D, class T, class Limit, class Found>
__device__ void look_around(const Cloud<D, T>& cloud, const Range& in, int left_out,
                            const double (&x)[D], const Limit& limit, const Found& found) {
  walk(
      in.root, left_out, cloud.leaves,
      [&](int node) {
        return in.meets(node, cloud.leaves) && cloud.boxes[node].gap(x) <= limit();
      },
      [&](int leaf) { look(cloud, in, leaf, x, found); });
}

}  // namespace meshsim
