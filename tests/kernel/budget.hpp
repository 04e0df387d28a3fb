// The kernels whose budget is counted (docs/performance.md): one row each. How they are run, in the emulator
// by budget_shared_memory.cpp and in the PTX machine by budget_instructions.cpp.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <memory>
#include <random>
#include <type_traits>
#include <vector>

#include <cuda_runtime.h>

#include <cottention/backward.cuh>
#include <cottention/forward.cuh>

#include "kernel/budget_kernels.hpp"
#include "support/left_out.hpp"

// What no row below launches.
template <cottention::AnyProblem P, cottention::Tiling tiling>
constexpr bool cottention::device::is_left_out<cottention::sm90::KeyGradients<P, tiling>> =
    P::head_dim.qk == 64;
template <cottention::AnyProblem P, cottention::recurrence::Output output, cottention::Tiling tiling>
constexpr bool
    cottention::device::is_left_out<cottention::sm90::Walk<cottention::kernel::Roles<P, output>, tiling>> =
        output != cottention::recurrence::Output::o &&
        (P::head_dim.qk == 64 || output != cottention::recurrence::Output::dq);

namespace budget {

using namespace cottention;

inline void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "%s\n", what);
  std::exit(1);
}

/// Device memory, of random numbers or zeros.
template <class T>
class Array {
 public:
  explicit Array(std::int64_t count, std::uint32_t seed = 0) {
    std::vector<T> values(static_cast<std::size_t>(count));
    if constexpr (Element<T>)
      if (seed != 0) {
        std::mt19937 numbers(seed);
        std::uniform_real_distribution<float> uniform(-1, 1);
        for (T& x : values) x = static_cast<T>(uniform(numbers));
      }
    const std::size_t bytes = values.size() * sizeof(T);
    void* memory = nullptr;
    require(cudaMalloc(&memory, bytes) == cudaSuccess, "cudaMalloc");
    require(cudaMemcpy(memory, values.data(), bytes, cudaMemcpyHostToDevice) == cudaSuccess, "cudaMemcpy");
    memory_.reset(memory);
  }
  T* data() const { return static_cast<T*>(memory_.get()); }

 private:
  struct Free {
    void operator()(void* p) const { (void)cudaFree(p); }
  };
  std::unique_ptr<void, Free> memory_;
};

struct Row {
  const char* name;
  int chunk, warps;
  int bytes;  ///< that must move for a token and head
  /// Runs the kernel with one block on so many tokens, after others whose results it needs. `before` is
  /// called in between.
  void (*run)(std::int64_t tokens, void (*before)());
};

/// Launches of a call's kernels only the wanted one.
template <class Wanted, class Call>
void launch(const Call& call, void* workspace) {
  bool launched = false;
  call.kernels(workspace, [&]<class Kernel>(device::Grid grid, const auto& params) {
    if constexpr (std::same_as<Kernel, Wanted>) {
      require(device::prepare<Kernel>() == cudaSuccess, "the kernel is refused");
      const device::Properties device;
      host::Launches launches(device, nullptr);
      launches.launch<Kernel>(grid, params());
      require(launches.status().ok(), "the kernel did not run");
      launched = true;
    }
  });
  require(launched, "the call does not launch the kernel");
  require(cudaDeviceSynchronize() == cudaSuccess, "the kernel failed");
}

/// One head of one sequence.
template <AnyProblem P>
struct Inputs {
  using T = typename P::element;
  static constexpr int dim_qk = P::head_dim.qk, dim_v = P::head_dim.v;
  explicit Inputs(std::int64_t n)
      : shape{1, n, n, 1, 1, dim_qk, dim_v},
        q(n * dim_qk, 1),
        k(n * dim_qk, 2),
        v(n * dim_v, 3),
        o(n * dim_v),
        scale_logit(1, 4),
        h(dim_qk * dim_v) {}
  ForwardArguments<T> forward() const {
    return {.shape = shape,
            .q = {q.data()},
            .k = {k.data()},
            .v = {v.data()},
            .o = {o.data()},
            .scale_logit = scale_logit.data(),
            .final_state = {h.data(), nullptr}};
  }
  Shape shape;
  Array<T> q, k, v, o;
  Array<Accumulate<T>> scale_logit, h;
};

/// A device that gets an engine's kernels by choice, with the most shared memory of 9.0, and so many
/// multiprocessors that one block is few or many.
inline device::Properties device_for(tuning::Occupancy occupancy, Engine engine = Engine::mma_sync) {
  return {.compute_capability = engine == Engine::wgmma ? 90 : 80,
          .multiprocessors = occupancy == tuning::Occupancy::low ? 132 : 0,
          .shared_bytes_per_block = 227 * 1024};
}

template <AnyProblem P, Tiling tiling>
void run_forward(const Inputs<P>& inputs) {
  const auto args = inputs.forward();
  const device::Properties device = device_for(tuning::Occupancy::low);
  const host::ForwardCall<P, tiling> call(args, Split{1}, device);
  launch<host::Walk<host::ForwardRoles<P>, tiling>>(call, nullptr);
}

template <AnyProblem P, Tiling tiling>
constexpr Row walk(const char* name) {
  static_assert(tiling.engine == Engine::mma_sync || has_walk<P, recurrence::Output::o>);
  return {name, tiling.chunk, tiling.warps,
          static_cast<int>(2 * (P::head_dim.qk + P::head_dim.v) * sizeof(typename P::element)),
          [](std::int64_t n, void (*before)()) {
            const Inputs<P> inputs(n);
            before();
            run_forward<P, tiling>(inputs);
          }};
}

