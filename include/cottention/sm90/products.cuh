// The products of a warpgroup's 64 rows: scores, scores c, and a H.
#pragma once

#include <concepts>
#include <cstdint>

#include <cottention/sm90/pipeline.cuh>
#include <cottention/tile/scores.cuh>

namespace cottention::sm90 {

/// Scores (64, 64) of a chunk, in fp32: a_i . b_j, before or after factors.
using Scores = Sums<chunk_rows>;

/// Starts scores = a b^T. Scope: warpgroup.
template <Element T, int columns>
__device__ __forceinline__ void start_scores(Scores& scores, const RowFragments<T, columns>& a,
                                             const Tile<T, columns>& b) {
  device::wgmma_fence();
#pragma unroll
  for (int k = 0; k < columns / 16; ++k)
    device::wgmma_m64k16<T, chunk_rows, device::Major::k>(scores.of_panel[0], a.r[k],
                                                          b.panel[k / 4].rows_as_mn(k % 4),
                                                          k == 0 ? device::Sum::start : device::Sum::add);
  device::wgmma_commit();
}
/// The same where lanes have no registers for a.
template <Element T, int columns>
__device__ __forceinline__ void start_scores(Scores& scores, const Tile<T, columns>& a,
                                             const Tile<T, columns>& b) {
  device::wgmma_fence();
#pragma unroll
  for (int k = 0; k < columns / 16; ++k)
    device::wgmma_m64k16<T, chunk_rows, device::Major::k, device::Major::k>(
        scores.of_panel[0], a.panel[k / 4].rows_as_mn(k % 4), b.panel[k / 4].rows_as_mn(k % 4),
        k == 0 ? device::Sum::start : device::Sum::add);
  device::wgmma_commit();
}
/// Waits for all of the warpgroup's products, after which `sums` may be read. Scope: warpgroup.
template <int columns>
__device__ __forceinline__ void finish(Sums<columns>& sums) {
  device::wgmma_wait<0>();
  sums.pin();
}

/// Whether the lane's scores are finite. Those of a row with terms that are not are not, whatever the row.
__device__ __forceinline__ bool are_finite(const Scores& scores) {
  float zeros = 0;  // the sum of 0 x: NaN for infinities and NaNs
#pragma unroll
  for (const float score : scores.of_panel[0]) zeros = device::fma(score, 0.0f, zeros);
  return zeros == 0;
}

/// scale_and_mask() of the warp whose first row is `top`.
template <recurrence::Direction direction, bool scales_rows, int top>
__device__ __forceinline__ void scale_and_mask_rows(Scores& scores, const float* term_factors_shared,
                                                    int lane, const float (&row_factors)[2]) {
  const int row = lane / 4, term = 2 * (lane % 4);
#pragma unroll
  for (int first = 0; first < chunk_rows; first += 16) {
    // The warp's 16 rows see all, some or none of 16 terms.
    float* const x = scores.of_panel[0] + first / 2;
    if (first != top && !tile::is_visible<direction>(top, first)) {
#pragma unroll
      for (int i = 0; i < 8; ++i) x[i] = 0;
      continue;
    }
#pragma unroll
    for (int c = 0; c < 16; c += 8) {
      const auto f = device::load_shared(
          reinterpret_cast<const device::Vector<float, 2>*>(term_factors_shared + first + c + term));
#pragma unroll
      for (int h = 0; h < 2; ++h)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& score = x[c / 2 + 2 * h + e];
          score *= f[e];
          if constexpr (scales_rows) score *= row_factors[h];
          if (first != top) continue;
          const bool visible =
              c == 8 * h ? tile::is_visible<direction>(row, term + e) : tile::is_visible<direction>(8 * h, c);
          if (!visible) score = 0;
        }
    }
  }
}

