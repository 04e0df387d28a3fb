// Copies of host arrays in device memory, and back.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <vector>

#include <cuda_runtime.h>

#include <cottention/arguments.hpp>
#include <cottention/pool.hpp>

#include "support/buffer.hpp"
#include "support/catch.hpp"

namespace support {

/// Device memory for the arrays of one call. What is not const comes back with `download`, which also checks
/// the guard zones around each array.
class Mirror {
 public:
  Mirror() = default;
  Mirror(const Mirror&) = delete;
  Mirror& operator=(const Mirror&) = delete;
  ~Mirror() {
    for (const Copy& copy : copies_) (void)cudaFree(copy.memory);
  }

  /// A copy of `count` values. Null for null.
  template <class T>
  T* array(T* host, std::int64_t count) {
    if (host == nullptr) return nullptr;
    using Value = std::remove_const_t<T>;
    Copy copy{nullptr, nullptr, host, static_cast<std::size_t>(count) * sizeof(T)};
    const std::size_t room = guard + copy.bytes + guard;
    REQUIRE(cudaMalloc(&copy.memory, room + (room == 0)) == cudaSuccess);
    if constexpr (!std::is_const_v<T>) copy.host = host;
    copies_.push_back(copy);
    REQUIRE(cudaMemset(copy.memory, nan_byte, room) == cudaSuccess);
    REQUIRE(cudaMemcpy(copy.array(), host, copy.bytes, cudaMemcpyHostToDevice) == cudaSuccess);
    return static_cast<Value*>(copy.array());
  }

  template <class A>
  cottention::ScaleLogit<A> array(const cottention::ScaleLogit<A>& m, std::int64_t count) {
    if (m.narrow != nullptr) return array(m.narrow, count);
    return array(m.data, count);
  }

  /// A copy of a tensor with whatever lies between its rows.
  template <class T>
  cottention::Tensor<T> tensor(cottention::Tensor<T> x, std::int64_t batch, std::int64_t seq,
                               std::int64_t heads, std::int64_t dim) {
    if (batch == 0 || seq == 0 || heads == 0) return x;
    const cottention::Strides s = cottention::resolve(x.strides, seq, heads, dim);
    const std::int64_t count = (batch - 1) * s.batch + (seq - 1) * s.seq + (heads - 1) * s.head + dim;
    x.data = array(x.data, count);
    return x;
  }

  /// Where the copy of a tensor has what `host` points to; null where it has no copy.
  template <class T>
  T* within(T* host) const {
    const auto at = reinterpret_cast<std::uintptr_t>(host);
    for (const Copy& copy : copies_) {
      const auto first = reinterpret_cast<std::uintptr_t>(copy.original);
      if (first <= at && at <= first + copy.bytes)
        return reinterpret_cast<T*>(reinterpret_cast<std::uintptr_t>(copy.array()) + (at - first));
    }
    return nullptr;
  }

  cottention::Offsets offsets(const cottention::Offsets& x, std::int64_t batch) {
    if (x.int32() != nullptr) return array(x.int32(), batch + 1);
    if (x.int64() != nullptr) return array(x.int64(), batch + 1);
    return {};
  }

  template <cottention::Element T>
  cottention::ForwardArguments<T> forward(cottention::ForwardArguments<T> args) {
    const cottention::Shape& s = args.shape;
    const std::int64_t rows = args.cu_seqlens_q.given() ? 1 : s.batch;
    const std::int64_t states = cottention::detail::states_of(args);
    const std::int64_t state = states * s.heads_kv * s.dim_qk * s.dim_v;
    args.q = tensor(args.q, rows, s.seq_q, s.heads_q, s.dim_qk);
    args.k = tensor(args.k, rows, s.seq_k, s.heads_kv, s.dim_qk);
    args.v = tensor(args.v, rows, s.seq_k, s.heads_kv, s.dim_v);
    args.o = tensor(args.o, rows, s.seq_q, s.heads_q, s.dim_v);
    args.scale_logit = array(args.scale_logit, s.heads_kv);
    args.query_mask = array(args.query_mask, rows * s.seq_q);
    args.key_mask = array(args.key_mask, rows * s.seq_k);
    args.cu_seqlens_q = offsets(args.cu_seqlens_q, s.batch);
    args.cu_seqlens_k = offsets(args.cu_seqlens_k, s.batch);
    const bool in_place = args.initial_state.h != nullptr && args.initial_state.h == args.final_state.h;
    args.final_state.h = array(args.final_state.h, state);
    args.final_state.count = array(args.final_state.count, states);
    args.read_slot = array(args.read_slot, s.batch);
    args.write_slot = array(args.write_slot, s.batch);
    if (in_place) {
      args.initial_state = {args.final_state.h, args.final_state.count};
    } else {
      args.initial_state.h = array(args.initial_state.h, state);
      args.initial_state.count = array(args.initial_state.count, states);
    }
    return args;
  }

  template <cottention::Element T>
  cottention::StepArguments<T> step(cottention::StepArguments<T> args) {
    const cottention::Shape& s = args.shape;
    args.q = tensor(args.q, s.batch, s.seq_q, s.heads_q, s.dim_qk);
    args.k = tensor(args.k, s.batch, s.seq_k, s.heads_kv, s.dim_qk);
    args.v = tensor(args.v, s.batch, s.seq_k, s.heads_kv, s.dim_v);
    args.o = tensor(args.o, s.batch, s.seq_q, s.heads_q, s.dim_v);
    args.scale_logit = array(args.scale_logit, s.heads_kv);
    args.pool.h = array(args.pool.h, args.pool_slots * s.heads_kv * s.dim_qk * s.dim_v);
    args.pool.count = array(args.pool.count, args.pool_slots);
    args.slot = array(args.slot, s.batch);
    args.accepted = array(args.accepted, s.batch);
    return args;
  }

  void download() {
    REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
    for (const Copy& copy : copies_) {
      if (copy.host != nullptr)
        REQUIRE(cudaMemcpy(copy.host, copy.array(), copy.bytes, cudaMemcpyDeviceToHost) == cudaSuccess);
      for (const std::size_t zone : {std::size_t{0}, guard + copy.bytes}) {
        unsigned char found[guard + 1];
        REQUIRE(cudaMemcpy(found, static_cast<unsigned char*>(copy.memory) + zone, guard,
                           cudaMemcpyDeviceToHost) == cudaSuccess);
        CHECK(std::all_of(found, found + guard, [](unsigned char byte) { return byte == nan_byte; }));
      }
    }
  }

 private:
#if __has_include(<emulation.hpp>)
  static constexpr std::size_t guard = 0;  // the emulator watches every address
#else
  static constexpr std::size_t guard = 256;
#endif

  struct Copy {
    void* memory;
    void* host;  // null: not written back
    const void* original;
    std::size_t bytes;
    void* array() const { return static_cast<unsigned char*>(memory) + guard; }
  };
  std::vector<Copy> copies_;
};

}  // namespace support
