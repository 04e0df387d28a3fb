// Division by a number that is the same for a whole launch.
#pragma once

#include <cstdint>

#include <cuda_runtime.h>

namespace cottention::tile {

/// Divides numbers n below 2^31 by d with a multiplication and a shift: with s = ceil(log2 d), n / d is the
/// integer part of n ceil(2^(31 + s) / d) / 2^(31 + s). Granlund and Montgomery, "Division by invariant
/// integers using multiplication", 1994. A division on the GPU takes tens of dependent instructions. The
/// factor is computed on the host. cuda::fast_mod_div of libcu++ does the same for all 32 bits; the oldest
/// toolkit that the library compiles with, CUDA 13.0, has CCCL 3.0, which lacks it.
class Divisor {
 public:
  Divisor() = default;
#if !defined(__CUDACC_RTC__)
  /// 1 <= divisor < 2^31
  __host__ explicit Divisor(std::uint32_t divisor) : divisor_(divisor) {
    while ((std::uint64_t{1} << (shift_ - 31)) < divisor) ++shift_;
    factor_ =
        static_cast<std::uint32_t>(((std::uint64_t{1} << shift_) + divisor - 1) / divisor);  // below 2^32
  }
#endif

  __device__ __forceinline__ std::uint32_t quotient(std::uint32_t n) const {
    return static_cast<std::uint32_t>(std::uint64_t{n} * factor_ >> shift_);
  }
  __device__ __forceinline__ std::uint32_t remainder(std::uint32_t n, std::uint32_t quotient) const {
    return n - quotient * divisor_;
  }

 private:
  std::uint32_t divisor_ = 1, factor_ = std::uint32_t{1} << 31, shift_ = 31;
};

}  // namespace cottention::tile
