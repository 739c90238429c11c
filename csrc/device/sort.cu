// Sorting on the device, see sort.h.
#include "device/sort.h"

#if defined(MESHSIM_EMULATED)
#include <numeric>
#else
#include <cub/device/device_radix_sort.cuh>
#include <cub/device/device_scan.cuh>
#endif

namespace meshsim {

#if defined(MESHSIM_EMULATED)

namespace {

std::vector<int64_t> order_of(const Room<uint64_t>& keys, int bits) {
  const uint64_t mask = bits < 64 ? (uint64_t(1) << bits) - 1 : ~uint64_t(0);
  std::vector<int64_t> order(keys.size);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return (keys.data[a] & mask) < (keys.data[b] & mask);
  });
  return order;
}

template <class T>
void arrange(Room<T>& items, const std::vector<int64_t>& order) {
  const std::vector<T> before(items.data, items.data + items.size);
  for (int64_t i = 0; i < items.size; ++i) items.data[i] = before[order[i]];
}

}  // namespace

void sort_pairs(Room<uint64_t>& keys, Room<int32_t>& values, int bits) {
  const std::vector<int64_t> order = order_of(keys, bits);
  arrange(keys, order);
  arrange(values, order);
}

void sort_keys(Room<uint64_t>& keys, int bits) { arrange(keys, order_of(keys, bits)); }

void sum_up(const Tensor&, int64_t* numbers, int64_t n) {
  std::partial_sum(numbers, numbers + n, numbers);
}

#else

namespace {

// CUB says first how much memory it needs, then works in it.
template <class Work>
void with_room(const Tensor& like, const Work& work) {
  const torch::stable::accelerator::DeviceGuard guard(like.get_device_index());
  size_t bytes = 0;
  check_cuda(work(nullptr, bytes));
  const Room<unsigned char> room(like, std::max<int64_t>(bytes, 1));
  check_cuda(work(room.data, bytes));
}

// The one of two rooms that the result is in.
template <class T>
void take(Room<T>& items, const Room<T>& other, const cub::DoubleBuffer<T>& both) {
  if (both.selector) items = other;
}

}  // namespace

void sort_pairs(Room<uint64_t>& keys, Room<int32_t>& values, int bits) {
  const int64_t n = keys.size;
  if (n == 0) return;
  const Room<uint64_t> other_keys(keys.bytes, n);
  const Room<int32_t> other_values(keys.bytes, n);
  cub::DoubleBuffer<uint64_t> k(keys.data, other_keys.data);
  cub::DoubleBuffer<int32_t> v(values.data, other_values.data);
  with_room(keys.bytes, [&](void* room, size_t& bytes) {
    return cub::DeviceRadixSort::SortPairs(room, bytes, k, v, n, 0, bits, stream_of(keys.bytes));
  });
  take(keys, other_keys, k);
  take(values, other_values, v);
}

void sort_keys(Room<uint64_t>& keys, int bits) {
  const int64_t n = keys.size;
  if (n == 0) return;
  const Room<uint64_t> other(keys.bytes, n);
  cub::DoubleBuffer<uint64_t> k(keys.data, other.data);
  with_room(keys.bytes, [&](void* room, size_t& bytes) {
    return cub::DeviceRadixSort::SortKeys(room, bytes, k, n, 0, bits, stream_of(keys.bytes));
  });
  take(keys, other, k);
}

void sum_up(const Tensor& like, int64_t* numbers, int64_t n) {
  if (n == 0) return;
  with_room(like, [&](void* room, size_t& bytes) {
    return cub::DeviceScan::InclusiveSum(room, bytes, numbers, numbers, n, stream_of(like));
  });
}

#endif

}  // namespace meshsim
