// Whether outputs that are made of a rounded state are right, where kernels make more than one gradient.
//
// An operand in bf16 keeps 8 bits of a state's elements, in half 11 if a power of two divides the state. Rows
// a_i of bf16 are in half what they are, times powers of two of their own. So for rows of bf16 products a_i H
// take H in half, whose elements are each rounded by r = 2^-12.2 of themselves in root mean square, or by
// 2^-40 of the largest. A row f_i a_i H of an output errs by about
//
//     r f_i ||a_i|| ||H|| / sqrt(columns of a)          ||H||: the root of the sum of squares
//
// and where elements of H err alike, by r of the row itself, before the norm backward. Both are small beside
// rounding the output, unless terms of a_i H cancel or the norm backward takes most of the row away. So over
// all rows of a piece each output's lanes sum up
//
//     allowed ||out_i||^2 - (f_i ||a_i|| ||H||)^2 / (columns of a) - ||what the norm backward takes away||^2
//
// and if it is not positive in the end for each output, the piece is made again of states in two parts. That
// follows from the piece's rows and the state behind it alone.
#pragma once

#include <cottention/device/barrier.cuh>
#include <cottention/device/collective.cuh>
#include <cottention/sm90/tiles.cuh>
#include <cottention/tile/norm_backward.cuh>
#include <cottention/tile/over_warp.cuh>

namespace cottention::sm90 {

/// In shared memory: lanes have no registers for it. outputs: each by a warpgroup, the first of the block.
template <int outputs>
class StateRounding {
 public:
  /// Scope: thread, of the outputs' warpgroups.
  __device__ __forceinline__ void set_zero() { device::store_shared(own(), 0.0f); }

  /// squares: of the lane's elements of the state. Scope: the warpgroup that publishes it, between the
  /// arrivals at `empty` and at `full`.
  __device__ __forceinline__ void set_state(float squares) {
    const float of_warp = tile::sum_over_warp(squares);
    if (lane_index() == 0) device::store_shared(squares_ + warp_in_group(), of_warp);
  }

  // ---- scope: thread, of an output's warpgroup

  /// Between `full` and the arrival at `empty`. a: the lane's part of the sum of (f ||a||)^2 over its rows.
  template <int columns>
  __device__ __forceinline__ void add_products(float a) {
    const auto of_warps = device::load_shared(reinterpret_cast<const device::Vector<float, 4>*>(squares_));
    const float of_state = (of_warps[0] + of_warps[1]) + (of_warps[2] + of_warps[3]);
    add(-a * (1.0f / columns) * of_state);
  }
  /// The lane's elements of an output: the sum of their squares.
  __device__ __forceinline__ void add_output(float squares) { add(allowed * squares); }
  /// What the norm backward takes away from rows g and g + 8.
  __device__ __forceinline__ void add_taken_away(const tile::NormBackward<float> (&backward)[2],
                                                 const float (&products)[2]) {
    float squares = 0;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float along = products[h] * backward[h].scale;
      squares = device::fma(along * backward[h].slope, along, squares);
    }
    add(-0.25f * squares);  // four lanes share the rows
  }

  /// Whether all outputs are right, in all threads. Scope: block; barriers inside: 2 for each output, 2.
  template <int threads>
  __device__ __forceinline__ bool are_within(device::BlockSumStorage<double, threads>& scratch) {
    bool within = true;
#pragma unroll 1
    for (int output = 0; output < outputs; ++output) {
      device::sync_block();  // sums are complete, readers of the one before are done
      const bool has = thread_index() / 128 == output;
      const double margin = device::sum_over_block<threads>(has ? device::load_shared(own()) : 0.0, scratch);
      within = within && margin >= min_margin && margin <= max_margin;
    }
    if (thread_index() == 0) device::store_shared(&are_within_, within);
    device::sync_block();
    within = device::load_shared(&are_within_);
    device::sync_block();  // all threads know
    return within;
  }

 private:
  /// At the limit the error is 8 r, 1.7e-3 of the output, as much as rounding the output to bf16, and 4e-3
  /// if each element errs by as much as it can, of the 6e-3 that gradients may be off.
  static constexpr float allowed = 64;
  /// Outside, squares may have left fp32's range.
  static constexpr double min_margin = 0x1p-80, max_margin = 0x1p100;

  __device__ __forceinline__ float* own() { return margins_ + device::opaque(device::thread_index()); }
  __device__ __forceinline__ void add(float x) {
    float* const sum = own();
    device::store_shared(sum, device::load_shared(sum) + x);
  }

  float margins_[128 * outputs];  // (threads)
  alignas(16) float squares_[4];  // (warps of the state): of its elements
  bool are_within_;
};

}  // namespace cottention::sm90
