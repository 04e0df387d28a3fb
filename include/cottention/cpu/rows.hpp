// Rows between the caller's tensors and a chunk's scratch: gathered, widened, normalised, weighted and masked
// on the way in; projected, weighted, masked and narrowed on the way out.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include <cottention/cpu/convert.hpp>
#include <cottention/problem.hpp>

namespace cottention::cpu {

/// Rows of one head of one sequence in the order in which they are walked: row t at data + t * stride. A
/// masked row reads as 0 whatever bits it holds, and is written as 0.
template <class T>
struct Rows {
  T* data = nullptr;
  std::int64_t stride = 0;
  const std::uint8_t* mask = nullptr;  // one byte a row; null: all present
  std::int64_t mask_stride = 0;
  std::int64_t dim = 0;

  T* row(std::int64_t t) const { return data + t * stride; }
  bool present(std::int64_t t) const { return mask == nullptr || mask[t * mask_stride] != 0; }

  Rows from(std::int64_t t) const {
    return {data + t * stride, stride, mask == nullptr ? nullptr : mask + t * mask_stride, mask_stride, dim};
  }

  /// Asks for the lines of one row to be brought to the second-level cache; the first level has no room for
  /// them.
  void prefetch(std::int64_t t) const {
    constexpr std::int64_t line = 64 / static_cast<std::int64_t>(sizeof(T));
    for (std::int64_t c = 0; c < dim; c += line) {
      if constexpr (std::is_const_v<T>)
        __builtin_prefetch(row(t) + c, 0, 2);
      else
        __builtin_prefetch(row(t) + c, 1, 2);
    }
  }
};

/// What happens to rows on their way in: kept, or divided by their norm.
enum class Norm { keep, unit };

/// Whether it is wanted to know that rows are finite.
enum class Check { none, finite };

namespace detail {

/// 1 / sqrt(x) for positive normal x, to about one unit in the last place: an estimate from the bits, refined
/// by Newton's iteration y <- y (3 - x y^2) / 2, which squares the relative error (0.034 at first) each time.
template <class S>
[[gnu::always_inline]] inline typename S::Vector inverse_root(typename S::Vector x) {
  using Vector = typename S::Vector;
  using Bits = typename S::Bits;
  constexpr bool wide = sizeof(typename S::Bit) == 8;
  Bits estimate;
  if constexpr (wide)
    estimate = 0x5fe6eb50c7b537a9 - (reinterpret_cast<Bits>(x) >> 1);
  else
    estimate = 0x5f3759df - (reinterpret_cast<Bits>(x) >> 1);
  Vector y = reinterpret_cast<Vector>(estimate);
#pragma GCC unroll 5
  for (int i = 0; i < (wide ? 4 : 3); ++i) y += y * (S::splat(0.5f) - S::splat(0.5f) * x * y * y);
  return y;
}

/// The row scaled to unit length where the sum of its squares is past the range of A.
template <class A>
[[gnu::noinline]] A normalise_huge(A* row, std::int64_t dim) {
  A largest = 0;
  for (std::int64_t c = 0; c < dim; ++c) largest = std::max(largest, std::abs(row[c]));
  double sum = 0;
  for (std::int64_t c = 0; c < dim; ++c) {
    row[c] /= largest;
    sum += static_cast<double>(row[c]) * static_cast<double>(row[c]);
  }
  const double length = std::sqrt(sum);
  for (std::int64_t c = 0; c < dim; ++c) row[c] = static_cast<A>(static_cast<double>(row[c]) / length);
  return static_cast<A>(1 / length / static_cast<double>(largest));
}

}  // namespace detail

/// Copies rows 0 to count - 1 into `packed`, (count, pitch) with zeros past dim, as norm(x) or as they are,
/// times `weight` where given. For Norm::unit, `scale` holds `count` numbers, rounded up to whole vectors,
/// and becomes 1 / max(||x||, eps). Tells whether all that was copied is finite; true if not checked.
template <class S, Norm norm, Check check, class A, Element T>
bool pack_rows(const Rows<const T>& rows, int count, const A* weight, A* packed, std::ptrdiff_t pitch,
               A* scale) {
  constexpr int lanes = S::lanes;
  using Vector = typename S::Vector;
  const auto dim = static_cast<std::ptrdiff_t>(rows.dim);
  const std::ptrdiff_t whole = dim / lanes * lanes;
  Vector not_finite{};  // stays 0 until an infinity or a NaN makes it NaN
  for (int first = 0; first < count; first += lanes) {
    const int last = std::min(count, first + lanes);
    Vector squares[lanes] = {};
    for (int r = first; r < last; ++r) {
      A* out = packed + r * pitch;
      Vector sum{};
      std::ptrdiff_t c = 0;
      const auto keep = [&](Vector x) {
        S::store(out + c, x);
        if constexpr (norm == Norm::unit) sum += x * x;
        if constexpr (check == Check::finite) not_finite += x - x;
      };
      if (rows.present(r)) {
        const T* in = rows.row(r);
        const A factor = norm == Norm::keep && weight != nullptr ? weight[r] : A{1};
        for (; c < whole; c += lanes) keep(load_widened<S>(in + c) * factor);
        if (c < dim) {
          keep(load_widened_part<S>(in + c, static_cast<int>(dim - c)) * factor);
          c += lanes;
        }
      }
      for (; c < pitch; c += lanes) S::store(out + c, Vector{});
      squares[r - first] = sum;
    }
    if constexpr (norm == Norm::unit) {
      constexpr A floor = static_cast<A>(norm_epsilon * norm_epsilon);
      constexpr A huge = std::numeric_limits<A>::max() / 16;
      const Vector sums = sums_of<S>(squares);
      const auto small =
          reinterpret_cast<typename S::Bits>(sums <= floor);  // false for NaN, which thereby stays
      S::store(scale + first, detail::inverse_root<S>(S::select(small, S::splat(floor), sums)));
      for (int r = first; r < last; ++r) {
        A* out = packed + r * pitch;
        A factor = scale[r];
        if (sums[r - first] > huge) {
          scale[r] = detail::normalise_huge(out, dim);
          factor = 1;
        }
        if (weight != nullptr) factor *= weight[r];
        for (std::ptrdiff_t c = 0; c < pitch; c += lanes) S::store(out + c, S::load(out + c) * factor);
      }
    }
  }
  return check == Check::none || S::sum(not_finite) == 0;
}

/// (chunk, pitch) to (pitch, chunk), for row-major packed rows. Both extents are multiples of S::lanes.
template <class S, int chunk, class A>
void transpose_rows(const A* packed, std::ptrdiff_t pitch, int count, A* out) {
  constexpr int lanes = S::lanes;
  for (int r = 0; r < count; r += lanes) {
    for (std::ptrdiff_t c = 0; c < pitch; c += lanes) {
      typename S::Vector block[lanes];
#pragma GCC unroll 16
      for (int i = 0; i < lanes; ++i) block[i] = S::load(packed + (r + i) * pitch + c);
      transpose<S>(block);
#pragma GCC unroll 16
      for (int i = 0; i < lanes; ++i) S::store(out + (c + i) * chunk + r, block[i]);
    }
  }
}

/// Writes one row, times `factor`, or 0 where it is masked.
template <class S, class A, Element T>
[[gnu::always_inline]] inline void store_row(const Rows<T>& rows, int r, const A* in, A factor) {
  constexpr int lanes = S::lanes;
  const bool present = rows.present(r);
  T* out = rows.row(r);
  std::int64_t c = 0;
  for (; c + lanes <= rows.dim; c += lanes)
    store_narrowed<S>(out + c, present ? S::load(in + c) * factor : typename S::Vector{});
  if (c < rows.dim)
    store_narrowed_part<S>(out + c, present ? S::load(in + c) * factor : typename S::Vector{},
                           static_cast<int>(rows.dim - c));
}

/// Writes rows 0 to count - 1, times `weight` where given.
template <class S, class A, Element T>
void store_rows(const Rows<T>& rows, int count, const A* in, std::ptrdiff_t pitch, const A* weight) {
  for (int r = 0; r < count; ++r) store_row<S>(rows, r, in + r * pitch, weight == nullptr ? A{1} : weight[r]);
}

/// Turns gradients with respect to norm(x) into gradients with respect to x, in place:
///
///     dx = (d - norm(x) (norm(x) . d)) / ||x||      without the projection where ||x|| <= eps
///
/// `unit` holds norm(x) and `scale` 1 / max(||x||, eps), both from pack_rows. dot[r] = norm(x) . d.
template <class S, class A>
void project_rows(A* d, const A* unit, std::ptrdiff_t pitch, int count, const A* scale, A* dot) {
  constexpr A at_floor =
      static_cast<A>((1 - 4 * static_cast<double>(std::numeric_limits<A>::epsilon())) / norm_epsilon);
  for (int r = 0; r < count; ++r) {
    A* d_row = d + r * pitch;
    const A* unit_row = unit + r * pitch;
    typename S::Vector sum{};
    for (std::ptrdiff_t c = 0; c < pitch; c += S::lanes) sum += S::load(d_row + c) * S::load(unit_row + c);
    dot[r] = S::sum(sum);
    const A along = scale[r] >= at_floor ? A{0} : dot[r];
    for (std::ptrdiff_t c = 0; c < pitch; c += S::lanes)
      S::store(d_row + c, (S::load(d_row + c) - S::load(unit_row + c) * along) * scale[r]);
  }
}

}  // namespace cottention::cpu
