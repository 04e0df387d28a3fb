// A kernel as Hopper wants them, into which faults can be put: out = (sum over tiles c of) (2 q) k_c^T v_c. A
// warp brings tiles by TMA through a ring of two, a warpgroup multiplies them with wgmma, and the result
// leaves by TMA.
#pragma once

#include <cstdint>

#include <cuda_runtime.h>

#include <cottention/device/barrier.cuh>
#include <cottention/device/convert.cuh>
#include <cottention/device/mbarrier.cuh>
#include <cottention/device/memory.cuh>
#include <cottention/device/thread.cuh>
#include <cottention/device/tma.cuh>
#include <cottention/device/warp.cuh>
#include <cottention/device/wgmma.cuh>
#include <cottention/element.hpp>

namespace emulation_test {

enum class PipelineFault {
  none,
  no_wait_for_full,   // a tile is multiplied before it has landed
  no_wait_for_empty,  // a buffer is refilled while it is read
  wrong_parity,
  too_few_bytes,  // expected of a pair of tiles
  too_many_bytes,
  too_many_arrivals,  // expected of the consumers
  arrives_twice,
  no_init_fence,  // the copy engine does not know of the barriers
  barrier_not_initialised,
  barrier_overwritten,
  no_proxy_fence,  // q is scaled by ordinary stores, and multiplied
  one_warp_without_proxy_fence,
  no_product_fence,
  no_product_wait,
  shape_changes_in_flight,  // of products on the same sums
  wrong_stride,             // in the descriptor of k
  wrong_step,               // from 16 columns to the next
  wrong_major,              // of v
  tile_misaligned,
  one_warp_skips_product,
  no_store_wait,
  store_not_committed,
  no_fence_before_store,
};

template <PipelineFault fault>
struct Pipeline {
  static constexpr int rows = 64, dim = 64, stages = 2;
  using Element = cottention::bfloat16;
  using Fault = PipelineFault;

  struct Params {
    cottention::device::TensorMap q, k, v;  // (rows, dim), (tiles rows, dim)
    cottention::device::TensorMap out;      // fp32, (rows, dim), tiles of 32 columns
    int tiles;
  };
  struct Tile {
    alignas(1024) Element row[rows][dim];
  };
  struct Storage {
    Tile q, k[stages], v[stages];
    alignas(1024) float out[2][rows][dim / 2];
    cottention::device::Mbarrier q_full, full[stages], empty[stages];
  };
  static constexpr int threads = 160, min_blocks_per_sm = 1;
  static constexpr int consumers = 128, producer_warp = 4;
  static constexpr int tile_bytes = static_cast<int>(sizeof(Tile));

  __device__ static void initialise(Storage& storage) {
    cottention::device::mbarrier_init(&storage.q_full, 1);
    for (int i = 0; i < stages; ++i) {
      cottention::device::mbarrier_init(&storage.full[i], 1);
      if (fault != Fault::barrier_not_initialised)
        cottention::device::mbarrier_init(&storage.empty[i], fault == Fault::too_many_arrivals ? 5 : 4);
    }
    if (fault != Fault::no_init_fence) cottention::device::fence_mbarrier_init();
  }

  __device__ static void produce(const Params& params, Storage& storage) {
    auto* const q_tile =
        reinterpret_cast<unsigned char*>(&storage.q) + (fault == Fault::tile_misaligned ? 128 : 0);
    cottention::device::mbarrier_arrive_expect_tx(&storage.q_full, tile_bytes);
    cottention::device::tma_load(q_tile, &params.q, &storage.q_full, 0, 0);
    for (int c = 0; c < params.tiles; ++c) {
      const int stage = c % stages, round = c / stages % 2;
      if (fault != Fault::no_wait_for_empty)
        cottention::device::mbarrier_wait(&storage.empty[stage], round ^ 1);
      const int wrong = fault == Fault::too_few_bytes ? -tile_bytes : fault == Fault::too_many_bytes ? 16 : 0;
      cottention::device::mbarrier_arrive_expect_tx(&storage.full[stage], 2 * tile_bytes + wrong);
      cottention::device::tma_load(&storage.k[stage], &params.k, &storage.full[stage], 0, rows * c);
      cottention::device::tma_load(&storage.v[stage], &params.v, &storage.full[stage], 0, rows * c);
    }
  }

  // q *= 2, by ordinary stores.
  __device__ static void scale_queries(Storage& storage) {
    auto* const pairs = reinterpret_cast<std::uint32_t*>(&storage.q);
    for (int i = cottention::device::thread_index(); i < tile_bytes / 4; i += consumers) {
      const std::uint32_t pair = cottention::device::load_shared(pairs + i);
      cottention::device::store_shared(
          pairs + i, cottention::device::pack<Element>(2 * cottention::device::unpack_low<Element>(pair),
                                                       2 * cottention::device::unpack_high<Element>(pair)));
    }
    const bool skips = fault == Fault::no_proxy_fence || (fault == Fault::one_warp_without_proxy_fence &&
                                                          cottention::device::warp_index() == 2);
    if (!skips) cottention::device::fence_proxy_async();
    cottention::device::bar_sync(1, consumers);  // q is scaled, and shown to the tensor cores
  }

