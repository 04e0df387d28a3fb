// From the host to a kernel, as the shipped header describes it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <typeinfo>

#include <cuda_runtime.h>

#include <emulation.hpp>

namespace cottention::device {

struct Grid {
  std::int64_t x = 1, y = 1, z = 1;
};

/// Whether prepare has let the kernel have more shared memory than kernels get without asking.
template <class Kernel>
inline bool prepared = false;

/// As the runtime does, refuses only what the device has no room for.
template <class Kernel>
cudaError_t prepare() {
  static_assert(std::is_trivially_copyable_v<typename Kernel::Params>);
  static_assert(Kernel::threads % 32 == 0 && Kernel::threads >= 32 && Kernel::threads <= 1024);
  static_assert(Kernel::blocks_per_multiprocessor >= 1);
  prepared<Kernel> = sizeof(typename Kernel::Storage) <= emulation::options().shared_bytes_per_block;
  return prepared<Kernel> ? cudaSuccess : cudaErrorInvalidValue;
}

template <class Kernel>
cudaError_t launch(Grid grid, const typename Kernel::Params& params, cudaStream_t stream) {
  using Params = typename Kernel::Params;
  using Storage = typename Kernel::Storage;
  static_assert(alignof(Storage) <= 1024);
  static_assert(sizeof(Params) <= 4096,
                "PTX ISA: the parameters of a kernel have at most 4,096 bytes before sm_70");
  constexpr std::size_t without_asking = 48 * 1024;
  if (sizeof(Storage) > without_asking && !prepared<Kernel>) return cudaErrorInvalidValue;
  const auto fits = [](std::int64_t n, std::int64_t most) { return n >= 1 && n <= most; };
  if (!fits(grid.x, 0x7fffffff) || !fits(grid.y, 65535) || !fits(grid.z, 65535))
    return cudaErrorInvalidConfiguration;
  if (!emulation::begin_launch(stream)) return cudaSuccess;
  const Params copy = params;
  const auto run = [](const void* kernel_params, void* shared) {
    Kernel::run(*static_cast<const Params*>(kernel_params), *static_cast<Storage*>(shared));
  };
  emulation::launch({typeid(Kernel).name(), Kernel::threads, sizeof(Storage), run, &copy},
                    static_cast<std::uint32_t>(grid.x), static_cast<std::uint32_t>(grid.y),
                    static_cast<std::uint32_t>(grid.z));
  return cudaSuccess;
}

}  // namespace cottention::device
