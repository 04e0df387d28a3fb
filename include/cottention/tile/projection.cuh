// Through the norm: the gradient with respect to x from d, that with respect to norm(x),
//
//     dx = (d - x^ (x^ . d)) / max(||x||, eps)          x^ = norm(x)
//
// where the part along x^ stays if ||x|| <= eps, since norm(x) is linear there.
#pragma once

#include <cottention/device/barrier.cuh>
#include <cottention/tile/norms.cuh>
#include <cottention/tile/partition.cuh>

namespace cottention::tile {

/// For the rows of a chunk, in shared memory. The block's columns are all there are.
template <class Part>
struct Projection {
  using T = typename Part::T;
  using A = typename Part::A;
  alignas(16) A unit[Part::chunk];     // x^ = unit times x as its tile has it
  alignas(16) A inverse[Part::chunk];  // 1 / max(||x||, eps)
  alignas(16) A removed[Part::chunk];  // the share of the part along x^ that goes: 1, or 0 where ||x|| <= eps
  alignas(16) A products[Part::warps_across][Part::chunk];  // x . d of each warp's columns

  /// What measuring x has found, row by row.
  __device__ __forceinline__ void set(int row, const Length<A>& length) {
    device::store_shared(unit + row, length.unit());
    device::store_shared(inverse + row, length.inverse());
    device::store_shared(removed + row, length.at_floor() ? A{0} : A{1});
  }

  /// After a barrier; by the warps that hold d.
  __device__ __forceinline__ void multiply(const typename Part::ValueTile& x,
                                           const typename Part::Output& d) {
    const Lane lane = Lane::afresh();
#pragma unroll
    for (int i = 0; i < Part::row_blocks; ++i)
#pragma unroll
      for (int lower = 0; lower < Part::block_rows / 8; ++lower) {
        const int row = 16 * i + lane.g() + 8 * lower;
        A product{};
        for_each_pair(x, i, lower, lane, [&](int m, int n, A x0, A x1) {
          const A* sums = d.sums[i][m][n].values + 2 * lower;
          product = device::fused(x1, sums[1], device::fused(x0, sums[0], product));
        });
        product += device::shuffle_xor(product, 1);
        product += device::shuffle_xor(product, 2);
        if (lane.t() == 0) device::store_shared(products[device::warp_index()] + row, product);
      }
  }

  /// x^ . d of a row, after another barrier.
  __device__ __forceinline__ A along(int row) const {
    A sum{};
#pragma unroll
    for (int w = 0; w < Part::warps_across; ++w) sum += device::load_shared(products[w] + row);
    return sum * device::load_shared(unit + row);
  }

  /// d becomes dx; by the warps that hold it.
  __device__ __forceinline__ void project(const typename Part::ValueTile& x, typename Part::Output& d) const {
    const Lane lane = Lane::afresh();
#pragma unroll
    for (int i = 0; i < Part::row_blocks; ++i)
#pragma unroll
      for (int lower = 0; lower < Part::block_rows / 8; ++lower) {
        const int row = 16 * i + lane.g() + 8 * lower;
        const A inverse_length = device::load_shared(inverse + row);
        const A share = device::load_shared(removed + row) * along(row) * device::load_shared(unit + row);
        for_each_pair(x, i, lower, lane, [&](int m, int n, A x0, A x1) {
          A* sums = d.sums[i][m][n].values + 2 * lower;
          sums[0] = device::fused(-share, x0, sums[0]) * inverse_length;
          sums[1] = device::fused(-share, x1, sums[1]) * inverse_length;
        });
      }
  }

 private:
  /// The elements of x where a lane's sums are.
  template <class F>
  static __device__ __forceinline__ void for_each_pair(const typename Part::ValueTile& x, int i, int lower,
                                                       Lane lane, F f) {
    using Pair = device::Vector<T, 2>;
#pragma unroll
    for (int m = 0; m < Part::warp_column_blocks; ++m)
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const int column = Part::warp_column() + 16 * m + 8 * n;
        const Pair pair = device::load_shared(reinterpret_cast<const Pair*>(
            x.at(16 * i + 8 * lower, column, lane.number() / 4, lane.number() % 4 * 2)));
        if constexpr (sizeof(T) == 2) {
          const auto bits = device::bits_as<std::uint32_t>(pair);
          f(m, n, device::unpack_low<T>(bits), device::unpack_high<T>(bits));
        } else {
          f(m, n, pair[0], pair[1]);
        }
      }
  }
};

}  // namespace cottention::tile
