// The entry of a kernel, as the shipped header describes it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <typeinfo>

#include <cuda_runtime.h>

#include <emulation.hpp>

namespace cottention::device {

struct Grid {
  std::int64_t x = 1, y = 1, z = 1;
};

template <class Kernel>
inline constexpr bool needs_sm90a = requires { requires Kernel::needs_sm90a; };

/// For its address alone, by which the runtime knows the kernel.
template <class Kernel>
void entry() {}

/// Whether a program goes without a kernel, which it never launches: not to be compiled
/// (tests/support/left_out.hpp).
template <class Kernel>
inline constexpr bool is_left_out = false;

template <class Kernel>
cudaError_t enqueue(decltype(&entry<Kernel>) kernel_entry, Grid grid, const typename Kernel::Params& params,
                    cudaStream_t stream) {
  using Params = typename Kernel::Params;
  using Storage = typename Kernel::Storage;
  static_assert(Kernel::min_blocks_per_sm >= 1);
  static_assert(alignof(Storage) <= 1024);
  static_assert(sizeof(Params) <= 4096,
                "PTX ISA: the parameters of a kernel have at most 4,096 bytes before sm_70");
  if (is_left_out<Kernel>) return emulation::report(cudaErrorInvalidDeviceFunction);
  const auto function = reinterpret_cast<const void*>(kernel_entry);
  if (!emulation::has_room(function, sizeof(Storage))) return emulation::report(cudaErrorInvalidValue);
  const auto fits = [](std::int64_t n, std::int64_t most) { return n >= 1 && n <= most; };
  if (!fits(grid.x, 0x7fffffff) || !fits(grid.y, 65535) || !fits(grid.z, 65535))
    return emulation::report(cudaErrorInvalidConfiguration);
  if (!emulation::begin_launch(stream) || emulation::is_empty(function)) return cudaSuccess;
  const Params copy = params;
  const auto run = [](const void* kernel_params, void* shared) {
    if constexpr (!is_left_out<Kernel>)
      Kernel::run(*static_cast<const Params*>(kernel_params), *static_cast<Storage*>(shared));
  };
  emulation::launch({typeid(Kernel).name(), Kernel::threads, sizeof(Storage), run, &copy},
                    static_cast<std::uint32_t>(grid.x), static_cast<std::uint32_t>(grid.y),
                    static_cast<std::uint32_t>(grid.z));
  return cudaSuccess;
}

}  // namespace cottention::device
