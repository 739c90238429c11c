// Trees of points with leaves of `leaf_size`, one a batch: k-d trees that split the longer side of
// their points in the middle of the list, so that neither grading nor repeated points unbalance
// them. All is in float64: differences of float32 coordinates lose nothing there.
#pragma once

#include "geometry.h"

namespace meshsim {

constexpr int64_t leaf_size = 16;

template <int D>
struct Box {
  double lo[D], hi[D];
};

// Square of the smallest distance between points of two boxes, computed term by term as distances
// of points are: rounding rises with its argument, so this never exceeds one of those.
template <int D>
[[gnu::always_inline]] inline double gap(const Box<D>& a, const Box<D>& b) {
  double sum = 0.0;
  for (int d = 0; d < D; ++d) {
    const double below = a.lo[d] - b.hi[d], above = b.lo[d] - a.hi[d];
    const double side = std::max(std::max(below, above), 0.0);
    sum += side * side;
  }
  return sum;
}

struct Subtree {
  int64_t node, leaf, leaves;  // the left child is the next node, leaves are in order

  Subtree left() const { return {node + 1, leaf, leaves / 2}; }
  Subtree right() const { return {node + 2 * (leaves / 2), leaf + leaves / 2, leaves - leaves / 2}; }
};

template <int D>
class Forest {
 public:
  std::vector<Subtree> roots;       // a batch each
  std::vector<Box<D>> boxes;        // of each node
  std::vector<Box<D>> leaf_boxes;
  std::vector<int32_t> batch_of;    // of each leaf
  std::vector<int32_t> size_of;     // points of each leaf; all but a batch's last are full
  Buffer<double> at;                // (leaves, D, leaf_size), NaN where there is no point
  Buffer<int32_t> id;               // (leaves, leaf_size)

  int64_t leaves() const { return static_cast<int64_t>(leaf_boxes.size()); }
  const double* leaf_at(int64_t leaf) const { return at.data + leaf * D * leaf_size; }
  const int32_t* leaf_id(int64_t leaf) const { return id.data + leaf * leaf_size; }

  // Batch b has the points offsets[b]..offsets[b + 1] of `points` (n, D).
  template <class T>
  Forest(const T* points, const std::vector<int64_t>& offsets)
      : at(count(offsets) * D * leaf_size), id(count(offsets) * leaf_size) {
    const int64_t n = offsets.back(), total = count(offsets);
    leaf_boxes.resize(total);
    batch_of.resize(total);
    size_of.resize(total);
    boxes.resize(2 * total);
    Buffer<Item<T>> items(n);
    for (int64_t i = 0; i < n; ++i) {
      for (int d = 0; d < D; ++d) items.data[i].x[d] = points[i * D + d];
      items.data[i].id = static_cast<int32_t>(i);
    }
    int64_t node = 0, leaf = 0;
    std::vector<Part<T>> parts;
    for (size_t b = 0; b + 1 < offsets.size(); ++b) {
      const int64_t size = offsets[b + 1] - offsets[b], mine = (size + leaf_size - 1) / leaf_size;
      const Subtree root{node, leaf, mine};
      roots.push_back(root);
      if (!mine) continue;
      parts.push_back({root, items.data + offsets[b], size, static_cast<int32_t>(b)});
      node += 2 * mine - 1;
      leaf += mine;
    }
    grow(std::move(parts));
  }

  // Those leaves of a tree within √limit of a box, near ones early, but for leaves first..last-1.
  void near(const Subtree& root, const Box<D>& box, double limit, int64_t first, int64_t last,
            std::vector<int32_t>& found) const {
    found.clear();
    if (root.leaves) visit(root, box, limit, first, last, found);
  }

 private:
  template <class T>
  struct Item {
    T x[D];
    int32_t id;
  };

  static int64_t count(const std::vector<int64_t>& offsets) {
    int64_t total = 0;
    for (size_t b = 0; b + 1 < offsets.size(); ++b)
      total += (offsets[b + 1] - offsets[b] + leaf_size - 1) / leaf_size;
    return total;
  }

  template <class T>
  struct Part {
    Subtree tree;
    Item<T>* items;
    int64_t n;
    int32_t batch;
  };

  // Splits large parts level by level, those of a level side by side, then each to its leaves.
  template <class T>
  void grow(std::vector<Part<T>> parts) {
    constexpr int64_t large = 1 << 13;
    std::vector<Part<T>> small;
    while (!parts.empty()) {
      std::vector<Part<T>> next(2 * parts.size());
      each(parts.size(), [&](int64_t i) {
        const Part<T>& part = parts[i];
        if (part.n > large) next[2 * i + 1] = halve(part, next[2 * i]);
      });
      for (const Part<T>& part : parts)
        if (part.n <= large) small.push_back(part);
      parts.clear();
      for (const Part<T>& part : next)
        if (part.n) parts.push_back(part);
    }
    each(small.size(), [&](int64_t i) { split(small[i]); });
  }

