// A kernel like the library's own, into which faults can be put: out = tril(q k^T) v with tiles that travel
// by cp.async through two buffers, rows swizzled against bank conflicts, ldmatrix and mma.sync.
#pragma once

#include <cstdint>

#include <cuda_runtime.h>

#include <cottention/device/async_copy.cuh>
#include <cottention/device/barrier.cuh>
#include <cottention/device/convert.cuh>
#include <cottention/device/matrix.cuh>
#include <cottention/device/memory.cuh>
#include <cottention/device/mma.cuh>
#include <cottention/device/thread.cuh>
#include <cottention/device/warp.cuh>
#include <cottention/element.hpp>

namespace emulation_test {

enum class Fault {
  none,
  no_barrier_after_wait,     // a warp reads what other warps' copies have yet to bring
  no_barrier_before_refill,  // a buffer is refilled while other warps read it
  no_wait,
  wait_off_by_one,   // the last tile's copies stay in flight
  never_waited_for,  // copies are begun whose tile is never used
  wrong_swizzle,
  no_transpose,
  wrong_mask,
  tail_not_zeroed,  // rows past the end of k and v keep what the buffer held
  global_overrun,   // ... or are read past the end of the tensors
  shared_overrun,   // a third buffer where there are two
  barrier_in_branch,
  product_in_branch,
  exit_before_barrier,
  exit_before_product,
};

template <Fault fault>
struct Triangle {
  static constexpr int tile = 64, dim = 64;  // rows of a tile, elements of a row
  using Element = cottention::bfloat16;

  struct Params {
    float* out;        // (rows, dim)
    const Element* q;  // (rows, dim), as are k and v
    const Element* k;
    const Element* v;
    int rows;
  };
  struct Tile {
    alignas(16) Element row[tile][dim];
  };
  struct Storage {
    Tile q, k[2], v[2];
  };
  static constexpr int threads = 128, min_blocks_per_sm = 1;
  static constexpr int units = dim / 8;  // of 16 bytes, in a row

  using Accumulator = float[dim / 8][4];  // of a warp's 16 rows

  // Where unit `unit` of a row lies: eight rows' units of one column are in eight different groups of banks.
  __device__ static const Element* place(const Tile& t, int row, int unit) {
    return t.row[row] + 8 * (unit ^ row % 8);
  }

  __device__ static void begin_copy(Tile& to, const Element* from, int rows) {
    for (int i = cottention::device::thread_index(); i < tile * units; i += threads) {
      const int row = i / units, unit = i % units;
      const bool inside = row < rows || fault == Fault::global_overrun;
      if (fault == Fault::tail_not_zeroed && !inside) continue;
      cottention::device::cp_async_16(const_cast<Element*>(place(to, row, unit)),
                                      from + (inside ? row * dim + 8 * unit : 0), inside ? 16 : 0);
    }
  }

  // s = q k^T for the warp's rows.
  __device__ static void multiply_queries_keys(Accumulator& s, const Tile& q_shared, const Tile& k_shared) {
    const int lane = cottention::device::lane_index(), first = 16 * cottention::device::warp_index();
    for (int step = 0; step < dim / 16; ++step) {
      std::uint32_t a[4];
      cottention::device::ldmatrix_x4(a, place(q_shared, first + lane % 16, 2 * step + lane / 16));
      for (int n = 0; n < tile / 16; ++n) {
        std::uint32_t b[4];
        cottention::device::ldmatrix_x4(
            b, place(k_shared, 16 * n + lane % 8 + lane / 16 * 8, 2 * step + lane / 8 % 2));
        cottention::device::mma_m16n8k16<Element>(s[2 * n], a, {b[0], b[1]});
        cottention::device::mma_m16n8k16<Element>(s[2 * n + 1], a, {b[2], b[3]});
      }
    }
  }

  __device__ static void mask(Accumulator& s) {
    const int lane = cottention::device::lane_index();
    for (int n = 0; n < tile / 8; ++n)
      for (int i = 0; i < 4; ++i) {
        const int row = 16 * cottention::device::warp_index() + lane / 4 + 8 * (i / 2),
                  column = 8 * n + 2 * (lane % 4) + i % 2;
        if (fault == Fault::wrong_mask ? column >= row : column > row) s[n][i] = 0;
      }
  }