/// One kernel of a call of backward, of which `bytes` must move for a token and head, on a device that gets
/// its engine's kernels.
template <AnyProblem P, class Kernel, Tiling tiling, int bytes, tuning::Occupancy occupancy, bool has_final_h>
constexpr Row backward_row(const char* name) {
  return {name, tiling.chunk, tiling.warps, bytes, [](std::int64_t n, void (*before)()) {
            using T = typename P::element;
            const Inputs<P> inputs(n);
            if (has_final_h) run_forward<P, tuning::tuned_forward<P>>(inputs);
            const Array<T> dout(n * P::head_dim.v, 5), dq(n * P::head_dim.qk), dk(n * P::head_dim.qk),
                dv(n * P::head_dim.v);
            const BackwardArguments<T> args{.shape = inputs.shape,
                                            .q = {inputs.q.data()},
                                            .k = {inputs.k.data()},
                                            .v = {inputs.v.data()},
                                            .dout = {dout.data()},
                                            .dq = {dq.data()},
                                            .dk = {dk.data()},
                                            .dv = {dv.data()},
                                            .scale_logit = inputs.scale_logit.data(),
                                            .final_h = has_final_h ? inputs.h.data() : nullptr};
            const device::Properties device = device_for(occupancy, tiling.engine);
            const host::BackwardCall<P> call(args, Split{1}, device);
            const Array<std::uint8_t> workspace(static_cast<std::int64_t>(call.workspace_bytes()));
            before();
            launch<Kernel>(call, workspace.data());
          }};
}
/// All gradients in one kernel.
template <AnyProblem P, tuning::Occupancy occupancy,
          Tiling tiling = tuning::fused_backward_tiling<P>(occupancy)>
constexpr Row gradient(const char* name) {
  constexpr int bytes = (4 * P::head_dim.qk + 3 * P::head_dim.v) * sizeof(typename P::element);
  return backward_row<P, host::Gradient<P, tiling>, tiling, bytes, occupancy, true>(name);
}
/// dq in one kernel of the wgmma engine, and dk and dv in another.
template <AnyProblem P>
constexpr Row query_gradient(const char* name) {
  using R = kernel::Roles<P, recurrence::Output::dq>;
  constexpr Tiling tiling = tuning::wgmma_recurrence<R>;
  constexpr int bytes = (3 * P::head_dim.qk + 2 * P::head_dim.v) * sizeof(typename P::element);
  return backward_row<P, host::Walk<R, tiling>, tiling, bytes, tuning::Occupancy::low, false>(name);
}
template <AnyProblem P>
constexpr Row key_gradients(const char* name) {
  constexpr Tiling tiling = tuning::wgmma_key_gradients<P>;
  constexpr int bytes = (3 * P::head_dim.qk + 3 * P::head_dim.v) * sizeof(typename P::element);
  return backward_row<P, host::KeyGradients<P, tiling>, tiling, bytes, tuning::Occupancy::low, false>(name);
}

template <class T, int dim>
using ByKey = Problem<T, HeadDim{dim, dim}, Mask::causal, Scale::by_key>;
template <AnyProblem P>
using Forward = kernel::Roles<P, recurrence::Output::o>;
using tuning::Occupancy;

inline constexpr Row rows[] = {
    walk<ByKey<bfloat16, 64>, tuning::tuned_forward<ByKey<bfloat16, 64>>>("Walk, bf16 64, many blocks"),
    walk<ByKey<bfloat16, 64>, tuning::low_occupancy_forward<ByKey<bfloat16, 64>>>(
        "Walk, bf16 64, few blocks"),
    walk<ByKey<bfloat16, 128>, tuning::tuned_forward<ByKey<bfloat16, 128>>>("Walk, bf16 128"),
    walk<ByKey<bfloat16, 64>, tuning::wgmma_recurrence<Forward<ByKey<bfloat16, 64>>>>("Walk, wgmma, bf16 64"),
    walk<ByKey<bfloat16, 128>, tuning::wgmma_recurrence<Forward<ByKey<bfloat16, 128>>>>(
        "Walk, wgmma, bf16 128"),
    gradient<ByKey<bfloat16, 64>, Occupancy::high>("Gradient, bf16 64, many blocks"),
    gradient<ByKey<bfloat16, 64>, Occupancy::low>("Gradient, bf16 64, few blocks"),
    gradient<ByKey<bfloat16, 128>, Occupancy::high>("Gradient, bf16 128"),
    gradient<ByKey<bfloat16, 64>, Occupancy::low, tuning::wgmma_fused_backward<ByKey<bfloat16, 64>>>(
        "Gradient, wgmma, bf16 64"),
    query_gradient<ByKey<bfloat16, 128>>("Walk of dq, wgmma, bf16 128"),
    key_gradients<ByKey<bfloat16, 128>>("KeyGradients, wgmma, bf16 128"),
};

// A row for every kernel that tests/cuda_compile goes without: each Tiling of Gradient, Walk of o and of dq,
// and KeyGradients; and three of Walk of the mma.sync engine.
static_assert(std::size(rows) == host::FusedBackwardTilings<ByKey<bfloat16, 64>>::table.count +
                                     host::FusedBackwardTilings<ByKey<bfloat16, 128>>::table.count + 4 + 3);

/// Counts are those of `longer` less those of `shorter`: of whole chunks alone.
inline constexpr std::int64_t shorter = 256, longer = 512;

}  // namespace budget
