// Copies of rows between the caller's tensors and a chunk's scratch: pack_* gathers, widens, normalises,
// weights and masks them; store_* weights, masks and narrows them; norm_backward differentiates in between.
#if !defined(COTTENTION_CPU_ROWS_HPP)
#define COTTENTION_CPU_ROWS_HPP

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include <cottention/cpu/convert.hpp>
#include <cottention/cpu/pairwise.hpp>
#include <cottention/cpu/row_view.hpp>
#include <cottention/problem.hpp>

#if defined(__clang__)  // -ffast-math's parts have no macros there: requirements.hpp
#pragma float_control(precise, on, push)
#endif

namespace cottention::cpu::COTTENTION_CPU_TARGET {

/// Whether pack_rows tells if all rows are finite.
enum class Check { none, finite };

namespace detail {

/// Calls f(column, i) for each whole vector of `columns` elements, with i = 0, 1, 2, 3, 0, ... Returns the
/// first column past them. The loop is unrolled by four: rows are short, and its own instructions would be
/// as many as those inside.
template <class S, class F>
[[gnu::always_inline]] inline std::ptrdiff_t each_vector(std::ptrdiff_t columns, F f) {
  std::ptrdiff_t c = 0;
  for (; c + 4 * S::lanes <= columns; c += 4 * S::lanes) {
    f(c, 0);
    f(c + S::lanes, 1);
    f(c + 2 * S::lanes, 2);
    f(c + 3 * S::lanes, 3);
  }
  for (; c + S::lanes <= columns; c += S::lanes) f(c, 0);
  return c;
}

/// 1 / sqrt(x) for positive normal x, to about one unit in the last place: an estimate from the bits, refined
/// by Newton's iteration y <- y (3 - x y^2) / 2, which squares the relative error (0.034 at first) each time.
template <class S>
[[gnu::always_inline]] inline typename S::Vector rsqrt(typename S::Vector x) {
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

/// clamped_square clamps elements to this magnitude. A row that has a larger one is *huge*: its squares could
/// pass the range of A, so normalise_huge sums them in double. A sum of clamped squares stays within the
/// range at every head dimension, so no row of finite elements overflows, which could trap.
template <class A>
inline constexpr A huge_element = sizeof(A) == 8 ? static_cast<A>(0x1p500) : static_cast<A>(0x1p50);

/// min(|x|, huge_element)^2. A NaN stays a NaN.
template <class S>
[[gnu::always_inline]] inline typename S::Vector clamped_square(typename S::Vector x) {
  using A = std::remove_cvref_t<decltype(x[0])>;
  using Bits = typename S::Bits;
  constexpr auto magnitude = static_cast<typename S::Bit>(~std::make_unsigned_t<typename S::Bit>{} >> 1);
  const typename S::Vector limit = S::splat(huge_element<A>);
  x = reinterpret_cast<typename S::Vector>(reinterpret_cast<Bits>(x) & magnitude);
  x = limit < x ? limit : x;  // one instruction, which yields x where it is a NaN
  return x * x;
}

/// x . y, in vectors; count is a multiple of S::lanes.
template <class S, class A>
[[gnu::noinline]] A long_dot(const A* x, const A* y, std::ptrdiff_t count) {
  return S::sum(pairwise_sum<S>(count / S::lanes, [&](std::ptrdiff_t i) {
    return S::load(x + i * S::lanes) * S::load(y + i * S::lanes);
  }));
}
/// ||x||^2 in vectors, from clamped squares; count is a multiple of S::lanes.
template <class S, class A>
[[gnu::noinline]] A long_squares(const A* x, std::ptrdiff_t count) {
  return S::sum(pairwise_sum<S>(
      count / S::lanes, [&](std::ptrdiff_t i) { return clamped_square<S>(S::load(x + i * S::lanes)); }));
}
/// The clamped squares of S::lanes vectors side by side, element c of them at x + c * stride.
template <class S, class A>
[[gnu::noinline]] void long_column_squares(const A* x, std::ptrdiff_t stride, std::ptrdiff_t count,
                                           A* squares) {
  S::store(squares, pairwise_sum<S>(
                        count, [&](std::ptrdiff_t c) { return clamped_square<S>(S::load(x + c * stride)); }));
}

/// Scales a huge row, whose elements lie `stride` apart, to norm 1. Returns 1 / ||row||.
template <class A>
[[gnu::noinline]] A normalise_huge(A* row, std::int64_t dim, std::ptrdiff_t stride) {
  A max_abs = 0;
  for (std::int64_t c = 0; c < dim; ++c) max_abs = (std::max)(max_abs, std::abs(row[c * stride]));
  PairwiseSum<double> sum;
  for (std::int64_t first = 0; first < dim; first += short_run_terms) {
    double run = 0;
    for (std::int64_t c = first; c < (std::min)(dim, first + short_run_terms); ++c) {
      A& x = row[c * stride];
      x /= max_abs;
      run += static_cast<double>(x) * static_cast<double>(x);
    }
    sum.add(run);
  }
  const double norm = std::sqrt(sum.total());
  for (std::int64_t c = 0; c < dim; ++c)
    row[c * stride] = static_cast<A>(static_cast<double>(row[c * stride]) / norm);
  return static_cast<A>(1 / norm / static_cast<double>(max_abs));
}

/// 1 / max(||x||, eps) from the sums of squares of S::lanes rows; NaN where a sum is NaN.
template <class S>
[[gnu::always_inline]] inline typename S::Vector rnorms_of(typename S::Vector squares) {
  using A = std::remove_cvref_t<decltype(squares[0])>;
  constexpr A floor = static_cast<A>(norm_epsilon * norm_epsilon);
  const typename S::Bits below_floor = squares <= floor;  // false for NaN
  return rsqrt<S>(S::select(below_floor, S::splat(floor), squares));
}

/// The factors by which `count` rows, at most S::lanes, become norm(x), from their clamped squares. `rnorm`
/// becomes 1 / max(||x||, eps). A huge row is normalised here, and its factor is 1; element c of row r is at
/// rows[r * row_stride + c * element_stride].
template <class S, class A>
[[gnu::always_inline]] inline typename S::Vector norm_factors(typename S::Vector squares, int count, A* rows,
                                                              std::ptrdiff_t row_stride,
                                                              std::ptrdiff_t element_stride,
                                                              std::ptrdiff_t dim, A* rnorm) {
  constexpr A huge = huge_element<A> * huge_element<A>;
  auto rnorms = rnorms_of<S>(squares);
  auto factors = rnorms;
  if (!(S::sum(squares) < huge))
    for (int r = 0; r < count; ++r)
      if (squares[r] >= huge) {
        rnorms[r] = normalise_huge(rows + r * row_stride, dim, element_stride);
        factors[r] = 1;
      }
  S::store(rnorm, rnorms);
  return factors;
}

}  // namespace detail

/// Copies rows 0 to count - 1, (count, dim), into `packed`, (count, pitch) with zeros past dim, as norm(x) or
/// as they are, times `weight`, (count), where that is not null; count <= chunk. For Norm::normalize,
/// `rnorm`, (count) rounded up to whole vectors, becomes 1 / max(||x||, eps). Returns whether all elements
/// are finite; with Check::none, true.
template <class S, int chunk, Norm norm, Check check, class A, Element T>
bool pack_rows(const RowView<const T>& rows, int count, const A* weight, A* packed, std::ptrdiff_t pitch,
               A* rnorm) {
  constexpr int lanes = S::lanes;
  using Vector = typename S::Vector;
  const auto dim = static_cast<std::ptrdiff_t>(rows.dim);
  alignas(64) A norm_factor[(chunk + lanes - 1) / lanes * lanes];
  Vector not_finite[4] = {};  // stay 0 until an infinity or a NaN makes one NaN
  for (int first = 0; first < count; first += lanes) {
    const int last = (std::min)(count, first + lanes);
    Vector squares[lanes] = {};
    for (int r = first; r < last; ++r) {
      A* out = packed + r * pitch;
      Vector sum[2] = {};
      const auto use = [&](int i, Vector x) __attribute__((always_inline)) {
        if constexpr (norm == Norm::normalize) sum[i % 2] += detail::clamped_square<S>(x);
        if constexpr (check == Check::finite) not_finite[i] += x - x;
      };
      std::ptrdiff_t c = 0;
      if (rows.valid(r)) {
        const T* in = rows.row(r);
        const Vector factor = S::splat(norm == Norm::keep && weight != nullptr ? weight[r] : A{1});
        c = detail::each_vector<S>(
            dim, [&](std::ptrdiff_t column, int i) __attribute__((always_inline)) {
              const Vector x = load_widened<S>(in + column) * factor;
              S::store(out + column, x);
              use(i, x);
            });
        if (c < dim) {
          const Vector x = load_last<S>(in, dim) * factor;
          const std::ptrdiff_t from = first_of_last<S>(dim);
          use(1, S::select(S::iota() >= static_cast<typename S::Bit>(c - from), x, Vector{}));
          S::store(out + c, Vector{});
          S::store(out + from, x);
          c += lanes;
        }
      }
      for (; c < pitch; c += lanes) S::store(out + c, Vector{});
      squares[r - first] = sum[0] + sum[1];
      if constexpr (norm == Norm::normalize)
        if (dim > 2 * short_run_terms * lanes) {
          squares[r - first] = Vector{};
          squares[r - first][0] = detail::long_squares<S>(out, pitch);
        }
    }
    if constexpr (norm == Norm::normalize)
      S::store(norm_factor + first,
               detail::norm_factors<S>(sums_of<S>(squares), last - first, packed + first * pitch, pitch, 1,
                                       dim, rnorm + first));
  }
  if constexpr (norm == Norm::normalize)
    for (int r = 0; r < count; ++r) {
      A* out = packed + r * pitch;
      const A factor = weight == nullptr ? norm_factor[r] : norm_factor[r] * weight[r];
      detail::each_vector<S>(
          pitch, [&](std::ptrdiff_t c, int)
                     __attribute__((always_inline)) { S::store(out + c, S::load(out + c) * factor); });
    }
  if constexpr (check == Check::none) return true;
  return S::sum((not_finite[0] + not_finite[1]) + (not_finite[2] + not_finite[3])) == 0;
}

/// Copies rows 0 to count - 1 as pack_rows does, but transposed: `packed` is (pitch, chunk), and row r is its
/// column r. Zeros follow past dim, and past `count` up to a multiple of `columns_read`, which is one of
/// S::lanes; `weight` must be readable as far. Squares are summed down the columns here, so a row's norm
/// differs from that of pack_rows by rounding.
template <class S, int chunk, Norm norm, int columns_read, class A, Element T>
void pack_columns(const RowView<const T>& rows, int count, const A* weight, A* packed, std::ptrdiff_t pitch,
                  A* rnorm) {
  static_assert(columns_read % S::lanes == 0 && chunk % columns_read == 0);
  constexpr int lanes = S::lanes;
  using Vector = typename S::Vector;
  const auto dim = static_cast<std::ptrdiff_t>(rows.dim);
  alignas(64) A factor[chunk];
  const int filled = (count + columns_read - 1) / columns_read * columns_read;
  for (int first = 0; first < filled; first += lanes) {
    const int last = (std::min)(count, first + lanes);
    Vector squares[4] = {};
    A* to = packed + first;
    // Columns from c on, of which the first `seen` are there already.
    const auto transpose_block = [&](std::ptrdiff_t c, std::ptrdiff_t seen, auto load)
        __attribute__((always_inline)) {
      Vector block[lanes];
#pragma GCC unroll 16
      for (int i = 0; i < lanes; ++i)
        block[i] = first + i < last && rows.valid(first + i) ? load(rows.row(first + i)) : Vector{};
      transpose<S>(block);
#pragma GCC unroll 16
      for (int i = 0; i < lanes; ++i) {
        S::store(to + (c + i) * chunk, block[i]);
        if constexpr (norm == Norm::normalize)
          if (i >= seen) squares[i % 4] += detail::clamped_square<S>(block[i]);
      }
    };
    std::ptrdiff_t c = 0;
    // With a capture, since the function that a lambda without one converts to is compiled for no target.
    for (; c + lanes <= dim; c += lanes)
      transpose_block(c, 0, [&](const T* in) { return load_widened<S>(in + c); });
    if (c < dim) {
      const std::ptrdiff_t from = first_of_last<S>(dim);
      transpose_block(from, c - from, [&](const T* in) { return load_last<S>(in, dim); });
      c = from + lanes;
    }
    for (; c < pitch; ++c) S::store(to + c * chunk, Vector{});
    Vector factors = weight == nullptr ? S::splat(1) : S::load(weight + first);
    if constexpr (norm == Norm::normalize) {
      Vector sum = (squares[0] + squares[1]) + (squares[2] + squares[3]);
      if (dim > 8 * short_run_terms) {
        alignas(64) A sums[lanes];
        detail::long_column_squares<S>(to, chunk, dim, sums);
        sum = S::load(sums);
      }
      factors *= detail::norm_factors<S>(sum, last - first, to, 1, chunk, dim, rnorm + first);
    }
    S::store(factor + first, factors);
  }
  if (norm == Norm::keep && weight == nullptr) return;
  for (std::ptrdiff_t c = 0; c < dim; ++c)
    for (int first = 0; first < count; first += lanes) {
      A* at = packed + c * chunk + first;
      S::store(at, S::load(at) * S::load(factor + first));
    }
}

/// Writes row r, (dim), times `factor`, or 0 where the row is masked.
template <class S, class A, Element T>
[[gnu::always_inline]] inline void store_row(const RowView<T>& rows, int r, const A* in, A factor) {
  const bool valid = rows.valid(r);
  T* out = rows.row(r);
  const std::int64_t c = detail::each_vector<S>(
      rows.dim, [&](std::ptrdiff_t column, int) __attribute__((always_inline)) {
        store_narrowed<S>(out + column, valid ? S::load(in + column) * factor : typename S::Vector{});
      });
  if (c < rows.dim) {
    const typename S::Vector x =
        valid ? S::load(in + first_of_last<S>(rows.dim)) * factor : typename S::Vector{};
    store_last<S>(out, x, rows.dim);
  }
}

/// Writes rows 0 to count - 1 from `in`, (count, pitch), times `weight`, (count), where that is not null.
template <class S, class A, Element T>
void store_rows(const RowView<T>& rows, int count, const A* in, std::ptrdiff_t pitch, const A* weight) {
  for (int r = 0; r < count; ++r) store_row<S>(rows, r, in + r * pitch, weight == nullptr ? A{1} : weight[r]);
}

/// Turns gradients with respect to norm(x) into gradients with respect to x, in slot:
///
///     dx = (d - norm(x) (norm(x) . d)) / ||x||      without the projection where ||x|| <= eps
///
/// d and `normalized` are (count, pitch). `normalized` holds norm(x), `rnorm` 1 / max(||x||, eps), (count),
/// both from pack_rows. `dot`, (count), becomes norm(x) . d.
template <class S, class A>
void norm_backward(A* d, const A* normalized, std::ptrdiff_t pitch, int count, const A* rnorm, A* dot) {
  constexpr A min_clamped_rnorm =
      static_cast<A>((1 - 4 * static_cast<double>(std::numeric_limits<A>::epsilon())) / norm_epsilon);
  for (int r = 0; r < count; ++r) {
    A* d_row = d + r * pitch;
    const A* normalized_row = normalized + r * pitch;
    if (pitch > 2 * short_run_terms * S::lanes) {
      dot[r] = detail::long_dot<S>(d_row, normalized_row, pitch);
    } else {
      typename S::Vector sum{};
      for (std::ptrdiff_t c = 0; c < pitch; c += S::lanes)
        sum += S::load(d_row + c) * S::load(normalized_row + c);
      dot[r] = S::sum(sum);
    }
    const A coefficient = rnorm[r] >= min_clamped_rnorm ? A{0} : dot[r];
    for (std::ptrdiff_t c = 0; c < pitch; c += S::lanes)
      S::store(d_row + c, (S::load(d_row + c) - S::load(normalized_row + c) * coefficient) * rnorm[r]);
  }
}

}  // namespace cottention::cpu::COTTENTION_CPU_TARGET

#if defined(__clang__)
#pragma float_control(pop)
#endif

#endif
