// Fragments: small matrices in the registers of a warp, and their loads from tiles.
//
// With g = lane / 4 and t = lane % 4 every fragment has the same map from lanes to elements, that of the
// tensor cores' accumulators: a lane holds columns 2t and 2t + 1 of rows g and g + 8. So an accumulator
// becomes an operand, and an operand a becomes an operand b, without exchange among lanes. For 32-bit and
// 64-bit elements this permutes the terms of a product: column t of the instruction is column 2t of the
// fragment, column t + 4 of the instruction column 2t + 1 of the fragment, for both operands.
#pragma once

#include <cstdint>
#include <type_traits>

#include <cottention/device/convert.cuh>
#include <cottention/device/matrix.cuh>
#include <cottention/device/memory.cuh>
#include <cottention/sm80/layout.cuh>
#include <cottention/tile/lane.cuh>

namespace cottention::sm80 {

/// An accumulator (16, 8). A lane's values are (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1).
template <class A>
struct Accumulator {
  A values[4];
};

template <class A>
__device__ __forceinline__ void set_to_zero(Accumulator<A>& sums) {
#pragma unroll
  for (int e = 0; e < 4; ++e) sums.values[e] = A{0};
}

/// MMA's K: the terms of a product that one fragment of an operand holds.
template <Element T>
inline constexpr int mma_k = sizeof(T) == 2 ? 16 : 8;

/// Which operand of a product a fragment (16, mma_k<T>) is; b is taken transposed. The order of a lane's
/// registers follows from it, since instructions take neighbouring ones:
///
///     a     (g, first k), (g + 8, first k), (g, second k), (g + 8, second k)
///     b     (g, first k), (g, second k), (g + 8, first k), (g + 8, second k)
///
/// For 16-bit elements the first k are columns 2t and 2t + 1, the second k columns 2t + 8 and 2t + 9; for
/// 32-bit and 64-bit elements they are column 2t and column 2t + 1.
enum class Operand { a, b };

/// The index of the register of row g + 8 `lower` and of the first (0) or second (1) k.
__host__ __device__ constexpr int register_of(Operand side, int lower, int second) {
  return side == Operand::a ? lower + 2 * second : 2 * lower + second;
}

/// An operand's fragment (16, mma_k<T>), its elements as they are in memory.
template <Element T, Operand side>
struct Fragment {
  using Register = std::conditional_t<sizeof(T) == 2, std::uint32_t, T>;
  Register r[4];
};

/// An operand's fragment (16, mma_k<T>) as the sum high + low of two that the tensor cores take: of 16-bit
/// elements, or of tf32 for fp32.
template <Element T, Operand side>
struct SplitFragment {
  std::uint32_t high[4], low[4];
};

/// The fragment (16, mma_k<T>) whose row i is row `row` + i of the tile, from column `column` on; `row` is a
/// multiple of 16 and `column` of mma_k<T>. Scope: warp; barriers inside: 0.
template <Operand side, Element T, int rows, int columns>
__device__ __forceinline__ Fragment<T, side> load_rows(const Tile<T, rows, columns>& tile, int row,
                                                       int column, tile::Lane at) {
  const unsigned lane = at.number();
  Fragment<T, side> block;
  if constexpr (sizeof(T) == 2) {
    // Lanes 8 i to 8 i + 7 give the addresses of the rows of register i.
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

/// The fragment (16, mma_k<T>) whose row i is column `column` + i of the tile, from row `row` on; `row` is a
/// multiple of mma_k<T> and `column` of 16. Scope: warp; barriers inside: 0.
template <Operand side, Element T, int rows, int columns>
__device__ __forceinline__ Fragment<T, side> load_columns(const Tile<T, rows, columns>& tile, int row,
                                                          int column, tile::Lane at) {
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

/// Stores two neighbouring elements of a tile, rounded.
template <Element T>
__device__ __forceinline__ void store_pair(T* to, Accumulate<T> x0, Accumulate<T> x1) {
  using Pair = device::Vector<T, 2>;
  if constexpr (sizeof(T) == 2)
    device::store_shared(reinterpret_cast<std::uint32_t*>(to), device::pack<T>(x0, x1));
  else
    device::store_shared(reinterpret_cast<Pair*>(to), Pair{{x0, x1}});
}

}  // namespace cottention::sm80
