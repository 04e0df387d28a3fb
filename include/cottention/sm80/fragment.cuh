// Small matrices spread over the registers of a warp.
//
// With g = lane / 4 and t = lane % 4 every matrix here has the same map from lanes to elements, that of the
// tensor cores' sums: a lane holds columns 2t and 2t + 1 of rows g and g + 8. So sums become operands, and an
// operand on the left becomes one on the right, without any exchange. For 32-bit and 64-bit elements this
// reorders the terms of a product: the instruction's column t is our 2t, its column t + 4 our 2t + 1, on both
// sides.
#pragma once

#include <concepts>
#include <cstdint>
#include <type_traits>

#include <cottention/device/convert.cuh>
#include <cottention/device/math.cuh>
#include <cottention/device/matrix.cuh>
#include <cottention/device/memory.cuh>
#include <cottention/device/mma.cuh>
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

// ---- from shared memory
// --------------------------------------------------------------------------------------------

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

// ---- numbers into operands
// -----------------------------------------------------------------------------------------

namespace detail {

/// high + low = x to the precision of two numbers of the tensor cores' type.
template <Element T>
__device__ __forceinline__ void split(float x0, float x1, std::uint32_t& high, std::uint32_t& low) {
  high = device::pack<T>(x0, x1);
  low = device::pack<T>(x0 - device::unpack_low<T>(high), x1 - device::unpack_high<T>(high));
}
__device__ __forceinline__ void split_tf32(float x, std::uint32_t& high, std::uint32_t& low) {
  high = device::round_to_tf32(x);
  low = device::round_to_tf32(x - device::bits_as<float>(high));
}

}  // namespace detail

/// What the tensor cores take for `block`, with no rounding beyond that of fp32.
template <Element T, Operand side>
__device__ __forceinline__ auto to_operand(const Fragment<T, side>& block) {
  if constexpr (std::same_as<T, float>) {
    SplitFragment<T, side> split;
#pragma unroll
    for (int e = 0; e < 4; ++e) detail::split_tf32(block.r[e], split.high[e], split.low[e]);
    return split;
  } else {
    return block;
  }
}

/// Factors of a chunk's terms, in shared memory. bfloat16 has each as a sum of two as well, for products that
/// need no fp32: of neighbours the high parts, then the low ones.
template <Element T, int chunk>
struct TermFactors {
  using A = Accumulate<T>;
  static constexpr bool split = std::same_as<T, bfloat16>;
  alignas(16) A full[chunk];
  alignas(16) T hi_lo[split ? 2 * chunk : 1];

  __device__ __forceinline__ void set(int term, A x) {
    device::store_shared(full + term, x);
    if constexpr (split) {
      const T high = device::narrow<T>(x);
      T* const at = hi_lo + term / 2 * 4 + term % 2;
      device::store_shared(at, high);
      device::store_shared(at + 2, device::narrow<T>(x - device::widen<T>(high)));
    }
  }
};

/// Those of the terms that a lane holds: of its first k, and of its second.
template <Element T>
struct LaneFactors {
  Accumulate<T> f[2][mma_k<T> / 8];
};
template <>
struct LaneFactors<bfloat16> {
  std::uint32_t high[2], low[2];
};
template <Element T, int chunk>
__device__ __forceinline__ LaneFactors<T> load_factors(const TermFactors<T, chunk>& shared, int first,
                                                       Lane lane) {
  constexpr int pairs = mma_k<T> / 8;
  LaneFactors<T> factors;
#pragma unroll
  for (int p = 0; p < pairs; ++p) {
    const int at = first + 8 * p + 2 * lane.t();
    if constexpr (TermFactors<T, chunk>::split) {
      const auto pair = device::load_shared(
          reinterpret_cast<const device::Vector<std::uint32_t, 2>*>(shared.hi_lo + 2 * at));
      factors.high[p] = pair[0];
      factors.low[p] = pair[1];
    } else {
      const auto pair =
          device::load_shared(reinterpret_cast<const device::Vector<Accumulate<T>, 2>*>(shared.full + at));
#pragma unroll
      for (int e = 0; e < 2; ++e) factors.f[pairs == 2 ? p : e][pairs == 2 ? e : 0] = pair[e];
    }
  }
  return factors;
}

/// The block on the left, with each term multiplied, to about fp32's precision (fp64's for fp64); for
/// bfloat16 to 2^-15 of the product.
template <Element T, Operand side>
__device__ __forceinline__ auto scaled_a(const Fragment<T, side>& block, const LaneFactors<T>& factors) {
  if constexpr (sizeof(T) == 2) {
    SplitFragment<T, Operand::a> split;
#pragma unroll
    for (int lower = 0; lower < 2; ++lower)
#pragma unroll
      for (int second = 0; second < 2; ++second) {
        const std::uint32_t pair = block.r[register_of(side, lower, second)];
        const int to = register_of(Operand::a, lower, second);
        if constexpr (std::same_as<T, bfloat16>) {
          constexpr std::uint32_t minus_zero = 0x80008000, signs = minus_zero;
          const std::uint32_t high = device::fma_pair<T>(pair, factors.high[second], minus_zero);
          // What that has rounded off is a bfloat16.
          const std::uint32_t rest = device::fma_pair<T>(pair, factors.high[second], high ^ signs);
          split.high[to] = high;
          split.low[to] = device::fma_pair<T>(pair, factors.low[second], rest);
        } else {
          detail::split<T>(device::unpack_low<T>(pair) * factors.f[second][0],
                           device::unpack_high<T>(pair) * factors.f[second][1], split.high[to],
                           split.low[to]);
        }
      }
    return split;
  } else {
    Fragment<T, Operand::a> scaled;
#pragma unroll
    for (int lower = 0; lower < 2; ++lower)
#pragma unroll
      for (int second = 0; second < 2; ++second)
        scaled.r[register_of(Operand::a, lower, second)] =
            block.r[register_of(side, lower, second)] * factors.f[second][0];
    return to_operand(scaled);
  }
}

