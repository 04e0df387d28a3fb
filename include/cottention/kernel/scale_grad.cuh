// The gradient of scale_logit: dm = -sigmoid'(m) times the sum of ln(max(n, 1)) (x^ . dx^) over the rows that
// have weights, x^ the normalised key (scaled by key) or query (by query).
#pragma once

#include <cottention/device/barrier.cuh>
#include <cottention/device/collective.cuh>
#include <cottention/kernel/params.cuh>
#include <cottention/tile/weights.cuh>

namespace cottention::kernel {

/// Writes the sum over a block of what its threads have summed, as partial y of head x. Scope: block;
/// barriers inside: 2.
template <int threads>
__device__ __forceinline__ void store_scale_grad(double* scale_grad_partials, int partials_per_head,
                                                 double own,
                                                 device::BlockSumStorage<double, threads>& storage_shared) {
  device::sync_block();  // earlier readers of the storage are done
  const double sum = device::sum_over_block<threads>(own, storage_shared);
  if (device::thread_index() == 0)
    device::store_global(
        scale_grad_partials + std::int64_t{device::block_x()} * partials_per_head + device::block_y(), sum);
}

/// Adds up the partials of a head and writes its gradient. Blocks: x = key/value head.
template <Element T>
struct ScaleGrad {
  static constexpr int threads = 128;
  static constexpr int min_blocks_per_sm = 1;

  struct Params {
    const double* scale_grad_partials = nullptr;  // [batch, heads_kv, partials_per_head]; null: all 0
    ScaleLogit<Accumulate<T>> scale_logit{};
    Accumulate<T>* dscale_logit = nullptr;
    std::int64_t batch = 0;
    int heads_kv = 0, partials_per_head = 0;
  };
  struct Storage {
    device::BlockSumStorage<double, threads> sum;
  };

  static __device__ __forceinline__ void run(const Params& params, Storage& storage) {
    const int head = device::block_x();
    double sum = 0;
    if (params.scale_grad_partials != nullptr)
      for (std::int64_t i = device::thread_index(); i < params.batch * params.partials_per_head;
           i += threads) {
        const std::int64_t b = i / params.partials_per_head, place = i % params.partials_per_head;
        sum += device::load_global(params.scale_grad_partials +
                                   (b * params.heads_kv + head) * params.partials_per_head + place);
      }
    sum = device::sum_over_block<threads>(sum, storage.sum);
    if (device::thread_index() != 0) return;
    const double slope = params.scale_grad_partials != nullptr
                             ? tile::sigmoid_slope(tile::load_scale_logit(params.scale_logit, head))
                             : 0.0;
    device::store_global(params.dscale_logit + head, static_cast<Accumulate<T>>(0.0 - slope * sum));
  }
};

}  // namespace cottention::kernel