  // s = q k^T; both lie with a row's elements next to one another.
  __device__ static void multiply_queries_keys(float (&s)[rows / 2], const Storage& storage, int stage) {
    using cottention::device::matrix_descriptor, cottention::device::Swizzle, cottention::device::Major;
    constexpr int eight_rows = 8 * 2 * dim;
    const auto q = matrix_descriptor(&storage.q, 16, eight_rows, Swizzle::bytes_128);
    const auto k =
        matrix_descriptor(&storage.k[stage], 16, fault == Fault::wrong_stride ? eight_rows / 2 : eight_rows,
                          Swizzle::bytes_128);
    if (fault != Fault::no_product_fence) cottention::device::wgmma_fence();
    for (int step = 0; step < dim / 16; ++step) {
      if (fault == Fault::one_warp_skips_product && step == 3 && cottention::device::warp_index() == 1)
        continue;
      const int bytes = step * (fault == Fault::wrong_step ? 16 : 32);
      cottention::device::wgmma_m64k16<Element, rows, Major::k, Major::k>(
          s, q + bytes, k + bytes, step == 0 ? cottention::device::Sum::start : cottention::device::Sum::add);
    }
    cottention::device::wgmma_commit();
    if (fault != Fault::no_product_wait) cottention::device::wgmma_wait<0>();
    cottention::device::pin_registers(s);
  }

  // Of half of o's columns alone.
  __device__ static void multiply_half(float (&o)[dim / 2], const std::uint32_t (&a)[4],
                                       cottention::device::MatrixDescriptor v) {
    using cottention::device::Major, cottention::device::Sum;
    float(&half)[dim / 4] = reinterpret_cast<float(&)[dim / 4]>(o);
    cottention::device::wgmma_m64k16<Element, dim / 2, Major::mn>(half, a, v, Sum::add);
  }

  // o += s v, s from registers; the sum runs over the rows of v.
  __device__ static void multiply_weights_values(float (&o)[dim / 2], const float (&s)[rows / 2],
                                                 const Storage& storage, int stage) {
    using cottention::device::Major;
    constexpr Major major = fault == Fault::wrong_major ? Major::k : Major::mn;
    constexpr int eight_rows = 8 * 2 * dim;
    const auto v = cottention::device::matrix_descriptor(&storage.v[stage], 16, eight_rows,
                                                         cottention::device::Swizzle::bytes_128);
    std::uint32_t a[rows / 16][4];
    for (int step = 0; step < rows / 16; ++step)
      for (int i = 0; i < 4; ++i)
        a[step][i] = cottention::device::pack<Element>(s[8 * step + 2 * i], s[8 * step + 2 * i + 1]);
    cottention::device::wgmma_fence();
    if (fault == Fault::shape_changes_in_flight) multiply_half(o, a[0], v);
    for (int step = 0; step < rows / 16; ++step)
      cottention::device::wgmma_m64k16<Element, dim, major>(o, a[step], v + 2 * eight_rows * step,
                                                            cottention::device::Sum::add);
    cottention::device::wgmma_commit();
    cottention::device::wgmma_wait<0>();
    cottention::device::pin_registers(o);
  }

  __device__ static void store(const Params& params, Storage& storage, const float (&o)[dim / 2]) {
    const int lane = cottention::device::lane_index(), warp = cottention::device::warp_index();
    for (int i = 0; i < dim / 2; ++i) {
      const int row = 16 * warp + lane / 4 + 8 * (i / 2 % 2), column = 8 * (i / 4) + 2 * (lane % 4) + i % 2;
      cottention::device::store_shared(&storage.out[column / 32][row][column % 32], o[i]);
    }
    if (fault != Fault::no_fence_before_store) cottention::device::fence_proxy_async();
    cottention::device::bar_sync(1, consumers);  // the result is written, and shown to the copy engine
    if (cottention::device::thread_index() != 0) return;
    for (int half = 0; half < 2; ++half)
      cottention::device::tma_store(&params.out, storage.out[half], 32 * half, 0);
    if (fault != Fault::store_not_committed) cottention::device::cp_async_bulk_commit();
    if (fault != Fault::no_store_wait) cottention::device::cp_async_bulk_wait_read<0>();
  }

  __device__ static void run(const Params& params, Storage& storage) {
    const int thread = cottention::device::thread_index(), lane = cottention::device::lane_index();
    if (thread == 0) initialise(storage);
    cottention::device::sync_block();  // the barriers are there
    if (cottention::device::warp_index() == producer_warp) {
      if (lane == 0) produce(params, storage);
      return;
    }
    if (fault == Fault::barrier_overwritten && thread == 5)
      cottention::device::store_shared(&storage.empty[1].bits, std::uint64_t{0});

    cottention::device::mbarrier_wait(&storage.q_full, 0);
    scale_queries(storage);
    float o[dim / 2];
    for (float& x : o) x = 0;
    for (int c = 0; c < params.tiles; ++c) {
      const int stage = c % stages, round = c / stages % 2;
      if (fault != Fault::no_wait_for_full)
        cottention::device::mbarrier_wait(&storage.full[stage],
                                          round ^ (fault == Fault::wrong_parity ? 1 : 0));
      float s[rows / 2];
      multiply_queries_keys(s, storage, stage);
      multiply_weights_values(o, s, storage, stage);
      if (lane == 0 || (fault == Fault::arrives_twice && lane == 1))
        cottention::device::mbarrier_arrive(&storage.empty[stage]);
    }
    store(params, storage, o);
  }
};

}  // namespace emulation_test
