// Rows of bfloat16 as operands of a matrix unit.
//
// A row whose largest element is not in [2^-16, 2^17) is multiplied by the power of two that brings that to
// [1, 2), which is exact but for elements below 2^-126 of it; these become 0. The inverse belongs to the
// row's factor, in fp32, with the norm and the weight: what rows hold decides little about the range of a
// product.
#if !defined(COTTENTION_CPU_TILE_ROWS_HPP)
#define COTTENTION_CPU_TILE_ROWS_HPP

#include <cottention/cpu/matrix_unit.hpp>
#include <cottention/cpu/rows.hpp>

#if COTTENTION_CPU_TILES

#if defined(__clang__)  // -ffast-math's parts have no macros there: requirements.hpp
#pragma float_control(precise, on, push)
#endif

namespace cottention::cpu::COTTENTION_CPU_TARGET {

/// Vectors as wide as a row of a tile.
struct TileVectors : Simd<float, 64> {
  using Simd<float, 64>::Vector;
  using Simd<float, 64>::Bits;
  typedef std::uint32_t Pairs __attribute__((vector_size(64)));
  typedef std::uint16_t Words __attribute__((vector_size(64)));
  typedef std::uint16_t HalfWords __attribute__((vector_size(32)));

  template <class V, class E>
  [[gnu::always_inline]] static V load_as(const E* p) {
    V v;
    std::memcpy(&v, p, sizeof v);
    return v;
  }
  template <class V, class E>
  [[gnu::always_inline]] static void store_as(E* p, V v) {
    std::memcpy(static_cast<void*>(p), &v, sizeof v);
  }
  [[gnu::always_inline]] static bool any(Bits mask) {
    std::uint64_t part[8], all = 0;
    std::memcpy(part, &mask, sizeof part);
    for (const std::uint64_t x : part) all |= x;
    return all != 0;
  }
  [[gnu::always_inline]] static Vector widen_low(Pairs x) {
    const Pairs low = x << 16;
    return reinterpret_cast<Vector>(low);
  }
  [[gnu::always_inline]] static Vector widen_high(Pairs x) {
    const Pairs high = x & 0xffff0000u;
    return reinterpret_cast<Vector>(high);
  }
};

/// The range of factors with which neither products nor the parts of fp32 operands leave that of fp32.
inline constexpr float min_tile_factor = 0x1p-60f, max_tile_factor = 0x1p60f;

/// Whether all of these are 0 or in that range.
[[gnu::always_inline]] inline bool in_tile_range(TileVectors::Vector x) {
  const TileVectors::Bits inside =
      (x == TileVectors::splat(0)) |
      ((x >= TileVectors::splat(min_tile_factor)) & (x <= TileVectors::splat(max_tile_factor)));
  return !TileVectors::any(~inside);
}

namespace detail {

/// The bits of 1's exponent in bfloat16.
inline constexpr int exponent_of_one = 0x3f80;

/// What a row is known by while it is copied: the largest magnitude, as bits, of two elements of every 32 in
/// each lane, and for Norm::normalize sums of squares.
struct CopiedRow {
  TileVectors::Pairs largest;
  TileVectors::Vector squares;
};

/// The squares of 32 elements, added up in `even` and `odd`.
[[gnu::always_inline]] inline void add_squares(TileVectors::Words x, TileVectors::Vector& even,
                                               TileVectors::Vector& odd) {
  using V = TileVectors;
  const V::Pairs pairs = reinterpret_cast<V::Pairs>(x);
  const V::Vector low = V::widen_low(pairs), high = V::widen_high(pairs);
  even += low * low, odd += high * high;
}

/// Copies a row of `dim` elements, with zeros up to `pitch`, a multiple of tile_depth.
template <Norm norm>
[[gnu::always_inline]] inline CopiedRow copy_row(const bfloat16* row, std::ptrdiff_t dim, std::uint16_t* out,
                                                 std::ptrdiff_t pitch) {
  using V = TileVectors;
  V::Words largest{};
  V::Vector even{}, odd{};
  const V::Words limit = V::Words{} + static_cast<std::uint16_t>(exponent_of_one + (18 << 7));
  const auto put = [&](std::ptrdiff_t c, V::Words x) __attribute__((always_inline)) {
    V::store_as(out + c, x);
    const V::Words magnitude = x & 0x7fff;
    largest = magnitude > largest ? magnitude : largest;
    // No square of what is shifted afterwards may overflow, which could trap.
    if constexpr (norm == Norm::normalize) add_squares(magnitude < limit ? magnitude : limit, even, odd);
  };
  std::ptrdiff_t c = 0;
  for (; c + tile_depth <= dim; c += tile_depth) put(c, V::load_as<V::Words>(row + c));
  if (c < dim) {
    bfloat16 buffer[tile_depth] = {};
    copy_part<tile_depth>(buffer, row + c, dim - c);
    put(c, V::load_as<V::Words>(buffer));
    c += tile_depth;
  }
  for (; c < pitch; c += tile_depth) V::store_as(out + c, V::Words{});
  const V::Pairs pairs = reinterpret_cast<V::Pairs>(largest);
  const V::Pairs low = pairs & 0xffffu, high = pairs >> 16;
  return {low > high ? low : high, even + odd};
}

/// Subtracts `shift` from the exponents of a row; what becomes subnormal becomes 0. Returns, for
/// Norm::normalize, sums of squares of the result.
template <Norm norm>
[[gnu::always_inline]] inline TileVectors::Vector shift_row(std::uint16_t* row, std::ptrdiff_t pitch,
                                                            int shift) {
  using V = TileVectors;
  const auto by = static_cast<std::uint16_t>(shift);
  const auto least = static_cast<std::uint16_t>((shift > 0 ? shift : 0) + 0x80);
  V::Vector low{}, high{};
  for (std::ptrdiff_t c = 0; c < pitch; c += tile_depth) {
    V::Words x = V::load_as<V::Words>(row + c);
    const V::Words magnitude = x & 0x7fff, shifted = x - by;
    x = magnitude >= V::Words{} + least ? shifted : V::Words{};
    V::store_as(row + c, x);
    if constexpr (norm == Norm::normalize) add_squares(x, low, high);
  }
  return low + high;
}

}  // namespace detail

/// Copies rows 0 to count - 1, (count, dim), into `packed`, (filled, pitch), scaled as above, with zeros past
/// dim, a multiple of tile_depth, and past `count`. `filled` is a multiple of 16. `factor`, (filled), becomes
/// what a packed row is to be multiplied by to be norm(x) or x, times `weight`, (count), where that is not
/// null and is readable up to a multiple of 16. Returns false where a row has elements that are not finite,
/// or subnormal ones alone.
template <Norm norm>
bool pack_tile_rows(const RowView<const bfloat16>& rows, int count, int filled, const float* weight,
                    std::uint16_t* packed, std::ptrdiff_t pitch, float* factor) {
  using V = TileVectors;
  constexpr int lanes = V::lanes;
  constexpr std::int32_t one = detail::exponent_of_one, least = one - (16 << 7), most = one + (16 << 7);
  V::Bits bad{};
  for (int first = 0; first < filled; first += lanes) {
    V::Vector block[lanes], squares[lanes];
    std::uint16_t* const out = packed + first * pitch;
    const auto present = [&](int r) { return first + r < count && rows.valid(first + r); };
    for (int r = 0; r < lanes; ++r) {
      detail::CopiedRow copied{};
      if (present(r))
        copied = detail::copy_row<norm>(rows.row(first + r), rows.dim, out + r * pitch, pitch);
      else
        std::memset(out + r * pitch, 0, static_cast<std::size_t>(pitch) * sizeof *out);
      block[r] = reinterpret_cast<V::Vector>(copied.largest);
      squares[r] = copied.squares;
    }
    const V::Bits largest = reinterpret_cast<V::Bits>(combine_lanes<V>(
        block, [&](V::Vector x, V::Vector y) __attribute__((always_inline))->V::Vector {
          return V::select(reinterpret_cast<V::Bits>(x) > reinterpret_cast<V::Bits>(y), x, y);
        }));
    const V::Bits exponents = largest & 0x7f80;
    bad |= (exponents == 0x7f80) | ((largest != 0) & (exponents == 0));
    const V::Bits outside = (largest != 0) & ((exponents < least) | (exponents > most));
    const V::Bits shifts = (exponents - one) & outside;
    if (V::any(outside))
      for (int r = 0; r < lanes; ++r)
        if (shifts[r] != 0)
          squares[r] = detail::shift_row<norm>(out + r * pitch, pitch, static_cast<int>(shifts[r]));
    const V::Bits power_bits = ((shifts + one) & (largest != 0)) << 16;
    V::Vector factors = reinterpret_cast<V::Vector>(power_bits);  // 0 where the row is
    if constexpr (norm == Norm::normalize) {
      // 1 / max(||x||, eps), where ||x|| is the power times the norm of the packed row.
      constexpr float largest_power = 0x1p20f, inverse_epsilon = static_cast<float>(1 / norm_epsilon);
      const V::Vector below = V::splat(largest_power);
      const V::Vector limit = (factors < below ? factors : below) * inverse_epsilon;
      const V::Vector inverse = detail::rsqrt<V>(sums_of<V>(squares));
      factors = inverse < limit ? inverse : limit;
    }
    if (weight != nullptr && first < count) factors *= V::load(weight + first);
    V::store(factor + first, factors);
  }
  return !V::any(bad);
}

/// b^T for products a b^T: `pairs` is (filled / 16, depth / 2, 16), with pair (r, n) of each 16 rows being
/// elements 2r and 2r + 1 of row n.
inline void pair_columns(const std::uint16_t* rows, std::ptrdiff_t pitch, int filled, std::ptrdiff_t depth,
                         std::uint32_t* pairs) {
  using V = TileVectors;
  constexpr int lanes = V::lanes;
  for (int first = 0; first < filled; first += lanes)
    for (std::ptrdiff_t c = 0; c < depth; c += tile_depth) {
      V::Vector block[lanes];
#pragma GCC unroll 16
      for (int r = 0; r < lanes; ++r) block[r] = V::load_as<V::Vector>(rows + (first + r) * pitch + c);
      transpose<V>(block);
      std::uint32_t* const to = pairs + (first * depth + c * lanes) / 2;
#pragma GCC unroll 16
      for (int r = 0; r < lanes; ++r) V::store_as(to + r * lanes, block[r]);
    }
}

/// c for products with keys as terms: `pairs` is (filled / 32, columns / 16, 16, 16), with pair (r, n) of
/// each tile being element n of rows r and r + 16 of the 32. Operands on the left have their terms in the
/// same order.
inline void pair_rows(const std::uint16_t* rows, std::ptrdiff_t pitch, int filled, std::ptrdiff_t columns,
                      std::uint32_t* pairs) {
  using V = TileVectors;
  constexpr int lanes = V::lanes;
  for (int first = 0; first < filled; first += tile_depth)
    for (std::ptrdiff_t c = 0; c < columns; c += lanes)
#pragma GCC unroll 4
      for (int r = 0; r < lanes; ++r, pairs += lanes) {
        const std::uint16_t* const at = rows + (first + r) * pitch + c;
        const V::Pairs low = __builtin_convertvector(V::load_as<V::HalfWords>(at), V::Pairs);
        const V::Pairs high = __builtin_convertvector(V::load_as<V::HalfWords>(at + lanes * pitch), V::Pairs);
        V::store_as(pairs, low | high << 16);
      }
}

/// Splits the fp32 elements x and y into `parts` bfloat16 ones, whose sums they are: of two parts to 2^-16,
/// of three exactly. Part p of both, as pairs, goes to `to` + p * part_step.
template <int parts>
[[gnu::always_inline]] inline void store_parts(TileVectors::Vector x, TileVectors::Vector y,
                                               std::uint32_t* to, std::ptrdiff_t part_step) {
  using V = TileVectors;
#pragma GCC unroll 3
  for (int p = 0; p < parts; ++p) {
    const V::Pairs x_bits = reinterpret_cast<V::Pairs>(x) + 0x8000u;
    const V::Pairs y_bits = reinterpret_cast<V::Pairs>(y) + 0x8000u;
    const V::Pairs y_high = y_bits & 0xffff0000u;
    V::store_as(to + p * part_step, (x_bits >> 16) | y_high);
    if (p + 1 < parts) {
      x -= V::widen_high(x_bits);
      y -= reinterpret_cast<V::Vector>(y_high);
    }
  }
}

}  // namespace cottention::cpu::COTTENTION_CPU_TARGET

#if defined(__clang__)
#pragma float_control(pop)
#endif

#endif

#endif
