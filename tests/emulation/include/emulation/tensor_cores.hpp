// How tensor cores add up products in fp32. No specification says; this is what measurements of the hardware
// found, bit for bit: Khattak and Mikaitis, "Accurate Models of NVIDIA Tensor Cores", arXiv 2512.07004; Xie
// et al., "MMA-Sim", arXiv 2511.10909.
//
// A block of products and the sum so far are added at a time. Products are exact. Each of these numbers is
// cut off `fraction_bits` below the greatest of their exponents, that of a product being the sum of its
// factors'; they are added exactly, and what comes out is cut off to fp32. Blocks follow each other in the
// order of k.
#pragma once

#include <cstddef>

namespace cottention::emulation {

struct TensorCores {
  int terms;  ///< tf32 products in a block; of 16-bit elements there are twice as many. 0: see rounded
  int fraction_bits;  ///< up to 25

  friend bool operator==(const TensorCores&, const TensorCores&) = default;
};
inline constexpr TensorCores hopper{8, 25};  ///< and Blackwell's mma.sync
inline constexpr TensorCores ampere{4, 24};  ///< and Ada
/// No hardware: products are added one by one, and each sum is rounded to fp32.
inline constexpr TensorCores rounded{0, 0};

/// Those that the environment variable COTTENTION_TENSOR_CORES names (hopper, ampere or rounded); hopper
/// without it. Ends the program if it names others.
TensorCores tensor_cores_from_environment();

/// Elements of the factors, as fp32 holds them: 11 bits of precision at most.
enum class Factor { tf32, bfloat16, half };

/// d += a b: (rows, columns), (rows, depth), (depth, columns), one row after the other. `rows` and `depth`
/// are at most 16, `columns` is a multiple of 8.
void add_products(TensorCores cores, Factor factor, std::size_t rows, std::size_t columns, std::size_t depth,
                  float* d, const float* a, const float* b);

}  // namespace cottention::emulation
