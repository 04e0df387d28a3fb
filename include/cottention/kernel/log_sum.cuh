// The gradient of scale_logit: dm = -sigmoid'(m) times the sum of ln(max(n, 1)) (x^ . dx^) over the rows that
// have weights, x^ the normalised key (scaled by key) or query (by query).
#pragma once

#include <cottention/device/barrier.cuh>
#include <cottention/device/collective.cuh>
#include <cottention/kernel/sequence.cuh>
#include <cottention/tile/weights.cuh>

namespace cottention::kernel {

/// Leaves what a block has summed in place y of unit x.
template <int threads>
__device__ __forceinline__ void store_log_sum(double* log_sums, int places, double own,
                                              device::BlockSumStorage<double, threads>& storage_shared) {
  device::sync_block();  // earlier readers of the storage are done
  const double sum = device::sum_over_block<threads>(own, storage_shared);
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
    ScaleLogit<Accumulate<T>> scale_logit{};
    Accumulate<T>* dscale_logit = nullptr;
    std::int64_t batch = 0;
    int heads_kv = 0, places = 0;
  };
  struct Storage {
    device::BlockSumStorage<double, threads> sum;
  };

  static __device__ __forceinline__ void run(const Params& params, Storage& storage) {
    const int head = device::block_x();
    double sum = 0;
    if (params.log_sums != nullptr)
      for (std::int64_t i = device::thread_index(); i < params.batch * params.places; i += threads) {
        const std::int64_t b = i / params.places, place = i % params.places;
        sum += device::load_global(params.log_sums + (b * params.heads_kv + head) * params.places + place);
      }
    sum = device::sum_over_block<threads>(sum, storage.sum);
    if (device::thread_index() != 0) return;
    const double slope = params.log_sums != nullptr
                             ? tile::sigmoid_slope(tile::load_scale_logit(params.scale_logit, head))
                             : 0.0;
    device::store_global(params.dscale_logit + head, static_cast<Accumulate<T>>(0.0 - slope * sum));
  }
};

}  // namespace cottention::kernel
