// Trees of boxes on the device: things in the order of Morton's curve, some of them a leaf, and a
// full binary tree of boxes over the leaves. Kept as a heap: the root is node 1, node i has the
// children 2i and 2i + 1, leaf l is node `leaves` + l. Leaves that are too many have empty boxes.
#pragma once

#include "order/morton.h"

namespace meshsim {

template <int D, class T>
struct Box {
  T lo[D], hi[D];

  // Holds nothing.
  __device__ static Box none() {
    Box out;
    for (int d = 0; d < D; ++d) out.lo[d] = T(INFINITY), out.hi[d] = -T(INFINITY);
    return out;
  }
  __device__ void add(const Box& b) {
    for (int d = 0; d < D; ++d) {
      lo[d] = b.lo[d] < lo[d] ? b.lo[d] : lo[d];
      hi[d] = b.hi[d] > hi[d] ? b.hi[d] : hi[d];
    }
  }
  __device__ bool holds(const double (&x)[D]) const {
    bool inside = true;
    for (int d = 0; d < D; ++d) inside &= lo[d] <= x[d] && x[d] <= hi[d];
    return inside;
  }
  // Square of the smallest distance of a point of the box from x, rounded term by term as
  // distances of points are: rounding rises with its argument, so it never exceeds one of those.
  __device__ double gap(const double (&x)[D]) const {
    double sum = 0.0;
    for (int d = 0; d < D; ++d) {
      const double side = fmax(fmax(double(lo[d]) - x[d], x[d] - double(hi[d])), 0.0);
      sum = __dadd_rn(sum, __dmul_rn(side, side));
    }
    return sum;
  }
};

constexpr int climbed = 8;  // levels, by one block

// The boxes of `levels` levels above `level`, from those there.
template <class B>
__global__ void join_boxes(B* boxes, int level, int levels) {
  const int64_t top = (int64_t(1) << (level - levels)) + blockIdx.x;
  for (int down = levels - 1; down >= 0; --down) {
    for (int i = threadIdx.x; i < 1 << down; i += blockDim.x) {
      const int64_t node = (top << down) + i;
      B box = boxes[2 * node];
      box.add(boxes[2 * node + 1]);
      boxes[node] = box;
    }
    __syncthreads();
  }
}

// How many leaves a tree has that must have n.
inline int64_t leaves_for(int64_t n) { return n > 1 ? int64_t(1) << bits_of(n) : 1; }

// All boxes, the leaves' being there.
template <class B>
void build_tree(Room<B>& boxes) {
  int level = bits_of(boxes.size) - 1;  // of the leaves: there are half as many as nodes
  while (level > 0) {
    const int levels = std::min(level, climbed);
    launch(boxes.bytes, join_boxes<B>, 1u << (level - levels), 1 << (levels - 1), 0, boxes.data,
           level, levels);
    level -= levels;
  }
}

// The node that follows node `node` and all below it, in the order of the leaves; the root follows
// the last.
__device__ inline int beyond(int node) {
  ++node;
  return node >> (__ffs(node) - 1);
}

// Calls leaf(l) for the leaves below `root`, in order, whose boxes and all above them are
// near(node), but for those below `left_out`.
template <class Near, class Leaf>
__device__ void walk(int root, int left_out, int leaves, const Near& near, const Leaf& leaf) {
  const int stop = beyond(root);
  int node = root;
  do {
    if (node != left_out && near(node)) {
      if (node < leaves) {
        node *= 2;
        continue;
      }
      leaf(node - leaves);
    }
    node = beyond(node);
  } while (node != stop);
}

}  // namespace meshsim