/// Multiplies scores by the factors of terms and, where rows have some, of rows g and g + 8; those that the
/// causal mask hides become 0. has_registers: lanes keep what follows from their index. Scope: warp; barriers
/// inside: 0.
template <recurrence::Direction direction, bool scales_rows, bool has_registers = true>
__device__ __forceinline__ void scale_and_mask(Scores& scores, const float* term_factors_shared,
                                               const float (&row_factors)[2]) {
  const int lane = has_registers ? device::lane_index() : lane_index(),
            warp = has_registers ? device::warp_index() % 4 : warp_in_group();
  // Code of its own for each warp, which then has no branches.
  const auto of_warp = [&]<int w>() {
    scale_and_mask_rows<direction, scales_rows, 16 * w>(scores, term_factors_shared, lane, row_factors);
  };
  if (warp < 2) {
    if (warp == 0)
      of_warp.template operator()<0>();
    else
      of_warp.template operator()<1>();
  } else if (warp == 2) {
    of_warp.template operator()<2>();
  } else {
    of_warp.template operator()<3>();
  }
}

/// Powers of two by which scores in half are multiplied, and the sums that they add to meanwhile: the largest
/// score of each row comes near the end of half's range, so the others lose no more than that one. Other
/// types have none.
template <Element T>
class RowScales {
 public:
  /// Finds them, and multiplies scores by them. Scope: warp; barriers inside: 0.
  __device__ __forceinline__ void raise(Scores& scores) {
    if constexpr (std::same_as<T, half>) {
      float largest[2] = {};
      scores.for_each([&largest](float& score, int h, int, int) {
        const float magnitude = device::magnitude(score);
        largest[h] = magnitude > largest[h] ? magnitude : largest[h];
      });
#pragma unroll
      for (int h = 0; h < 2; ++h) {
#pragma unroll
        for (int distance = 1; distance < 4; distance *= 2) {
          const float other = device::shuffle_xor(largest[h], distance);
          largest[h] = other > largest[h] ? other : largest[h];
        }
        const int exponent = tile::exponent_for_half(largest[h]);
        exponent_[h] = exponent > least ? exponent : least;
      }
      raise_sums(scores);
    }
  }
  template <int columns>
  __device__ __forceinline__ void raise_sums(Sums<columns>& sums) const {
    if constexpr (std::same_as<T, half>) scale<-1>(sums);
  }
  template <int columns>
  __device__ __forceinline__ void lower_sums(Sums<columns>& sums) const {
    if constexpr (std::same_as<T, half>) scale<1>(sums);
  }

 private:
  static constexpr int least = -60;  // beyond it, sums could leave fp32's range

  template <int sign, int columns>
  __device__ __forceinline__ void scale(Sums<columns>& sums) const {
    sums.scale_rows({device::times_power_of_two(1.0f, sign * exponent_[0]),
                     device::times_power_of_two(1.0f, sign * exponent_[1])});
  }

  int exponent_[std::same_as<T, half> ? 2 : 1] = {};
};

/// Scores as operand a of wgmma: rounded, or what rounding took away, times rest_scale. Scope: warp; barriers
/// inside: 0.
template <Element T, bool rest>
__device__ __forceinline__ void to_operand(const Scores& scores, std::uint32_t (&p)[4][4]) {
#pragma unroll
  for (int k = 0; k < 4; ++k)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float* const x = scores.of_panel[0] + 8 * k + 2 * i;
      p[k][i] = device::pack<T>(x[0], x[1]);
      if constexpr (rest) {
        const auto rest_of = [](float score, float rounded) {
          // A score that overflows T has no rest.
          return rounded - rounded == 0 ? (score - rounded) * tile::rest_scale<T> : 0.0f;
        };
        p[k][i] = device::pack<T>(rest_of(x[0], device::unpack_low<T>(p[k][i])),
                                  rest_of(x[1], device::unpack_high<T>(p[k][i])));
      }
    }
}

/// Starts out += p c. Scope: warpgroup.
template <Element T, int columns>
__device__ __forceinline__ void start_attend(Sums<columns>& out, const std::uint32_t (&p)[4][4],
                                             const Tile<T, columns>& c) {
  out.pin();  // what threads wrote to it stays before the fence
  device::wgmma_fence();
  for_each_panel<Sums<columns>::panels>([&]<int x>() {
    constexpr int n = panel_width<columns, x>;
#pragma unroll
    for (int k = 0; k < 4; ++k)
      device::wgmma_m64k16<T, n, device::Major::mn>(out.template panel<x>(), p[k],
                                                    c.panel[x].columns_as_mn(k), device::Sum::add);
  });
  device::wgmma_commit();
}