  // o += s v for the warp's rows.
  __device__ static void multiply_weights_values(Accumulator& o, const Accumulator& s, const Tile& v_shared) {
    const int lane = cottention::device::lane_index();
    for (int step = 0; step < tile / 16; ++step) {
      std::uint32_t a[4];
      for (int i = 0; i < 4; ++i)
        a[i] = cottention::device::pack<Element>(s[2 * step + i / 2][i % 2 * 2],
                                                 s[2 * step + i / 2][i % 2 * 2 + 1]);
      for (int n = 0; n < dim / 16; ++n) {
        const int row = 16 * step + lane % 16, unit = 2 * n + lane / 16;
        const Element* at = fault == Fault::wrong_swizzle ? v_shared.row[row] + 8 * (unit ^ row % 4)
                                                          : place(v_shared, row, unit);
        std::uint32_t b[4];
        if constexpr (fault == Fault::no_transpose)
          cottention::device::ldmatrix_x4(b, at);
        else
          cottention::device::ldmatrix_x4_trans(b, at);
        if (fault == Fault::product_in_branch && lane < 16)
          cottention::device::mma_m16n8k16<Element>(o[2 * n], a, {b[0], b[1]});
        else
          cottention::device::mma_m16n8k16<Element>(o[2 * n], a, {b[0], b[1]});
        cottention::device::mma_m16n8k16<Element>(o[2 * n + 1], a, {b[2], b[3]});
      }
    }
  }

  __device__ static void store(const Params& params, const Accumulator& o, int first_row) {
    const int lane = cottention::device::lane_index();
    for (int n = 0; n < dim / 8; ++n)
      for (int half = 0; half < 2; ++half) {
        const int row = first_row + 16 * cottention::device::warp_index() + lane / 4 + 8 * half;
        if (row < params.rows)
          cottention::device::store_global(reinterpret_cast<cottention::device::Vector<float, 2>*>(
                                               params.out + row * dim + 8 * n + 2 * (lane % 4)),
                                           {{o[n][2 * half], o[n][2 * half + 1]}});
      }
  }

  __device__ static void begin_tile(const Params& params, Storage& storage, int c) {
    const int buffer = fault == Fault::shared_overrun ? c % 3 : c % 2;
    begin_copy(storage.k[buffer], params.k + c * tile * dim, params.rows - c * tile);
    begin_copy(storage.v[buffer], params.v + c * tile * dim, params.rows - c * tile);
    cottention::device::cp_async_commit();
  }

  __device__ static void wait_for_tile(int c, int last) {
    if (fault == Fault::no_wait) return;
    if (c < last || fault == Fault::wait_off_by_one)
      cottention::device::cp_async_wait<1>();
    else
      cottention::device::cp_async_wait<0>();
  }

  __device__ static void run(const Params& params, Storage& storage) {
    const int last = cottention::device::block_x(),
              warp = cottention::device::warp_index();  // tile of the queries
    begin_copy(storage.q, params.q + last * tile * dim, params.rows - last * tile);
    begin_tile(params, storage, 0);
    Accumulator o = {};
    for (int c = 0; c <= last; ++c) {
      if (c < last || fault == Fault::never_waited_for) begin_tile(params, storage, c + 1);
      if (fault == Fault::never_waited_for)
        cottention::device::cp_async_wait<1>();
      else
        wait_for_tile(c, last);
      if (fault == Fault::exit_before_barrier && warp == 3) return;
      if (fault == Fault::barrier_in_branch && cottention::device::lane_index() < 16)
        cottention::device::sync_block();
      else if (fault != Fault::no_barrier_after_wait)
        cottention::device::sync_block();  // the copies of all threads are visible to all
      Accumulator s = {};
      if (fault == Fault::exit_before_product && cottention::device::lane_index() == 7) return;
      multiply_queries_keys(s, storage.q, storage.k[c % 2]);
      if (c == last) mask(s);
      multiply_weights_values(o, s, storage.v[c % 2]);
      if (fault != Fault::no_barrier_before_refill)
        cottention::device::sync_block();  // all have read the buffers
    }
    store(params, o, last * tile);
  }
};

}  // namespace emulation_test
