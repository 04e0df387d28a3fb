// Backward through the norm of a chunk's rows (tile/norm_backward.cuh has the formula).
#pragma once

#include <cottention/device/barrier.cuh>
#include <cottention/sm80/measure.cuh>
#include <cottention/sm80/partition.cuh>
#include <cottention/tile/norm_backward.cuh>

namespace cottention::sm80 {

/// What the rows x of a chunk take, in shared memory. A block has all of their columns.
template <class Part>
struct NormBackward {
  using T = typename Part::T;
  using A = typename Part::A;
  using Row = tile::NormBackward<A>;
  static constexpr int vec_size = 16 / static_cast<int>(sizeof(A));
  static constexpr int pitch = round_up(Part::warps_n, vec_size);

  alignas(16) Row rows[Part::chunk];           // (chunk)
  alignas(16) A rnorm[Part::chunk];            // (chunk): of x, times the factor that d lacks
  alignas(16) A products[Part::chunk][pitch];  // (chunk, warps_n): x . d over each warp's columns

  /// Sets a row's factors from its norm. `factor`: what its d lacks.
  __device__ __forceinline__ void set(int row, const tile::RowNorm<A>& norm, A rnorm_of_x, A factor = A{1}) {
    device::store_shared(rnorm + row, rnorm_of_x * factor);
    device::store_shared(rows + row, Row::of(norm, rnorm_of_x, factor));
  }
  __device__ __forceinline__ A scale(int row) const { return device::load_shared(rows + row).scale; }

  /// Sums x . d over the warp's columns. x: (chunk, columns); d: rows of the output. Scope: warps that hold
  /// d, after a barrier that follows set(); no barrier inside.
  __device__ __forceinline__ void multiply(const typename Part::TileC& x, const typename Part::Output& d) {
    const tile::Lane lane = tile::Lane::opaque();
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

  /// x^ . d of a row, after a barrier that follows multiply().
  __device__ __forceinline__ A coefficient(int row) const {
    return product(row) * device::load_shared(rnorm + row);
  }

  /// d becomes dx. Scope: warps that hold d, after a barrier that follows multiply(); no barrier inside.
  __device__ __forceinline__ void project(const typename Part::TileC& x, typename Part::Output& d) const {
    const tile::Lane lane = tile::Lane::opaque();
    const int depth = Part::warp_k(), column = Part::warp_column();
#pragma unroll
    for (int i = 0; i < Part::warp_row_blocks; ++i) {
      const int top = 16 * Part::row_block(i, depth);
      Row of_rows[2];
      A along[2];
#pragma unroll
      for (int lower = 0; lower < Part::block_rows / 8; ++lower) {
        const int row = top + lane.g() + 8 * lower;
        of_rows[lower] = device::load_shared(rows + row);
        along[lower] = of_rows[lower].along(product(row));
      }
      for_each_pair(x, top, column, lane, [&](int m, int n, int lower, A x0, A x1) {
        A* sums = d.sums[i][m][n].values + 2 * lower;
        sums[0] = of_rows[lower](sums[0], x0, along[lower]);
        sums[1] = of_rows[lower](sums[1], x1, along[lower]);
      });
    }
  }

 private:
  using Vec = device::Vector<A, vec_size>;

  /// x . d of a row.
  __device__ __forceinline__ A product(int row) const {
    A sum{};
#pragma unroll
    for (int w = 0; w < Part::warps_n; w += vec_size) {
      const auto parts = device::load_shared(reinterpret_cast<const Vec*>(products[row] + w));
#pragma unroll
      for (int e = 0; e < vec_size; ++e)
        if (w + e < Part::warps_n) sum += parts[e];
    }
    return sum;
  }

  /// Calls f(m, n, lower, x0, x1) with the elements of rows top, ... of x that belong to a lane's sums of
  /// block m.
  template <class F>
  static __device__ __forceinline__ void for_each_pair(const typename Part::TileC& x, int top,
                                                       int first_column, tile::Lane lane, F f) {
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
