// The state of a recurrence, H = sum of b_j c_j^T, in the accumulators of a block, transposed: H^T (columns
// of c, columns of b), in fp32, or fp64 for fp64 elements. The Problem of a State has the columns of b as
// dim_qk and those of c as dim_v, also where a recurrence of the backward pass exchanges queries, keys and
// values (kernel/roles.cuh).
#pragma once

#include <concepts>
#include <cstdint>

#include <cottention/device/barrier.cuh>
#include <cottention/device/warp.cuh>
#include <cottention/recurrence.hpp>
#include <cottention/sm80/measure.cuh>
#include <cottention/sm80/partition.cuh>
#include <cottention/sm80/pending.cuh>
#include <cottention/tile/exponents.cuh>
#include <cottention/tile/over_warp.cuh>

namespace cottention::sm80 {

/// Each warp of the block has (warp_columns, warp_depth) of H^T, those of Partition.
template <AnyProblem P, Tiling tiling>
class State {
 public:
  using Part = Partition<P, tiling>;
  using T = typename Part::T;
  using A = typename Part::A;

  __device__ __forceinline__ void set_zero() {
    for_each([](Accumulator<A>& sums, int, int) { set_to_zero(sums); });
  }

  // ---- H (dim_qk, dim_v) in global memory, of which the block has columns `column`, ...

  __device__ __forceinline__ void load(const A* h, recurrence::StateLayout layout, int column) {
    for_each_element(layout, column, [h](A& x, std::int64_t offset, bool exists) {
      x = exists ? device::load_global(h + offset) : A{0};
    });
  }
  __device__ __forceinline__ void store(A* h, recurrence::StateLayout layout, int column) {
    for_each_element(layout, column, [h](A& x, std::int64_t offset, bool exists) {
      if (exists) device::store_global(h + offset, x);
    });
  }

  // ---- partial states (partial_elements), which pass states between kernels: register by register, so that
  // the order of elements is that of the Tiling

  static constexpr std::int64_t partial_elements = std::int64_t{Part::columns} * Part::depth;

  __device__ __forceinline__ void load_partial(const A* partial) {
    for_each_vector([partial](Vec& vec, int index) {
      vec = device::load_global(reinterpret_cast<const Vec*>(partial) + index);
    });
  }
  __device__ __forceinline__ void store_partial(A* partial) {
    for_each_vector([partial](Vec& vec, int index) {
      device::store_global(reinterpret_cast<Vec*>(partial) + index, vec);
    });
  }

  // ---- arithmetic

  /// out = a H over this warp's rows of H, (chunk, warp_depth) x (warp_depth, warp_columns) -> (chunk,
  /// warp_columns), without split-M; for half, times `factor`. H is split into high and low parts, so that it
  /// has fp32's precision in the product. Scope: warp; barriers inside: 0.
  __device__ __forceinline__ void apply(const typename Part::TileAB& a, typename Part::Output& out,
                                        [[maybe_unused]] A factor = A{1}) const {
    static_assert(!Part::splits_m);
    const tile::Lane lane = tile::Lane::opaque();
    const int row = Part::warp_row(), exponent = operand_exponent();
    const A scale = device::times_power_of_two(A{1}, -exponent);
    Pending<T> pending[Part::row_blocks][Part::warp_column_blocks];
#pragma unroll
    for (int i = 0; i < Part::row_blocks; ++i)
#pragma unroll
      for (int m = 0; m < Part::warp_column_blocks; ++m) {
        clear_pair(out.sums[i][m]);
        set_to_zero(pending[i][m]);
      }
#pragma unroll
    for (int k = 0; k < Part::warp_depth; k += mma_k<T>) {
#pragma unroll
      for (int m = 0; m < Part::warp_column_blocks; ++m) {
        const auto right = b_operand<T>(&h_[m][k / 8], scale);
#pragma unroll
        for (int i = 0; i < Part::row_blocks; ++i) {
          multiply<T>(out.sums[i][m], pending[i][m],
                      to_operand(load_rows<Operand::a>(a, 16 * i, row + k, lane)), right);
          settle<T>(out.sums[i][m], pending[i][m], k / mma_k<T> + 1, Part::warp_depth / mma_k<T>);
        }
      }
    }
    if constexpr (std::same_as<T, half>) {
      const A back = device::times_power_of_two(factor, exponent);
#pragma unroll
      for (int i = 0; i < Part::row_blocks; ++i)
#pragma unroll
        for (int m = 0; m < Part::warp_column_blocks; ++m)
#pragma unroll
          for (int e = 0; e < 8; ++e) out.sums[i][m][e / 4].values[e % 4] *= back;
    }
  }