/// out += scores c term by term, without the masked ones, whose c may be an infinity or a NaN. Scope: warp;
/// barriers inside: 0.
template <recurrence::Direction direction, Element T, int columns>
__device__ __forceinline__ void attend_by_term(Sums<columns>& out, const Scores& scores,
                                               const Tile<T, columns>& c) {
  const int lane = lane_index(), row = 16 * warp_in_group() + lane / 4;
#pragma unroll 1
  for (int t = 0; t < 4; ++t)
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      const int term = i / 2 * 8 + 2 * t + i % 2;
      float p[2];
#pragma unroll
      for (int h = 0; h < 2; ++h)
        p[h] = device::shuffle(scores.of_panel[0][i / 2 * 4 + 2 * h + i % 2], lane / 4 * 4 + t);
      const bool visible[2] = {tile::is_visible<direction>(row, term),
                               tile::is_visible<direction>(row + 8, term)};
#pragma unroll
      for (int x = 0; x < columns; x += 8) {
        const std::uint32_t pair =
            device::load_shared(reinterpret_cast<const std::uint32_t*>(c.at(term, x) + 2 * (lane % 4)));
        const float element[2] = {device::unpack_low<T>(pair), device::unpack_high<T>(pair)};
#pragma unroll
        for (int h = 0; h < 2; ++h)
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            float& sum = out.of_panel[x / 64][x % 64 / 2 + 2 * h + e];
            if (visible[h]) sum = device::fma(p[h], element[e], sum);
          }
      }
    }
}

/// Starts out += scores c, of scores rounded. Scope: warpgroup.
template <Element T, int columns>
__device__ __forceinline__ void start_attend(Sums<columns>& out, const Scores& scores,
                                             const Tile<T, columns>& c) {
  std::uint32_t p[4][4];
  to_operand<T, false>(scores, p);
  start_attend(out, p, c);
}
/// out += scores c where c is not finite, or where what rounding takes from scores counts. Scope: warpgroup.
template <recurrence::Direction direction, Element T, int columns>
__device__ __forceinline__ void attend_carefully(Sums<columns>& out, const Scores& scores,
                                                 const Tile<T, columns>& c, bool c_is_finite) {
  if (!c_is_finite) {
    attend_by_term<direction>(out, scores, c);
    return;
  }
  start_attend(out, scores, c);
  finish(out);
  constexpr float rest = tile::rest_scale<T>;
  std::uint32_t p[4][4];
  to_operand<T, true>(scores, p);
  out.scale_all(rest);
  start_attend(out, p, c);
  finish(out);
  out.scale_all(1 / rest);
}

/// Replaces the scores a_i . b_i by sums of their products that are as if rounded once. Scope: warp; barriers
/// inside: 0.
template <Element T, int columns>
__device__ __forceinline__ void replace_diagonal(Scores& scores, const Tile<T, columns>& a,
                                                 const Tile<T, columns>& b) {
  const tile::Lane lane = tile::Lane::opaque();
  float dots[2];
  tile::dots_of_rows(a, b, lane, dots, 16 * warp_in_group());
  device::sync_warp();  // all lanes have read a's rows, which the output may overwrite
  const int row = 16 * warp_in_group() + lane.g();
  scores.for_each([&](float& score, int h, int c, int e) {
    if (row + 8 * h == c + 2 * lane.t() + e) score = dots[h];
  });
}