  template <class T>
  void split(const Part<T>& part) {
    if (part.tree.leaves == 1) return fill(part);
    Part<T> left;
    const Part<T> right = halve(part, left);
    split(left);
    split(right);
  }

  // Puts the left half of a part into `left`; returns the right one.
  template <class T>
  Part<T> halve(const Part<T>& part, Part<T>& left) {
    const Box<D>& box = bound(part);
    int axis = 0;
    for (int d = 1; d < D; ++d)
      if (box.hi[d] - box.lo[d] > box.hi[axis] - box.lo[axis]) axis = d;
    const int64_t middle = part.tree.left().leaves * leaf_size;
    divide(part.items, middle, part.n, axis);
    left = {part.tree.left(), part.items, middle, part.batch};
    return {part.tree.right(), part.items + middle, part.n - middle, part.batch};
  }

  template <class T>
  const Box<D>& bound(const Part<T>& part) {
    Item<T> lo = part.items[0], hi = lo;
    for (int64_t i = 1; i < part.n; ++i)
      for (int d = 0; d < D; ++d) {
        lo.x[d] = std::min(lo.x[d], part.items[i].x[d]);
        hi.x[d] = std::max(hi.x[d], part.items[i].x[d]);
      }
    Box<D>& box = boxes[part.tree.node];
    for (int d = 0; d < D; ++d) box.lo[d] = lo.x[d], box.hi[d] = hi.x[d];
    return box;
  }

  template <class T>
  static void divide(Item<T>* items, int64_t middle, int64_t n, int axis) {
    if (axis == 0) select<0>(items, middle, n);
    if (axis == 1) select<D < 2 ? 0 : 1>(items, middle, n);
    if (axis == 2) select<D < 3 ? 0 : 2>(items, middle, n);
  }

  // As std::nth_element, which ends it: before, parts around values guessed from a few items,
  // without branches that processors guess wrong.
  template <int axis, class T>
  static void select(Item<T>* items, int64_t middle, int64_t n) {
    while (n > 128) {
      T some[31];
      for (int64_t i = 0; i < 31; ++i) some[i] = items[i * (n - 1) / 30].x[axis];
      std::sort(some, some + 31);
      const T pivot = some[1 + 29 * middle / n];
      Item<T>* less = items;
      for (Item<T>* i = items; i < items + n; ++i) {
        const Item<T> item = *i;
        *i = *less;
        *less = item;
        less += item.x[axis] < pivot;
      }
      const int64_t left = less - items, right = n - left;
      if (std::min(left, right) < n / 16) break;
      if (middle < left) {
        n = left;
      } else {
        items += left;
        middle -= left;
        n = right;
      }
    }
    std::nth_element(items, items + middle, items + n, [](const Item<T>& a, const Item<T>& b) {
      return a.x[axis] < b.x[axis];
    });
  }

  template <class T>
  void fill(const Part<T>& part) {
    const Subtree& tree = part.tree;
    leaf_boxes[tree.leaf] = bound(part);
    batch_of[tree.leaf] = part.batch;
    size_of[tree.leaf] = static_cast<int32_t>(part.n);
    double* x = at.data + tree.leaf * D * leaf_size;
    int32_t* to = id.data + tree.leaf * leaf_size;
    for (int64_t i = 0; i < leaf_size; ++i) {
      for (int d = 0; d < D; ++d)
        x[d * leaf_size + i] =
            i < part.n ? part.items[i].x[d] : std::numeric_limits<double>::quiet_NaN();
      to[i] = i < part.n ? part.items[i].id : -1;
    }
  }

  void visit(const Subtree& tree, const Box<D>& box, double limit, int64_t first, int64_t last,
             std::vector<int32_t>& found) const {
    if (tree.leaf >= first && tree.leaf + tree.leaves <= last) return;
    if (tree.leaves == 1) {
      found.push_back(static_cast<int32_t>(tree.leaf));
      return;
    }
    const Subtree left = tree.left(), right = tree.right();
    const double to_left = gap(boxes[left.node], box), to_right = gap(boxes[right.node], box);
    const bool swap = to_right < to_left;
    if ((swap ? to_right : to_left) <= limit)
      visit(swap ? right : left, box, limit, first, last, found);
    if ((swap ? to_left : to_right) <= limit)
      visit(swap ? left : right, box, limit, first, last, found);
  }
};

}  // namespace meshsim
