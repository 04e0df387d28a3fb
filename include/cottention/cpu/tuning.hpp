// The tiling that each problem gets by default on the CPU.
#pragma once

#include <cottention/problem.hpp>
#include <cottention/tiling.hpp>

namespace cottention::cpu {

/// `chunk` is a block of rows that are computed together; form.hpp says how many rows a chunk between two
/// states has. Within it the cost of a token grows with the chunk, and each chunk updates the state once. 32
/// tokens were the fastest at all of 512 to 16,384 tokens with 64 and 128 dimensions in fp32.
template <AnyProblem P>
inline constexpr Tiling tuned_tiling{.chunk = 32};

}  // namespace cottention::cpu
