// Small matrices spread over the registers of a warp.
//
// With g = lane / 4 and t = lane % 4 every matrix here has the same map from lanes to elements, that of the
// tensor cores' sums: a lane holds columns 2t and 2t + 1 of rows g and g + 8. So sums become operands, and an
// operand on the left becomes one on the right, without any exchange. For 32-bit and 64-bit elements this
// reorders the terms of a product: the instruction's column t is our 2t, its column t + 4 our 2t + 1, on both
// sides.
#pragma once

#include <cstdint>
#include <type_traits>

#include <cottention/device/convert.cuh>
#include <cottention/device/matrix.cuh>
#include <cottention/device/memory.cuh>
#include <cottention/device/thread.cuh>
#include <cottention/sm80/layout.cuh>

namespace cottention::sm80 {

/// A lane of a warp. Each part of a chunk's work takes its lane opaque: addresses in tiles follow from it, a
/// great many of them, and would otherwise be computed once for all chunks and kept.
struct Lane {
  int index;
  static __device__ __forceinline__ Lane opaque() { return {device::opaque(device::lane_index())}; }
  __device__ __forceinline__ unsigned number() const { return static_cast<unsigned>(index); }
  __device__ __forceinline__ int g() const { return static_cast<int>(number() / 4); }
  __device__ __forceinline__ int t() const { return static_cast<int>(number() % 4); }
};

/// 16 x 8 sums: (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1).
template <class A>
struct Accumulator {
  A values[4];
};

template <class A>
__device__ __forceinline__ void set_to_zero(Accumulator<A>& sums) {
#pragma unroll
  for (int e = 0; e < 4; ++e) sums.values[e] = A{0};
}

/// Terms of a product that one block holds.
template <Element T>
inline constexpr int mma_k = sizeof(T) == 2 ? 16 : 8;

/// Where an operand, 16 x mma_k<T>, stands in a product, and so the order of its registers: instructions take
/// neighbouring ones. With "k.." the columns 2t, 2t + 1 of each 8 (16-bit elements), or column 2t or 2t + 1
/// of the 8:
///
///     left     (g, first k), (g + 8, first k), (g, second k), (g + 8, second k)
///     right    (g, first k), (g, second k), (g + 8, first k), (g + 8, second k)      taken transposed
enum class Operand { a, b };

/// The register of rows g + 8 `lower` and the first or second k.
__host__ __device__ constexpr int register_of(Operand side, int lower, int second) {
  return side == Operand::a ? lower + 2 * second : 2 * lower + second;
}

/// An operand as it is in memory.
template <Element T, Operand side>
struct Fragment {
  using Register = std::conditional_t<sizeof(T) == 2, std::uint32_t, T>;
  Register r[4];
};

/// An operand as the sum of two that the tensor cores take: 16-bit elements, or tf32 for fp32.
template <Element T, Operand side>
struct SplitFragment {
  std::uint32_t high[4], low[4];
};

/// Rows of the tile are rows of the block: (row.., column..), 16 x mma_k<T>. Both are multiples of 16, or of
/// mma_k<T>.
template <Operand side, Element T, int rows, int columns>
__device__ __forceinline__ Fragment<T, side> load_rows(const Tile<T, rows, columns>& tile, int row,
                                                       int column, Lane at) {
  const unsigned lane = at.number();
  Fragment<T, side> block;
  if constexpr (sizeof(T) == 2) {
    // Lanes 0 to 7 give the rows of register 0, and so on.
    const unsigned lower = side == Operand::a ? lane / 8 % 2 : lane / 16;
    const unsigned second = side == Operand::a ? lane / 16 : lane / 8 % 2;
    device::ldmatrix_x4(block.r, tile.at(row, column, lane % 8 + 8 * lower, 8 * second));
  } else {
    using Pair = device::Vector<T, 2>;
    const unsigned g = lane / 4, t = lane % 4;
#pragma unroll
    for (int lower = 0; lower < 2; ++lower) {
      const Pair pair =
          device::load_shared(reinterpret_cast<const Pair*>(tile.at(row + 8 * lower, column, g, 2 * t)));
      block.r[register_of(side, lower, 0)] = pair[0];
      block.r[register_of(side, lower, 1)] = pair[1];
    }
  }
  return block;
}

/// Columns of the tile are rows of the block: (row.., column..), mma_k<T> x 16, transposed. Likewise.
template <Operand side, Element T, int rows, int columns>
__device__ __forceinline__ Fragment<T, side> load_columns(const Tile<T, rows, columns>& tile, int row,
                                                          int column, Lane at) {
  const unsigned lane = at.number();
  Fragment<T, side> block;
  if constexpr (sizeof(T) == 2) {
    const unsigned lower = side == Operand::a ? lane / 8 % 2 : lane / 16;
    const unsigned second = side == Operand::a ? lane / 16 : lane / 8 % 2;
    device::ldmatrix_x4_trans(block.r, tile.at(row, column, lane % 8 + 8 * second, 8 * lower));
  } else {
    const unsigned g = lane / 4, t = lane % 4;
#pragma unroll
    for (int e = 0; e < 4; ++e)
      block.r[register_of(side, e % 2, e / 2)] =
          device::load_shared(tile.at(row, column + e % 2 * 8, 2 * t + static_cast<unsigned>(e) / 2, g));
  }
  return block;
}

/// Writes two neighbours, rounded.
template <Element T>
__device__ __forceinline__ void store_pair(T* to, Accumulate<T> x0, Accumulate<T> x1) {
  using Pair = device::Vector<T, 2>;
  if constexpr (sizeof(T) == 2)
    device::store_shared(reinterpret_cast<std::uint32_t*>(to), device::pack<T>(x0, x1));
  else
    device::store_shared(reinterpret_cast<Pair*>(to), Pair{{x0, x1}});
}

}  // namespace cottention::sm80
