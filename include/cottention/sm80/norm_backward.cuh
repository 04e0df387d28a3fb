// Through the norm: the gradient with respect to x from d, that with respect to norm(x),
//
//     dx = (d - x^ (x^ . d)) / max(||x||, eps)          x^ = norm(x)
//
// where the part along x^ stays if ||x|| <= eps, since norm(x) is linear there.
#pragma once

#include <cottention/device/barrier.cuh>
#include <cottention/sm80/measure.cuh>
#include <cottention/sm80/partition.cuh>

namespace cottention::sm80 {

/// For the rows of a chunk, in shared memory. The block's columns are all there are. With x as its tile has
/// it,
///
///     dx = inverse (d - (x . d) slope x)          slope = unit^2, or 0 where ||x|| <= eps
///
/// A row of d may lack a factor, which then is in inverse.
template <class Part>
struct NormBackward {
  using T = typename Part::T;
  using A = typename Part::A;
  using Slopes = device::Vector<A, 2>;
  using Together = device::Vector<A, 16 / static_cast<int>(sizeof(A))>;
  static constexpr int at_once = 16 / static_cast<int>(sizeof(A));
  static constexpr int pitch = round_up(Part::warps_n, at_once);

  alignas(16) Slopes slopes[Part::chunk];      // inverse = 1 / max(||x||, eps), and slope
  alignas(16) A rnorm[Part::chunk];            // x^ = unit x, with the factor
  alignas(16) A products[Part::chunk][pitch];  // x . d of each warp's columns

  /// What measuring x has found, row by row, and the factor that d lacks.
  __device__ __forceinline__ void set(int row, const tile::RowNorm<A>& norm, A factor = A{1}) {
    const A of_rnorm = norm.rnorm(), inverse = norm.inverse();
    device::store_shared(rnorm + row, of_rnorm * factor);
    device::store_shared(slopes + row,
                         Slopes{{inverse * factor, norm.clamped() ? A{0} : of_rnorm * of_rnorm}});
  }

  /// After a barrier; by the warps that hold d.
  __device__ __forceinline__ void multiply(const typename Part::TileC& x, const typename Part::Output& d) {
    const Lane lane = Lane::opaque();
    const int depth = Part::warp_k(), column = Part::warp_column();
#pragma unroll
    for (int i = 0; i < Part::warp_row_blocks; ++i) {
      const int top = 16 * Part::row_block(i, depth);
      A of_rows[2] = {};
      for_each_pair(x, top, column, lane, [&](int m, int n, int lower, A x0, A x1) {
        const A* sums = d.sums[i][m][n].values + 2 * lower;
        of_rows[lower] = device::fma(x1, sums[1], device::fma(x0, sums[0], of_rows[lower]));
      });
#pragma unroll
      for (int lower = 0; lower < Part::block_rows / 8; ++lower) {
        A product = of_rows[lower];
        product += device::shuffle_xor(product, 1);
        product += device::shuffle_xor(product, 2);
        if (lane.t() == 0)
          device::store_shared(products[top + lane.g() + 8 * lower] + device::warp_index() % Part::warps_n,
                               product);
      }
    }
  }

  /// x^ . d of a row, after another barrier.
  __device__ __forceinline__ A coefficient(int row) const {
    return product(row) * device::load_shared(rnorm + row);
  }

  /// d becomes dx; by the warps that hold it.
  __device__ __forceinline__ void project(const typename Part::TileC& x, typename Part::Output& d) const {
    const Lane lane = Lane::opaque();
    const int depth = Part::warp_k(), column = Part::warp_column();
#pragma unroll
    for (int i = 0; i < Part::warp_row_blocks; ++i) {
      const int top = 16 * Part::row_block(i, depth);
      Slopes of_rows[2];
#pragma unroll
      for (int lower = 0; lower < Part::block_rows / 8; ++lower) {
        const int row = top + lane.g() + 8 * lower;
        of_rows[lower] = device::load_shared(slopes + row);
        of_rows[lower][1] *= product(row) * of_rows[lower][0];
      }
      for_each_pair(x, top, column, lane, [&](int m, int n, int lower, A x0, A x1) {
        A* sums = d.sums[i][m][n].values + 2 * lower;
        sums[0] = device::fma(-of_rows[lower][1], x0, sums[0] * of_rows[lower][0]);
        sums[1] = device::fma(-of_rows[lower][1], x1, sums[1] * of_rows[lower][0]);
      });
    }
  }

 private:
  /// x . d of a row.
  __device__ __forceinline__ A product(int row) const {
    A sum{};
#pragma unroll
    for (int w = 0; w < Part::warps_n; w += at_once) {
      const auto parts = device::load_shared(reinterpret_cast<const Together*>(products[row] + w));
#pragma unroll
      for (int e = 0; e < at_once; ++e)
        if (w + e < Part::warps_n) sum += parts[e];
    }
    return sum;
  }

  /// f(m, n, lower, x0, x1): the elements of rows top, ... of x where a lane's sums are.
  template <class F>
  static __device__ __forceinline__ void for_each_pair(const typename Part::TileC& x, int top,
                                                       int first_column, Lane lane, F f) {
#pragma unroll
    for (int m = 0; m < Part::warp_column_blocks; ++m) {
      const int column = first_column + 16 * m;
      if constexpr (sizeof(T) == 2) {
        const auto block = load_rows<Operand::a>(x.below(top), 0, column, lane);
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const std::uint32_t pair = block.r[register_of(Operand::a, e % 2, e / 2)];
          f(m, e / 2, e % 2, device::unpack_low<T>(pair), device::unpack_high<T>(pair));
        }
      } else {
        using Pair = device::Vector<T, 2>;
#pragma unroll
        for (int lower = 0; lower < Part::block_rows / 8; ++lower)
#pragma unroll
          for (int n = 0; n < 2; ++n) {
            const Pair pair = device::load_shared(reinterpret_cast<const Pair*>(
                x.at(top + 8 * lower, column + 8 * n, lane.number() / 4, lane.number() % 4 * 2)));
            f(m, n, lower, pair[0], pair[1]);
          }
      }
    }
  }
};

}  // namespace cottention::sm80