  /// H += weight sum over j of b_j (factor_j c_j)^T, b (chunk, depth) in a tile and c^T (warp_columns, chunk)
  /// in registers: (warp_columns, chunk) x (chunk, warp_depth) -> (warp_columns, warp_depth) of H^T. The sum
  /// over the chunk starts from zero and is added to H with rounding: tensor cores truncate, so a running sum
  /// would drift. For half, factors are at most 2^factor_exponent. Scope: warp; barriers inside: 0.
  __device__ __forceinline__ void absorb(const typename Part::TileAB& b, const typename Part::Values& c,
                                         const tile::TermFactors<T, Part::chunk>& term_factors,
                                         [[maybe_unused]] int factor_exponent, A weight) {
    const tile::Lane lane = tile::Lane::opaque();
    const int row = Part::warp_row();
    using Scaled = decltype(scaled_a(c.blocks[0][0], LaneFactors<T>{}));
    Scaled left[Part::warp_column_blocks][Part::term_blocks];
    const int exponent = std::same_as<T, half> ? values_exponent(c) + factor_exponent : 0;
    const A up = device::times_power_of_two(A{1}, -exponent);
    if constexpr (std::same_as<T, half>) weight = device::times_power_of_two(weight, exponent);
#pragma unroll
    for (int j = 0; j < Part::term_blocks; ++j) {
      LaneFactors<T> factors = load_factors(term_factors, j * mma_k<T>, lane);
      if constexpr (std::same_as<T, half>)
#pragma unroll
        for (int e = 0; e < 4; ++e) factors.f[e / 2][e % 2] *= up;
#pragma unroll
      for (int m = 0; m < Part::warp_column_blocks; ++m) left[m][j] = scaled_a(c.blocks[m][j], factors);
    }
#pragma unroll
    for (int k = 0; k < Part::warp_depth; k += block_width) {
      if (k > 0 && k % 32 == 0) limit_reordering();
      Accumulator<A> added[Part::warp_column_blocks][2];
      Pending<T> pending[Part::warp_column_blocks];
#pragma unroll
      for (int m = 0; m < Part::warp_column_blocks; ++m) {
        clear_pair(added[m]);
        set_to_zero(pending[m]);
      }
#pragma unroll
      for (int j = 0; j < Part::term_blocks; ++j) {
        const auto right = to_operand(load_columns<Operand::b>(b, j * mma_k<T>, row + k, lane));
#pragma unroll
        for (int m = 0; m < Part::warp_column_blocks; ++m) {
          multiply<T>(added[m], pending[m], left[m][j], right);
          settle<T>(added[m], pending[m], j + 1, Part::term_blocks);
        }
      }
#pragma unroll
      for (int m = 0; m < Part::warp_column_blocks; ++m)
#pragma unroll
        for (int e = 0; e < 8; ++e) {
          A& h = h_[m][k / 8 + e / 4].values[e % 4];
          h = device::fma(weight, added[m][e / 4].values[e % 4], h);
        }
    }
  }

  /// The largest magnitude among the finite elements of the warp's part of H, in all lanes. Scope: warp;
  /// barriers inside: 0.
  __device__ __forceinline__ float largest() const {
    // Bits of magnitudes, shifted left by 1, have the order of the magnitudes. Adding 1 to the exponent makes
    // those of infinities and NaNs overflow to the smallest keys.
    constexpr std::uint32_t one_exponent = 1u << 24;
    std::uint32_t max_key = one_exponent;
    for_each_pair([&max_key](A x0, A x1, int, int, int) {
      for (const A x : {x0, x1}) {
        const std::uint32_t key = (device::bits_as<std::uint32_t>(x) << 1) + one_exponent;
        max_key = key > max_key ? key : max_key;
      }
    });
    return tile::max_over_warp(device::bits_as<float>((max_key - one_exponent) >> 1));
  }

  /// f(x0, x1, m, lower, n) for each pair of the lane: elements (16 m + g + 8 lower, 8 n + 2 t) and (same, 8
  /// n + 2 t + 1) of the warp's part of H^T.
  template <class F>
  __device__ __forceinline__ void for_each_pair(F f) const {
#pragma unroll
    for (int m = 0; m < Part::warp_column_blocks; ++m)
#pragma unroll
      for (int n = 0; n < depth_blocks; ++n)
#pragma unroll
        for (int lower = 0; lower < 2; ++lower)
          f(h_[m][n].values[2 * lower], h_[m][n].values[2 * lower + 1], m, lower, n);
  }

  /// The sum over this lane's elements of (H - h)^2, h in global memory; null: of H^2.
  __device__ __forceinline__ A squared_distance(const A* h, recurrence::StateLayout layout, int column) {
    A sum{};
    for_each_element(layout, column, [h, &sum](A& x, std::int64_t offset, bool exists) {
      const A difference = x - (exists && h != nullptr ? device::load_global(h + offset) : A{0});
      sum = device::fma(difference, difference, sum);
    });
    return sum;
  }

  /// The sum of the squares of this lane's elements.
  __device__ __forceinline__ A squares() {
    A sum{};
    for_each([&sum](Accumulator<A>& sums, int, int) {
#pragma unroll
      for (int e = 0; e < 4; ++e) sum = device::fma(sums.values[e], sums.values[e], sum);
    });
    return sum;
  }

