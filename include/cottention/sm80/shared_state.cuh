// A copy of a state in shared memory, split as an operand. State::apply() multiplies with the part of H in a
// warp's registers, and so only along columns of b. With split-M, and in products with H^T, which are along
// columns of c, a warp needs the parts of other warps.
#pragma once

#include <cottention/sm80/output.cuh>
#include <cottention/sm80/state.cuh>
#include <cottention/tile/exponents.cuh>

namespace cottention::sm80 {

/// H^T split into high and low parts of 16-bit elements.
template <AnyProblem P, Tiling tiling>
struct SharedState {
  using Part = Partition<P, tiling>;
  using T = typename Part::T;
  using A = typename Part::A;
  static_assert(sizeof(T) == 2 && (Part::warps_k == 1 || Part::splits_m));

  Tile<T, Part::columns, Part::depth> high, low;  // (columns, depth) of H^T
  float largest[Part::warps];  // (warps) for half: the largest finite element of each warp's part
  int exponent[Part::warps];   // (warps) for half: e of the 2^e that all elements are divided by

  /// Writes the state to shared memory. Scope: block; barriers inside: 1 for half, else 0. A barrier must be
  /// between the last apply() and it, and between it and the next apply().
  __device__ __forceinline__ void publish(const State<P, tiling>& state) {
    if constexpr (std::same_as<T, half>) {
      const float of_warp = state.largest();
      if (device::lane_index() == 0) device::store_shared(largest + device::warp_index(), of_warp);
      device::sync_block();  // the largest elements of the warps' parts are written
    }
    const tile::Lane lane = tile::Lane::opaque();
    const int column = Part::warp_column(), row = Part::warp_row();
    const A scale = device::times_power_of_two(A{1}, -choose_exponent());
    state.for_each_pair([&](A x0, A x1, int m, int lower, int n) {
      std::uint32_t high_bits, low_bits;
      if constexpr (std::same_as<T, half>)
        tile::split<T>(x0 * scale, x1 * scale, high_bits, low_bits);
      else
        tile::split<T>(x0, x1, high_bits, low_bits);
      const auto at = [&](auto& part) {
        return reinterpret_cast<std::uint32_t*>(
            part.at(column + 16 * m + 8 * lower, row + 8 * n, lane.number() / 4, lane.number() % 4 * 2));
      };
      device::store_shared(at(high), high_bits);
      device::store_shared(at(low), low_bits);
    });
  }

  /// out = a H, (chunk, depth) x (depth, columns) -> (chunk, columns), of which the warp computes its rows
  /// and columns; for half, times `factor`. Scope: warp; barriers inside: 0.
  __device__ __forceinline__ void apply(const typename Part::TileAB& a, typename Part::Output& out,
                                        A factor = A{1}) const {
    multiply_rows(a, out, factor, [](const auto& part, int k, int column, tile::Lane lane) {
      return load_rows<Operand::b>(part.below(column), 0, k, lane);
    });
  }
  /// out = a H^T, (chunk, columns) x (columns, depth) -> (chunk, depth), as apply(). b and c have equally
  /// many columns, all of which the block has. Scope: warp; barriers inside: 0.
  __device__ __forceinline__ void apply_transposed(const typename Part::TileC& a, typename Part::Output& out,
                                                   A factor = A{1}) const {
    static_assert(Part::depth == Part::columns);
    multiply_rows(a, out, factor, [](const auto& part, int k, int column, tile::Lane lane) {
      return load_columns<Operand::b>(part, k, column, lane);
    });
  }

 private:
  /// out = a times the operand whose fragment (16, mma_k<T>) of terms k, ... and columns `column`, ... of out
  /// is load(part, k, column, lane), `part` being high or low. Scope: warp; barriers inside: 0.
  template <class Load>
  __device__ __forceinline__ void multiply_rows(const typename Part::TileAB& a, typename Part::Output& out,
                                                [[maybe_unused]] A factor, Load load) const {
    const tile::Lane lane = tile::Lane::opaque();
    const int column = Part::warp_column(), warp_k = Part::warp_k();
    for_each_sum<Part>(out, [](A& sum, int, int) { sum = A{0}; });
#pragma unroll
    for (int k = 0; k < Part::depth; k += mma_k<T>)
#pragma unroll
      for (int m = 0; m < Part::warp_column_blocks; ++m) {
        const auto high_right = load(high, k, column + 16 * m, lane);
        const auto low_right = load(low, k, column + 16 * m, lane);
#pragma unroll
        for (int i = 0; i < Part::warp_row_blocks; ++i) {
          const auto left = load_rows<Operand::a>(a.below(16 * Part::row_block(i, warp_k)), 0, k, lane);
          multiply<T>(out.sums[i][m], left, low_right);
          multiply<T>(out.sums[i][m], left, high_right);
        }
      }
    if constexpr (std::same_as<T, half>) {
      const A back = device::times_power_of_two(factor, device::load_shared(exponent + device::warp_index()));
      for_each_sum<Part>(out, [back](A& sum, int, int) { sum *= back; });
    }
  }

  /// The exponent of the power of two that H is divided by, as State::operand_exponent() but from the whole
  /// block's largest element; stores it for apply(). Scope: warp; barriers inside: 0.
  __device__ __forceinline__ int choose_exponent() {
    if constexpr (!std::same_as<T, half>) {
      return 0;
    } else {
      float of_block = 0;
#pragma unroll
      for (int w = 0; w < Part::warps; ++w) {
        const float of_warp = device::load_shared(largest + w);
        of_block = of_warp > of_block ? of_warp : of_block;
      }
      const int chosen = tile::exponent_for_half(of_block);
      if (device::lane_index() == 0) device::store_shared(exponent + device::warp_index(), chosen);
      return chosen;
    }
  }
};

/// The operand H of out = a H: the state in registers or, with split-M, its copy in shared memory. publish()
/// and apply() as those of SharedState; without split-M, apply() is that of State and publish() does nothing.
template <AnyProblem P, Tiling tiling, bool = Partition<P, tiling>::splits_m>
struct StateOperand {
  using Part = Partition<P, tiling>;
  using A = typename Part::A;
  __device__ __forceinline__ void publish(const State<P, tiling>&) {}
  __device__ __forceinline__ void apply(const State<P, tiling>& state, const typename Part::TileAB& a,
                                        typename Part::Output& out, A factor = A{1}) const {
    state.apply(a, out, factor);
  }
};
template <AnyProblem P, Tiling tiling>
struct StateOperand<P, tiling, true> {
  using Part = Partition<P, tiling>;
  using A = typename Part::A;
  SharedState<P, tiling> copy;
  __device__ __forceinline__ void publish(const State<P, tiling>& state) { copy.publish(state); }
  __device__ __forceinline__ void apply(const State<P, tiling>&, const typename Part::TileAB& a,
                                        typename Part::Output& out, A factor = A{1}) const {
    copy.apply(a, out, factor);
  }
};

}  // namespace cottention::sm80
