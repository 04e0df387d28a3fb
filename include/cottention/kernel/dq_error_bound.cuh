// The error bound of dq where one pass over the chunks makes all causal gradients.
//
// That pass has S, the sum of k v^T before a chunk, by downdating: from the final state on, each chunk
// subtracts its own terms. What rounding leaves in S, an error E, enters dq as E g, with the weights and the
// 1 / ||q|| of dq's rows. The kernel sums squares of S, v, g and dq over a head, or a piece of it, and
// exceeds() compares a bound of E g with dq; without the 1 / ||q|| too, which may vary so much that a few
// rows are all of the sum.
//
// The bound of E adds up independent errors: of the terms of a chunk, relative to S at most `term_error`, and
// of S as it is rounded each time, in the mean square `sum_error`. Roundings of chunks that repeat do not
// average out: `repeated_sum_error`. Errors that lean one way leave S off the initial state in the end, and
// that distance is added.
//
// Scaled by query, the gradient of m is a sum of log(n) (q^ . dq^), of which 1 / sqrt(dim_qk) of an error
// falls on q^. Where more does, chunk after chunk, the distance from the initial state shows it.
//
// Where a sequence is cut, each piece has a bound of its own, and S before the piece is its initial state.
#pragma once

#include <concepts>

#include <cottention/device/barrier.cuh>
#include <cottention/device/collective.cuh>
#include <cottention/device/math.cuh>
#include <cottention/device/memory.cuh>
#include <cottention/problem.hpp>

namespace cottention::kernel {

/// Sums of squares over all chunks of a head, of S the largest one, in shared memory: lanes have no registers
/// for them. A block of `threads` threads has `observers` sums of each: each sum is added to by one thread,
/// whose index modulo `observers` is the sum's.
template <AnyProblem P, int threads, int observers = threads>
class DqErrorBound {
 public:
  using Scratch = device::BlockSumStorage<double, threads>;

  // ---- scope of these: thread

  __device__ __forceinline__ void set_zero() {
    if (!has_own()) return;
    for (float* sum : {s_, dq_, grad_unit_q_, g_over_q_, g_, v_, scale_grad_, g_log_})
      device::store_shared(sum + own(), 0.0f);
  }

  /// `squares`: the sum of the squares of the thread's elements of S. The largest one counts.
  __device__ __forceinline__ void observe_state(float squares) {
    float* const largest = s_ + own();
    if (squares > device::load_shared(largest) || !device::is_finite(squares))
      device::store_shared(largest, squares);
  }
  /// A query's ||g|| times its weight, 0 where all of g is 0, and 1 / ||q||.
  __device__ __forceinline__ void observe_query(float g, float over_q) {
    if (g == 0) return;
    add(g_over_q_, at_least_smallest(g * over_q));
    add(g_, at_least_smallest(g));
  }
  /// A key's ||v|| times its weight.
  __device__ __forceinline__ void observe_key(float v) { add(v_, v); }
  /// The thread's elements of dq, before or after it goes through the norm: for_each(f) calls f with each.
  template <bool after_norm, class ForEach>
  __device__ __forceinline__ void observe_dq(ForEach for_each) {
    float* const sum = (after_norm ? dq_ : grad_unit_q_) + own();
    float squares = device::load_shared(sum);
    for_each([&squares](float x) { squares = device::fma(x, x, squares); });
    device::store_shared(sum, squares);
  }
  /// Sums of squares of elements of dq, before and after they go through the norm.
  __device__ __forceinline__ void add_dq(float before_norm, float after_norm) {
    const int at = own();
    float *const before = grad_unit_q_ + at, *const after = dq_ + at;
    device::store_shared(before, device::load_shared(before) + before_norm);
    device::store_shared(after, device::load_shared(after) + after_norm);
  }
  /// A row's term of the gradient of m, log(n) (q^ . dq^), and log(n) ||g|| with g's weight.
  __device__ __forceinline__ void observe_scale_grad(float term, float g_log) {
    if (g_log == 0) return;
    add(scale_grad_, term);
    add(g_log_, at_least_smallest(g_log));
  }

