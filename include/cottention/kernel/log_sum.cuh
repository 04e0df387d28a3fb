// The gradient of scale_logit: dm = -sigmoid'(m) times the sum of ln(max(n, 1)) (x^ . dx^) over the rows that
// have weights, x^ the normalised key (scaled by key) or query (by query).
#pragma once

#include <cottention/kernel/sequence.cuh>
#include <cottention/tile/norms.cuh>
#include <cottention/tile/weights.cuh>

namespace cottention::kernel {

/// The sum over a block, in thread 0, through one number a warp. Always in the same order.
template <int warps>
__device__ __forceinline__ double sum_over_block(double x, std::int64_t* scratch_shared) {
  x = tile::sum_over_warp(x);
  device::sync_block();  // earlier readers of scratch are done
  if (device::lane_index() == 0)
    device::store_shared(scratch_shared + device::warp_index(), device::bits_as<std::int64_t>(x));
  device::sync_block();  // the warps' sums are written
  if (device::thread_index() != 0) return 0;
  x = 0;
#pragma unroll
  for (int w = 0; w < warps; ++w) x += device::bits_as<double>(device::load_shared(scratch_shared + w));
  return x;
}

/// Leaves what a block has summed in place y of unit x.
template <int warps>
__device__ __forceinline__ void store_log_sum(double* log_sums, int places, double own,
                                              std::int64_t* scratch_shared) {
  const double sum = sum_over_block<warps>(own, scratch_shared);
  if (device::thread_index() == 0)
    device::store_global(log_sums + std::int64_t{device::block_x()} * places + device::block_y(), sum);
}

/// Adds them up. Blocks: x = key/value head.
template <Element T>
struct LogSum {
  static constexpr int threads = 128;
  static constexpr int blocks_per_multiprocessor = 1;

  struct Params {
    const double* log_sums = nullptr;  // [batch, heads_kv, places]; null: all 0
    const Accumulate<T>* scale_logit = nullptr;
    Accumulate<T>* dscale_logit = nullptr;
    std::int64_t batch = 0;
    int heads_kv = 0, places = 0;
  };
  struct Storage {
    std::int64_t scratch[threads / device::warp_size];
  };

  static __device__ __forceinline__ void run(const Params& params, Storage& storage) {
    const int head = device::block_x();
    double sum = 0;
    if (params.log_sums != nullptr)
      for (std::int64_t i = device::thread_index(); i < params.batch * params.places; i += threads) {
        const std::int64_t b = i / params.places, place = i % params.places;
        sum += device::load_global(params.log_sums + (b * params.heads_kv + head) * params.places + place);
      }
    sum = sum_over_block<threads / device::warp_size>(sum, storage.scratch);
    if (device::thread_index() != 0) return;
    const double slope = params.log_sums != nullptr
                             ? tile::sigmoid_slope(device::load_global(params.scale_logit + head))
                             : 0.0;
    device::store_global(params.dscale_logit + head, static_cast<Accumulate<T>>(0.0 - slope * sum));
  }
};

}  // namespace cottention::kernel