 private:
  using Vec = device::Vector<A, 16 / static_cast<int>(sizeof(A))>;
  static constexpr int depth_blocks = Part::warp_depth / 8;  // accumulators along warp_depth

  /// A warp barrier before which compilers do not move loads that follow it: accumulators of later columns
  /// are not begun early. For half and fp64, which keep the most numbers in registers.
  static __device__ __forceinline__ void limit_reordering() {
    if (sizeof(T) != 4 && !std::same_as<T, bfloat16> && Part::warp_depth > 64) device::sync_warp();
  }

  static __device__ __forceinline__ void clear_pair(Accumulator<A> (&sums)[2]) {
    set_to_zero(sums[0]);
    set_to_zero(sums[1]);
  }

  template <class F>
  __device__ __forceinline__ void for_each(F f) {
#pragma unroll
    for (int m = 0; m < Part::warp_column_blocks; ++m)
#pragma unroll
      for (int n = 0; n < depth_blocks; ++n) f(h_[m][n], m, n);
  }

  /// f(element, offset, exists) for each element of the lane, `offset` being where it is in H in global
  /// memory.
  template <class F>
  __device__ __forceinline__ void for_each_element(recurrence::StateLayout layout, int column, F f) {
    constexpr int rows = P::head_dim.qk, columns = P::head_dim.v;
    const std::int64_t row_stride = layout == recurrence::StateLayout::as_is ? columns : 1;
    const std::int64_t column_stride = layout == recurrence::StateLayout::as_is ? 1 : rows;
    const tile::Lane lane = tile::Lane::opaque();
    const int first_row = Part::warp_row() + 2 * lane.t(),
              first_column = column + Part::warp_column() + lane.g();
    std::int64_t at = first_row * row_stride + first_column * column_stride;
    for_each([&](Accumulator<A>& sums, int m, int n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int r = first_row + 8 * n + e % 2, c = first_column + 16 * m + e / 2 * 8;
        f(sums.values[e], at + e % 2 * row_stride + e / 2 * 8 * column_stride, c < columns && r < rows);
      }
      at += n + 1 < depth_blocks ? 8 * row_stride : 16 * column_stride - (depth_blocks - 1) * 8 * row_stride;
    });
  }

  /// f(vector, index) for the lane's accumulators, 16 bytes at a time; neighbouring lanes have neighbouring
  /// indices.
  template <class F>
  __device__ __forceinline__ void for_each_vector(F f) {
    constexpr int each = 4 * static_cast<int>(sizeof(A)) / 16;
    for_each([&](Accumulator<A>& sums, int m, int n) {
#pragma unroll
      for (int p = 0; p < each; ++p) {
        Vec vec;
#pragma unroll
        for (int e = 0; e < 4 / each; ++e) vec[e] = sums.values[p * (4 / each) + e];
        f(vec, ((m * depth_blocks + n) * each + p) * Part::threads + device::thread_index());
#pragma unroll
        for (int e = 0; e < 4 / each; ++e) sums.values[p * (4 / each) + e] = vec[e];
      }
    });
  }

  /// The exponent of the power of two that H is divided by to be an operand: 0 but for half, whose range ends
  /// at 65,504 and whose precision decreases below 2^-14. For half the largest element is then in [2^14,
  /// 2^15).
  __device__ __forceinline__ int operand_exponent() const {
    if constexpr (std::same_as<T, half>)
      return tile::exponent_for_half(largest());
    else
      return 0;
  }

  /// The exponent of the power of two that c is divided by: the low parts of small values would be below
  /// half's range.
  static __device__ __forceinline__ int values_exponent([[maybe_unused]] const typename Part::Values& c) {
    if constexpr (!std::same_as<T, half>) {
      return 0;
    } else {
      // Elements that are not finite do not count.
      const auto largest = [&c]<bool examines>() {
        float largest = 0;
#pragma unroll
        for (int m = 0; m < Part::warp_column_blocks; ++m)
#pragma unroll
          for (int j = 0; j < Part::term_blocks; ++j)
#pragma unroll
            for (int e = 0; e < 4; ++e)
              for (const float element : {device::unpack_low<T>(c.blocks[m][j].r[e]),
                                          device::unpack_high<T>(c.blocks[m][j].r[e])}) {
                const float magnitude = device::magnitude(element);
                largest =
                    magnitude > largest && (!examines || device::is_finite(magnitude)) ? magnitude : largest;
              }
        return tile::max_over_warp(largest);
      };
      const float of_all = largest.template operator()<false>();
      return tile::exponent_for_half(device::is_finite(of_all) ? of_all
                                                               : largest.template operator()<true>());
    }
  }

  Accumulator<A> h_[Part::warp_column_blocks][depth_blocks];  // H^T, (16, 8) each
};

}  // namespace cottention::sm80
