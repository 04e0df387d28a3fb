// Whether products with a published state take its low part, where kernels make more than one gradient.
//
// In bf16 a state as an operand is the sum of a high and a low part. Without the low one each element is
// rounded to bf16, by r = 2^-9.2 of it in root mean square, and so a row of an output, f_i a_i H, errs by
// about
//
//     r f_i ||a_i|| ||H|| / sqrt(columns of a)          ||H||: the root of the sum of squares
//
// which is r of the row itself, unless terms of a_i H cancel, or the norm backward takes most of it away. So
// the warps of an output sum up, over the rows of all chunks,
//
//     allowed ||out_i||^2 - (f_i ||a_i|| ||H||)^2 / (columns of a) - (what the norm backward takes away)^2
//
// Before a state is published, its warpgroup takes the sums over the chunks up to the second one before,
// subtracts what this chunk and the one before may add to the error if their a_i are like those of the last
// chunk summed, and if a sum is not positive then for some output, products take the low part. So the first
// two chunks of a piece do, and chunks after a sum that is not finite or vanishes. All of it follows from the
// piece's own rows alone.
#pragma once

#include <concepts>

#include <cottention/device/barrier.cuh>
#include <cottention/sm90/tiles.cuh>
#include <cottention/tile/norm_backward.cuh>
#include <cottention/tile/over_warp.cuh>

namespace cottention::sm90 {

/// In shared memory. outputs: that are made of the state, each by a warpgroup.
template <Element T, int outputs>
class LowParts {
 public:
  /// In half the low part is what keeps elements far below the largest one, so products always take it.
  static constexpr bool are_optional = std::same_as<T, bfloat16>;

  /// Scope: block; a barrier must follow.
  __device__ __forceinline__ void set_zero() {
    const int thread = device::opaque(device::thread_index());  // or the address stays in a register
    if (thread < 2 * warps) device::store_shared(sums_[0] + thread, Sum{});
  }

  // ---- scope: the warpgroup that publishes the state, behind the arrivals at its `empty`

  /// Whether products of a chunk, behind `chunks` others, are to take the low part, which readers are told.
  /// squares: of the lane's elements of the state. Barriers inside: 1, barrier 2.
  __device__ __forceinline__ bool decide(int chunks, float squares) {
    if constexpr (!are_optional) return true;
    const float of_warp = tile::sum_over_warp(squares);
    if (lane_index() == 0) device::store_shared(squares_ + warp_in_group(), of_warp);
    device::bar_sync(2, 128);
    const float of_state = 2 * squares_of_state();
    bool are_within = true;
#pragma unroll
    for (int output = 0; output < outputs; ++output) {
      float margin = 0;
#pragma unroll
      for (int warp = 0; warp < 4; ++warp) {
        const Sum sum = device::load_shared(sums_[chunks % 2] + 4 * output + warp);
        margin += device::fma(-of_state, sum.a, sum.margin);
      }
      are_within = are_within && margin >= min_margin && margin <= max_margin;
    }
    if (lane_index() == 0 && warp_in_group() == 0) device::store_shared(&has_low_, !are_within);
    return !are_within;
  }

  // ---- scope: warps of outputs, for each chunk, or each query head of the group in it, in this order

  /// a: the lane's part of the sum of (f ||a||)^2 / (columns of a).
  __device__ __forceinline__ void start(int output, float a) {
    const float of_warp = tile::sum_over_warp(a);
    if (lane_index() == 0) device::store_shared(&started_[own(output)].a, of_warp);
  }
  /// Whether products take the low part. Between `full` and the arrival at `empty`.
  __device__ __forceinline__ bool are_there(int output) {
    if constexpr (!are_optional) return true;
    if (lane_index() == 0) {
      Sum* const started = started_ + own(output);
      device::store_shared(&started->margin, -device::load_shared(&started->a) * squares_of_state());
    }
    return device::load_shared(&has_low_);
  }
  /// Adds the rows. Before the arrival at the next `empty`. chunks: before the chunk; continues: some of its
  /// rows have been added. Of the lane, squares: those of its elements of out; taken_away: by the norm
  /// backward.
  __device__ __forceinline__ void add(int output, int chunks, bool continues, float squares,
                                      float taken_away = 0) {
    const float margin = tile::sum_over_warp(device::fma(allowed, squares, -taken_away));
    if (lane_index() != 0) return;
    const int at = own(output);
    const Sum started = device::load_shared(started_ + at);
    const Sum before = device::load_shared(sums_[continues ? chunks % 2 : (chunks + 1) % 2] + at);
    device::store_shared(sums_[chunks % 2] + at, Sum{before.margin + margin + started.margin,
                                                     continues ? before.a + started.a : started.a});
  }
  /// The squares of what the norm backward takes away from the lane's rows.
  static __device__ __forceinline__ float taken_away(const tile::NormBackward<float> (&backward)[2],
                                                     const float (&products)[2]) {
    float squares = 0;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const float along = products[h] * backward[h].scale;
      squares = device::fma(along * backward[h].slope, along, squares);
    }
    return lane_index() % 4 == 0 ? squares : 0.0f;  // four lanes share the rows
  }

 private:
  struct alignas(8) Sum {
    float margin, a;  // up to a chunk, and of that chunk
  };
  static constexpr int warps = 4 * outputs;

  static __device__ __forceinline__ int own(int output) { return 4 * output + warp_in_group(); }
  /// ||H||^2.
  __device__ __forceinline__ float squares_of_state() const {
    const auto of_warps = device::load_shared(reinterpret_cast<const device::Vector<float, 4>*>(squares_));
    return (of_warps[0] + of_warps[1]) + (of_warps[2] + of_warps[3]);
  }

  /// Where an output is rows of random numbers times a state of random numbers, the error's square is 1 of
  /// its square here. Rounding the output costs as much, so at the limit an output is off by twice that, or
  /// 3.4e-3, of the 6e-3 that gradients may be.
  static constexpr float allowed = 3;
  /// Outside, squares may have left fp32's range.
  static constexpr float min_margin = 0x1p-80f, max_margin = 0x1p100f;

  alignas(16) Sum sums_[2][warps];  // (chunk % 2, warps of outputs)
  Sum started_[warps];              // of the rows at hand
  alignas(16) float squares_[4];    // (warps of the state): of its elements
  bool has_low_;
};

}  // namespace cottention::sm90
