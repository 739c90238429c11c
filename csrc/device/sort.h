// Sorting and sums of what came before, on the device: CUB's, or std's where it is emulated.
#pragma once

#include "device/device.h"

namespace meshsim {

// Puts keys in rising order of their lowest `bits` bits, values with them; equal ones stay in
// order.
void sort_pairs(Room<uint64_t>& keys, Room<int32_t>& values, int bits);

void sort_keys(Room<uint64_t>& keys, int bits);

// Every number becomes the sum of those up to and with it.
void sum_up(const Tensor& like, int64_t* numbers, int64_t n);

// How many bits the numbers 0..n − 1 have, one at least.
inline int bits_of(int64_t n) {
  int bits = 1;
  while (bits < 63 && int64_t(1) << bits < n) ++bits;
  return bits;
}

}  // namespace meshsim