  /// Whether the error may be more than is allowed, as thread 0 is told. chunks: additions to S that have
  /// been rounded, two for each. `off`: the sum of the squared
  /// distances of the thread's elements of S, with all chunks subtracted, from the initial state. Scope:
  /// block; barriers inside: 14, or 18 with wants_scale_grad.
  __device__ __forceinline__ bool exceeds(double off, int chunks, bool wants_dq, bool wants_scale_grad,
                                          Scratch& scratch) const {
    const auto over_block = [&scratch](double x) {
      device::sync_block();  // readers of the sum before are done
      return device::sum_over_block<threads>(x, scratch);
    };
    const auto total = [&over_block](const float* squares) {
      return over_block(has_own() ? device::load_shared(squares + own()) : 0.0f);
    };
    const double off_total = over_block(off);
    const double s = total(s_), v = total(v_), g_over_q = total(g_over_q_), dq = total(dq_);
    const double g = total(g_), grad_unit_q = total(grad_unit_q_);
    const double g_log = wants_scale_grad ? total(g_log_) : 0;
    const double scale_grad = wants_scale_grad ? total(scale_grad_) : 0;
    if (device::thread_index() != 0) return false;
    const double repeated_sums = repeated_sum_error * chunks;
    const double rounded = term_error * term_error * (s + v) +
                           (chunks * (sum_error * sum_error) + repeated_sums * repeated_sums) * s;
    const double error = off_total + rounded, error_along_q = off_total + rounded / P::head_dim.qk;
    bool within = s >= min_squares && s <= max_squares;
    if (wants_dq) within = within && is_within(error, g_over_q, dq) && is_within(error, g, grad_unit_q);
    if (wants_scale_grad) within = within && is_within(error_along_q, g_log, scale_grad);
    return !within;
  }

 private:
  static constexpr bool is_half = std::same_as<typename P::element, half>;
  /// Of the hi/lo operands, at most: equal terms err alike.
  static constexpr double split_error = is_half ? 0x1p-20 : 0x1p-15;
  /// Of a chunk's sum. Tensor cores truncate it with each of their products, so it is always too small: in a
  /// model of those that truncate most, of equal terms, by at most 2^-18.9 (2^-19.6 in bf16) in the forward
  /// call's chunks of 64, and by half of that in chunks of 32. The sum that is subtracted errs the same way,
  /// so at most the greater of both is left.
  static constexpr double cut_error = is_half ? 0x1.2p-19 : 0x1p-19;
  static constexpr double term_error = split_error + cut_error;
  /// In the mean square, of one addition in fp32 by the forward call and one here: 2^-23 / sqrt(12) of the
  /// power of two below the sum, twice.
  static constexpr double sum_error = 0x1.3p-25;
  /// Of the sum in each chunk, while equal chunks are added: the roundings within a binade then lean one way,
  /// and those of the forward call's longer chunks another. 2^-26.3 in a model of both with 2^20 equal
  /// tokens.
  static constexpr double repeated_sum_error = 0x1p-26;
  /// Of the length of dq. With the 2^-9.2 or 2^-12.2 that rounding dq to its type costs, dq stays within the
  /// accuracy of gradients, 2^-7.4 or 2^-10.
  static constexpr double allowed_error = is_half ? 0x1p-11 : 0x1p-8;
  /// Sums of squares outside may have lost to fp32's range what counts. Within they have not, though squares
  /// vanish from 2^-126 down with fast-math.
  static constexpr double min_squares = 0x1p-80, max_squares = 0x1p100;
  /// What a g that is not zero counts as at least, so that its square does not vanish: 2^39 of them are below
  /// min_squares. A g that counts as more than it is makes the bound a stricter one.
  static constexpr float smallest = 0x1p-60f;

  /// Where all rows of g are zero, those of dq are, whatever S is off by.
  static __device__ __forceinline__ bool is_within(double error, double g, double result) {
    if (g == 0) return true;
    return g >= min_squares && result <= max_squares && error * g <= allowed_error * allowed_error * result;
  }
  /// A NaN stays one.
  static __device__ __forceinline__ float at_least_smallest(float x) { return x < smallest ? smallest : x; }
  static __device__ __forceinline__ void add(float* sums, float x) {
    sums += own();
    device::store_shared(sums, device::fma(x, x, device::load_shared(sums)));
  }
  /// Whether the thread is the first of those that have a sum.
  static __device__ __forceinline__ bool has_own() {
    return observers == threads || device::thread_index() < observers;
  }
  static __device__ __forceinline__ int own() {
    if constexpr (observers == threads)
      return device::thread_index();
    else
      return device::opaque(device::thread_index()) % observers;
  }

  float s_[observers], dq_[observers], grad_unit_q_[observers];
  float g_over_q_[observers], g_[observers], v_[observers];
  float scale_grad_[observers], g_log_[observers];
};

}  // namespace cottention::kernel