/// mma_k<T> / 8 neighbouring sums, 16 x mma_k<T>, as an operand on the right. For half, times `scale`: the
/// other types have the range of the sums.
template <Element T>
__device__ __forceinline__ auto b_operand(const Accumulator<Accumulate<T>>* sums,
                                          [[maybe_unused]] Accumulate<T> scale) {
  if constexpr (sizeof(T) == 2) {
    SplitFragment<T, Operand::b> split;
#pragma unroll
    for (int lower = 0; lower < 2; ++lower)
#pragma unroll
      for (int second = 0; second < 2; ++second) {
        const float* pair = sums[second].values + 2 * lower;
        const int to = register_of(Operand::b, lower, second);
        if constexpr (std::same_as<T, half>)
          detail::split<T>(pair[0] * scale, pair[1] * scale, split.high[to], split.low[to]);
        else
          detail::split<T>(pair[0], pair[1], split.high[to], split.low[to]);
      }
    return split;
  } else {
    Fragment<T, Operand::b> block;
#pragma unroll
    for (int e = 0; e < 4; ++e) block.r[register_of(Operand::b, e / 2, e % 2)] = sums->values[e];
    return to_operand(block);
  }
}

// ---- products
// ------------------------------------------------------------------------------------------------------

namespace detail {

/// One instruction for each half of the 16 columns.
template <Element T>
__device__ __forceinline__ void multiply(Accumulator<float> (&d)[2], const std::uint32_t (&a)[4],
                                         const std::uint32_t (&b)[4]) {
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    const std::uint32_t right[2] = {b[2 * n], b[2 * n + 1]};
    if constexpr (std::same_as<T, float>)
      device::mma_m16n8k8_tf32(d[n].values, a, right);
    else
      device::mma_m16n8k16<T>(d[n].values, a, right);
  }
}

}  // namespace detail

/// d += a b^T: (16, terms) (16, terms)^T -> (16, 16). Small terms first.
template <Element T>
__device__ __forceinline__ void multiply(Accumulator<Accumulate<T>> (&d)[2], const Fragment<T, Operand::a>& a,
                                         const Fragment<T, Operand::b>& b) {
  if constexpr (sizeof(T) == 2) {
    detail::multiply<T>(d, a.r, b.r);
  } else {
    static_assert(std::same_as<T, double>, "fp32 is split");
#pragma unroll
    for (int e = 0; e < 8; ++e) {  // two halves of the columns, of the rows, of the terms
      const int n = e / 4, m = e / 2 % 2, k = e % 2;
      double part[2] = {d[n].values[2 * m], d[n].values[2 * m + 1]};
      device::mma_m8n8k4_f64(part, a.r[register_of(Operand::a, m, k)], b.r[register_of(Operand::b, n, k)]);
      d[n].values[2 * m] = part[0];
      d[n].values[2 * m + 1] = part[1];
    }
  }
}
template <Element T>
__device__ __forceinline__ void multiply(Accumulator<float> (&d)[2], const Fragment<T, Operand::a>& a,
                                         const SplitFragment<T, Operand::b>& b) {
  detail::multiply<T>(d, a.r, b.low);
  detail::multiply<T>(d, a.r, b.high);
}
template <Element T>
__device__ __forceinline__ void multiply(Accumulator<float> (&d)[2], const SplitFragment<T, Operand::a>& a,
                                         const Fragment<T, Operand::b>& b) {
  detail::multiply<T>(d, a.low, b.r);
  detail::multiply<T>(d, a.high, b.r);
}

// ---- questions
// -----------------------------------------------------------------------------------------------------

/// Watches elements go by: 0 times what is not finite is NaN, and stays in the sum.
template <Element T>
class FiniteCheck {
 public:
  template <Operand side>
  __device__ __forceinline__ void see(const Fragment<T, side>& block) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      if constexpr (sizeof(T) == 2)
        sum_ = device::fma_pair<T>(block.r[e], 0u, sum_);
      else
        sum_ = device::fma(block.r[e], T{0}, sum_);
    }
  }
  /// Whether all of this lane's were finite.
  __device__ __forceinline__ bool all_finite() const {
    if constexpr (sizeof(T) == 2)
      return sum_ == 0;
    else
      return device::is_finite(sum_);
  }

 private:
  typename Fragment<T, Operand::a>::Register sum_{};
};

}  // namespace cottention::sm80
