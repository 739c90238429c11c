// Softmax and log-sum-exp over groups of rows, see meshsim/ops/segment.py.
#include "segment/segment.h"

#include <cmath>

#define MESHSIM_KERNELS "segment/softmax_kernels.h"
#include "each_isa.h"

namespace meshsim {
namespace {

// Calls work(b, first, last, room) for tiles of groups that stay in cache with the `extra` numbers
// a group and the numbers of their rows that `room` takes; a large group is a tile of its own, and
// for a long one it calls shared(b, i, pieces).
template <class A, class Work, class Shared>
void each_tile(const Block& x, const Groups& by, int64_t extra, const Work& work,
               const Shared& shared) {
  constexpr int64_t tile = 4096;
  const auto range = [&](int64_t b, int64_t first, int64_t last) {
    while (first < last) {
      int64_t next = first + 1;
      const auto size = [&](int64_t end) {
        return (by.rowptr[end] - by.rowptr[first]) * x.width + (end - first) * extra;
      };
      while (next < last && size(next + 1) <= tile) ++next;
      if (size(next) <= 16 * tile) {
        work(b, first, next, thread_scratch<A>(size(next)));
      } else {
        const Buffer<A> room(size(next));  // not kept
        work(b, first, next, room.data);
      }
      first = next;
    }
  };
  each_group(x, by, range, shared);
}

// Of the pieces of a long group: the largest of each column, 0 where that is not finite, and
// Σ exp(x − top).
template <class S>
struct Whole {
  typedef Held<S> A;
  std::vector<A> top, sum;

  Whole(const Groups& pieces, int64_t width, const S* x) : top(width), sum(width) {
    const Buffer<A> parts(pieces.n * width);
    each(pieces.n, [&](int64_t p) {
      MESHSIM_DISPATCH(top_group<S>(pieces, p, width, x, parts.data + p * width));
    });
    for (int64_t j = 0; j < width; ++j) {
      top[j] = parts.data[j];
      for (int64_t p = 1; p < pieces.n; ++p) {
        const A next = parts.data[p * width + j];
        if (!(top[j] > next) && top[j] == top[j]) top[j] = next;
      }
      if (top[j] - top[j] != 0) top[j] = 0;
    }
    each(pieces.n, [&](int64_t p) {
      A* room = room_for(pieces, p, width);
      MESHSIM_DISPATCH(
          sum_group<S>(pieces, p, width, x, top.data(), room, parts.data + p * width));
    });
    add(parts.data, pieces.n, width, sum.data());
  }

  static A* room_for(const Groups& pieces, int64_t p, int64_t width) {
    return thread_scratch<A>((pieces.rowptr[p + 1] - pieces.rowptr[p]) * width);
  }

  static void add(const A* parts, int64_t n, int64_t width, A* sum) {
    std::fill_n(sum, width, A(0));
    for (int64_t p = 0; p < n; ++p)
      for (int64_t j = 0; j < width; ++j) sum[j] += parts[p * width + j];
  }
};

}  // namespace

void softmax(const Block& x, const Groups& by, const void* from, void* out) {
  const int64_t w = x.width;
  with_float(x.dtype, [&](auto s) {
    typedef decltype(s) S;
    const auto in = [&](int64_t b) { return static_cast<const S*>(from) + b * x.rows * w; };
    const auto to = [&](int64_t b) { return static_cast<S*>(out) + b * x.rows * w; };
    each_tile<Held<S>>(
        x, by, 0,
        [&](int64_t b, int64_t first, int64_t last, Held<S>* room) {
          MESHSIM_DISPATCH(softmax_groups<S>(by, first, last, w, in(b), room, to(b)));
        },
        [&](int64_t b, int64_t, const Groups& pieces) {
          Whole<S> whole(pieces, w, in(b));
          for (auto& sum : whole.sum) sum = 1 / sum;
          each(pieces.n, [&](int64_t p) {
            Held<S>* room = whole.room_for(pieces, p, w);
            MESHSIM_DISPATCH(share_group<S>(pieces, p, w, in(b), whole.top.data(),
                                            whole.sum.data(), room, to(b)));
          });
        });
  });
}

void logsumexp(const Block& x, const Groups& by, const void* from, void* out) {
  const int64_t w = x.width;
  with_float(x.dtype, [&](auto s) {
    typedef decltype(s) S;
    const auto in = [&](int64_t b) { return static_cast<const S*>(from) + b * x.rows * w; };
    const auto to = [&](int64_t b) { return static_cast<S*>(out) + b * by.n * w; };
    each_tile<Held<S>>(
        x, by, w,
        [&](int64_t b, int64_t first, int64_t last, Held<S>* room) {
          MESHSIM_DISPATCH(logsumexp_groups<S>(by, first, last, w, in(b), room, to(b)));
        },
        [&](int64_t b, int64_t i, const Groups& pieces) {
          const Whole<S> whole(pieces, w, in(b));
          for (int64_t j = 0; j < w; ++j)
            to(b)[i * w + j] = S(std::log(whole.sum[j]) + whole.top[j]);
        });
  });
}

void softmax_backward(const Block& x, const Groups& by, const void* grad, const void* y,
                      void* out) {
  const int64_t w = x.width;
  with_float(x.dtype, [&](auto s) {
    typedef decltype(s) S;
    const auto at = [&](const void* p, int64_t b) {
      return static_cast<const S*>(p) + b * x.rows * w;
    };
    const auto to = [&](int64_t b) { return static_cast<S*>(out) + b * x.rows * w; };
    each_group(
        x, by,
        [&](int64_t b, int64_t first, int64_t last) {
          MESHSIM_DISPATCH(softmax_backward_groups<S>(by, first, last, w, nullptr, at(grad, b),
                                                      at(y, b), to(b)));
        },
        [&](int64_t b, int64_t, const Groups& pieces) {
          const Buffer<Held<S>> parts(pieces.n * w), dot(w);
          each(pieces.n, [&](int64_t p) {
            MESHSIM_DISPATCH(
                dot_group<S>(pieces, p, w, at(grad, b), at(y, b), parts.data + p * w));
          });
          Whole<S>::add(parts.data, pieces.n, w, dot.data);
          each(pieces.n, [&](int64_t p) {
            MESHSIM_DISPATCH(softmax_backward_groups<S>(pieces, p, p + 1, w, dot.data,
                                                        at(grad, b), at(y, b), to(b)));
          });
        });
  });
}

void logsumexp_backward(const Block& x, const Groups& by, const void* grad, const void* from,
                        const void* y, void* out) {
  const int64_t w = x.width;
  with_float(x.dtype, [&](auto s) {
    typedef decltype(s) S;
    const auto run = [&](int64_t b, const Groups& of, int64_t first, int64_t last, int64_t i) {
      const int64_t at = b * x.rows * w, group = (b * by.n + i) * w;
      const S *g = static_cast<const S*>(grad) + group, *top = static_cast<const S*>(y) + group;
      const S* in = static_cast<const S*>(from) + at;
      S* to = static_cast<S*>(out) + at;
      MESHSIM_DISPATCH(logsumexp_backward_groups<S>(of, first, last, w, g, in, top, to));
    };
    each_group(
        x, by, [&](int64_t b, int64_t first, int64_t last) { run(b, by, first, last, 0); },
        [&](int64_t b, int64_t i, const Groups& pieces) {
          each(pieces.n, [&](int64_t p) {
            run(b, {1, by.rows, pieces.rowptr + p, by.pick}, 0, 1, i);
          });
        });
  });
}

}  // namespace meshsim
