// Rows of a tile in shared memory that neighbouring lanes read together, and rows of extreme norm, which they
// scale in place.
#pragma once

#include <bit>
#include <concepts>

#include <cottention/device/convert.cuh>
#include <cottention/device/math.cuh>
#include <cottention/device/memory.cuh>
#include <cottention/device/thread.cuh>
#include <cottention/device/warp.cuh>
#include <cottention/tile/row_norm.cuh>

namespace cottention::tile {

/// A row of a tile (tile_rows, columns) that lanes_per_row neighbouring lanes read together. `threads`
/// threads read rows_per_pass rows at a time; all lanes of a warp have a row or none has.
template <int threads, int tile_rows, class Source>
struct RowReader {
  using T = typename Source::Element;
  using A = Accumulate<T>;
  static constexpr int max_lanes = threads / tile_rows < 1 ? 1 : threads / tile_rows;
  static constexpr int lanes_per_row =
      static_cast<int>(std::bit_floor(static_cast<unsigned>(max_lanes < 32 ? max_lanes : 32)));
  static constexpr int rows_per_pass = threads / lanes_per_row;
  static_assert(
      tile_rows * lanes_per_row % 32 == 0 && rows_per_pass * lanes_per_row % 32 == 0,
      "cottention: warps measure rows whole. Remedy: chunk and warps that are powers of two, or leave the "
      "tiling to the library.");

  static constexpr int unit = lanes_per_row < 8 ? 8 : lanes_per_row;
  static constexpr int padded_vecs = (Source::vecs + unit - 1) / unit * unit;
  static constexpr int rounds = padded_vecs / lanes_per_row;

  /// The index of the vector that a lane reads in a round. One pass over shared memory serves eight lanes,
  /// whose vectors must lie in different banks. A Tile swizzles vectors by bits of the row, so which bits of
  /// the index differ between lanes, and which between rounds, follows from the bits that differ between
  /// neighbouring rows.
  static __device__ __forceinline__ int vec_of(int lane_in_row, int round) {
    if constexpr (sizeof(T) == 2 && lanes_per_row < 8) {
      constexpr int run = 8 / lanes_per_row;
      return round / run * 8 + lane_in_row * run + round % run;
    } else if constexpr (sizeof(T) == 4 && lanes_per_row == 4) {
      return round / 2 * 8 + lane_in_row / 2 * 4 + round % 2 * 2 + lane_in_row % 2;
    } else {
      return round * lanes_per_row + lane_in_row;
    }
  }

  Source& tile;
  int row;

  static __device__ __forceinline__ int lane_in_row() { return device::thread_index() % lanes_per_row; }
  __device__ __forceinline__ Vec<T>* vec(int round) const {
    const int u = vec_of(lane_in_row(), round);
    const bool exists = padded_vecs == Source::vecs || u < Source::vecs;
    return exists ? reinterpret_cast<Vec<T>*>(tile.at(row, u * Source::vec_size)) : nullptr;
  }

  template <class Combine>
  static __device__ __forceinline__ A reduce_row(A x, Combine combine) {
#pragma unroll
    for (int distance = 1; distance < lanes_per_row; distance *= 2)
      x = combine(x, device::shuffle_xor(x, distance));
    return x;
  }
  static __device__ __forceinline__ A sum_row(A x) {
    return reduce_row(x, [](A a, A b) { return a + b; });
  }

  __device__ __forceinline__ A sum_sq() const {
    A sum{};
#pragma unroll
    for (int round = 0; round < rounds; ++round) {
      const Vec<T>* at = vec(round);
      if (at == nullptr) continue;
      const Vec<T> x = device::load_shared(at);
#pragma unroll
      for (int e = 0; e < Source::vec_size; ++e) sum = device::fma(element<T>(x, e), element<T>(x, e), sum);
    }
    return sum_row(sum);
  }

  /// The largest magnitude of the row, in all lanes of the row; infinite where an element is not finite.
  __device__ __forceinline__ A max_magnitude() const {
    A largest{};
#pragma unroll 1
    for (int round = 0; round < rounds; ++round) {
      const Vec<T>* at = vec(round);
      if (at == nullptr) continue;
      const Vec<T> x = device::load_shared(at);
#pragma unroll
      for (int e = 0; e < Source::vec_size; ++e) {
        const A magnitude = device::magnitude(device::widen<T>(x[e]));
        largest = !device::is_finite(magnitude) ? infinity<A>() : magnitude > largest ? magnitude : largest;
      }
    }
    return reduce_row(largest, [](A a, A b) { return a < b ? b : a; });
  }

  /// Divides the row by 2^exponent in place, and returns the sum of the squares of the quotients.
  __device__ __forceinline__ A rescale(int exponent) const {
    A sum{};
#pragma unroll 1
    for (int round = 0; round < rounds; ++round) {
      Vec<T>* at = vec(round);
      if (at == nullptr) continue;
      Vec<T> x = device::load_shared(at);
#pragma unroll
      for (int e = 0; e < Source::vec_size; ++e) {
        const A scaled = device::times_power_of_two(device::widen<T>(x[e]), -exponent);
        x[e] = device::narrow<T>(scaled);
        sum = device::fma(scaled, scaled, sum);
      }
      if (exponent != 0) device::store_shared(at, x);
    }
    return sum_row(sum);
  }
};

/// The norm of a row from its sum_sq, in all lanes of the row. An `extreme` row is scaled in place so that
/// its largest element has the exponent `shift`. Scope: warp; barriers inside: 0.
template <class Reader, class A>
__device__ __forceinline__ RowNorm<A> rescale_row(const Reader& reader, A sum_sq, bool extreme, int shift) {
  int exponent = 0;
  if (device::any_lane(extreme)) {
    const A largest = reader.max_magnitude();
    if (extreme && largest > A{0} && device::is_finite(largest))
      exponent = device::exponent_of(largest) - shift;
    if (device::any_lane(exponent != 0)) {
      const A rescaled = reader.rescale(exponent);
      if (exponent != 0) sum_sq = rescaled;
    }
  }
  return {sum_sq, exponent};
}

}  // namespace cottention::tile