/// Starts out = a H. Scope: warpgroup.
template <Element T, int columns, int b_columns>
__device__ __forceinline__ void start_inter_chunk(Sums<columns>& out, const RowFragments<T, b_columns>& a,
                                                  const StateTile<T, columns, b_columns>& h) {
  device::wgmma_fence();
  for_each_panel<Sums<columns>::panels>([&]<int x>() {
    constexpr int n = panel_width<columns, x>;
#pragma unroll
    for (int k = 0; k < b_columns / 16; ++k) {
      device::wgmma_m64k16<T, n, device::Major::k>(out.template panel<x>(), a.r[k],
                                                   h.low[x][k / 4].rows_as_mn(k % 4),
                                                   k == 0 ? device::Sum::start : device::Sum::add);
      device::wgmma_m64k16<T, n, device::Major::k>(out.template panel<x>(), a.r[k],
                                                   h.high[x][k / 4].rows_as_mn(k % 4), device::Sum::add);
    }
  });
  device::wgmma_commit();
}
/// Starts out = a H, or adds it, with panels of H^T; transposed: of H. Scope: warpgroup.
template <bool transposed, Element T, int columns, int b_columns, class Panels>
__device__ __forceinline__ void start_product_with_state(Sums<columns>& out,
                                                         const RowFragments<T, b_columns>& a,
                                                         const Panels& panels, device::Sum first) {
  constexpr auto major = transposed ? device::Major::mn : device::Major::k;
  for_each_panel<Sums<columns>::panels>([&]<int x>() {
#pragma unroll
    for (int k = 0; k < b_columns / 16; ++k) {
      const auto right = [&] {
        if constexpr (transposed)
          return panels[k / 4][x].columns_as_mn(k % 4);
        else
          return panels[x][k / 4].rows_as_mn(k % 4);
      }();
      device::wgmma_m64k16<T, panel_width<columns, x>, major>(out.template panel<x>(), a.r[k], right,
                                                              k == 0 ? first : device::Sum::add);
    }
  });
  device::wgmma_commit();
}
/// Starts out = a H of a state that is read both ways, of its low part and then of the high one.
/// In half, products with the low part are done by then. transposed: the tile holds H rather than H^T. Scope:
/// warpgroup.
template <bool transposed, Element T, int columns, int b_columns>
__device__ __forceinline__ void start_inter_chunk_of_two_ways(
    Sums<columns>& out, const RowFragments<T, b_columns>& a,
    const TwoWayStateTile<T, transposed ? b_columns : columns, transposed ? columns : b_columns>& h) {
  device::wgmma_fence();
  start_product_with_state<transposed>(out, a, h.low, device::Sum::start);
  if constexpr (std::same_as<T, half>) {
    finish(out);
    out.scale_all(1 / tile::rest_scale<half>);
    out.pin();
    device::wgmma_fence();
  }
  start_product_with_state<transposed>(out, a, h.high, device::Sum::add);
}
/// out = a H of a state that is read both ways, in half, of rows of which the lane's own one has the norm
/// `own_norm`, or at most that. Scope: warpgroup.
template <bool transposed, int columns, int b_columns>
__device__ __forceinline__ void multiply_rounded_state(
    Sums<columns>& out, const RowFragments<bfloat16, b_columns>& a, float own_norm,
    TwoWayStateTile<bfloat16, transposed ? b_columns : columns, transposed ? columns : b_columns>& h) {
  const float own_up = device::times_power_of_two(1.0f, -tile::exponent_for_half(own_norm));
  float up[2];
  to_both_rows(own_up, up);
  RowFragments<half, b_columns> in_half;
#pragma unroll
  for (int k = 0; k < b_columns / 16; ++k)
#pragma unroll
    for (int i = 0; i < 4; ++i)
      in_half.r[k][i] = device::pack<half>(device::unpack_low<bfloat16>(a.r[k][i]) * up[i % 2],
                                           device::unpack_high<bfloat16>(a.r[k][i]) * up[i % 2]);
  device::wgmma_fence();
  start_product_with_state<transposed>(out, in_half, h.rounded(), device::Sum::start);
  finish(out);
  const float scale = device::load_shared(&h.scale);
  out.scale_rows({scale * (1 / up[0]), scale * (1 / up[1])});  // powers of two
}
/// What a H is divided by in half: out's columns times the powers of two of the state's rows, and all times
/// factors of rows g and g + 8. Scope: warp; barriers inside: 0.
template <Element T, int columns>
__device__ __forceinline__ void undo_scales(Sums<columns>& out, const StateExponents<T, columns>& exponents,
                                            const float (&row_factors)[2]) {
#pragma unroll
  for (int c = 0; c < columns; c += 16) {
    const float scale = device::load_shared(exponents.scale + c / 16);
#pragma unroll
    for (int i = 0; i < 8; ++i) out.of_panel[c / 64][c % 64 / 2 + i] *= scale * row_factors[i / 2 % 2];
  }
}

}  // namespace cottention::sm90
