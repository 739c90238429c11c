// Softmax and log-sum-exp over groups of rows, see meshsim/ops/segment.py.
#include "segment/segment.h"

#define MESHSIM_KERNELS "segment/softmax_kernels.h"
#include "each_isa.h"

namespace meshsim {
namespace {

template <class S>
using Held = std::conditional_t<sizeof(S) == 2, float, S>;

// Calls work(b, first, last, room) for tiles of groups that stay in cache with the `extra` numbers
// a group and the numbers of their rows that `room` takes; a large group is a tile of its own.
template <class A, class Work>
void each_tile(const Block& x, const Groups& by, int64_t extra, const Work& work) {
  constexpr int64_t tile = 4096;
  each_range(x, by, [&](int64_t b, int64_t first, int64_t last) {
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
  });
}

}  // namespace

void softmax(const Block& x, const Groups& by, const void* from, void* out) {
  with_float(x.dtype, [&](auto s) {
    typedef decltype(s) S;
    each_tile<Held<S>>(x, by, 0, [&](int64_t b, int64_t first, int64_t last, Held<S>* room) {
      const int64_t at = b * x.rows * x.width;
      const S* in = static_cast<const S*>(from) + at;
      S* to = static_cast<S*>(out) + at;
      MESHSIM_DISPATCH(softmax_groups<S>(by, first, last, x.width, in, room, to));
    });
  });
}

void logsumexp(const Block& x, const Groups& by, const void* from, void* out) {
  with_float(x.dtype, [&](auto s) {
    typedef decltype(s) S;
    const auto tile = [&](int64_t b, int64_t first, int64_t last, Held<S>* room) {
      const S* in = static_cast<const S*>(from) + b * x.rows * x.width;
      S* to = static_cast<S*>(out) + b * by.n * x.width;
      MESHSIM_DISPATCH(logsumexp_groups<S>(by, first, last, x.width, in, room, to));
    };
    each_tile<Held<S>>(x, by, x.width, tile);
  });
}

void softmax_backward(const Block& x, const Groups& by, const void* grad, const void* y,
                      void* out) {
  with_float(x.dtype, [&](auto s) {
    typedef decltype(s) S;
    each_range(x, by, [&](int64_t b, int64_t first, int64_t last) {
      const int64_t at = b * x.rows * x.width;
      const S *g = static_cast<const S*>(grad) + at, *in = static_cast<const S*>(y) + at;
      S* to = static_cast<S*>(out) + at;
      MESHSIM_DISPATCH(softmax_backward_groups<S>(by, first, last, x.width, g, in, to));
    });
  });
}

void logsumexp_backward(const Block& x, const Groups& by, const void* grad, const void* from,
                        const void* y, void* out) {
  with_float(x.dtype, [&](auto s) {
    typedef decltype(s) S;
    each_range(x, by, [&](int64_t b, int64_t first, int64_t last) {
      const int64_t at = b * x.rows * x.width, of = b * by.n * x.width;
      const S *g = static_cast<const S*>(grad) + of, *top = static_cast<const S*>(y) + of;
      const S* in = static_cast<const S*>(from) + at;
      S* to = static_cast<S*>(out) + at;
      MESHSIM_DISPATCH(logsumexp_backward_groups<S>(by, first, last, x.width, g, in, top, to));
    });
  });
}

}  // namespace meshsim
