// How many instructions a warp executes for a chunk, counted in PTX, beside the clocks that a multiprocessor
// has for the chunk at the speed of memory (docs/tuning.md). No test runs it: build the target instructions,
// and run build/nvcc/tests/ptx/test_ptx_instructions. CUDA programs take minutes to compile.
#include <cstdint>
#include <cstdio>
#include <map>
#include <string>

#include "ptx/engine/profile.hpp"
#include "support/catch.hpp"
#include "support/cuda_backward.hpp"
#include "support/cuda_forward.hpp"

using cottention::HeadDim, cottention::Mask, cottention::Problem, cottention::Scale, cottention::Tiling;
using cottention::tuning::Occupancy;
using namespace support;

namespace {

/// What memory at 3.0 TB/s brings to each of 132 multiprocessors in a clock of 1.755 GHz.
constexpr double bytes_a_clock = 3.0e12 / 132 / 1.755e9;
constexpr double schedulers = 4;  // of a multiprocessor; each issues one instruction a clock

constexpr std::int64_t shorter = 256, longer = 512;

/// Runs `call` at two lengths, so that the difference is of chunks alone. `bytes` that must move for a token.
template <class Call>
void count(const std::string& title, const std::string& kernel, const Tiling& tiling, double bytes,
           Call call) {
  std::map<std::string, double> counts[2];
  for (const int longest : {0, 1}) {
    cottention::ptx::profile().clear();
    call(longest == 0 ? shorter : longer);
    for (const auto& [name, profile] : cottention::ptx::profile())
      if (name.find("sm80::" + kernel + "<") != std::string::npos)
        for (const char* opcode : {"", "mma", "ldmatrix", "cvt", "bar.sync"})
          counts[longest][opcode] += static_cast<double>(profile.times(opcode));
  }
  const double warp_chunks = static_cast<double>((longer - shorter) / tiling.chunk * tiling.warps);
  const auto of = [&](const char* opcode) { return (counts[1][opcode] - counts[0][opcode]) / warp_chunks; };
  const double clocks = tiling.chunk * bytes / bytes_a_clock;
  CHECK(of("") > 0);
  std::printf("%-32s %-14s %5d %5d %12.0f %5.0f %8.0f %5.0f %8.0f %6.0f%%\n", title.c_str(), kernel.c_str(),
              tiling.chunk, tiling.warps, of(""), of("mma"), of("ldmatrix"), of("cvt"), clocks,
              100 * of("") * tiling.warps / schedulers / clocks);
}

template <class T, int dim, Mask mask>
using ByKey = Problem<T, HeadDim{dim, dim}, mask, Scale::by_key>;

/// A sequence, alone or with so many empty ones that it is one of many blocks.
Case of_length(std::int64_t n, Occupancy occupancy) {
  Case c{.shape = {1, n, n, 1, 1, 0, 0}};
  if (occupancy == Occupancy::high) {
    c.lengths_q.assign(2 * 132, 0);
    c.lengths_q[0] = n;
  }
  return c;
}

template <class T, int dim, Tiling tiling>
void count_forward(const std::string& element) {
  using P = ByKey<T, dim, Mask::causal>;
  count(element + " " + std::to_string(dim) + " causal by key", "Walk", tiling, 4.0 * dim * sizeof(T),
        [](std::int64_t n) {
          check_cuda_forward<P, tiling>(of_length(n, Occupancy::low),
                                        {.split = {1}, .final_state = FinalState::absent});
        });
}
template <class T, int dim>
void count_forward(const std::string& element) {
  using P = ByKey<T, dim, Mask::causal>;
  constexpr Tiling many = cottention::tuning::tuned_forward<P>,
                   few = cottention::tuning::low_occupancy_forward<P>;
  count_forward<T, dim, many>(element);
  if constexpr (few != many) count_forward<T, dim, few>(element);
}

template <class T, int dim, Occupancy occupancy>
void count_backward(const std::string& element) {
  using P = ByKey<T, dim, Mask::causal>;
  count(element + " " + std::to_string(dim) + " causal by key", "Gradient",
        cottention::tuning::fused_backward_tiling<P>(occupancy), 7.0 * dim * sizeof(T), [](std::int64_t n) {
          check_cuda_backward<P>(of_length(n, occupancy), {.split = {1}, .final_h = Presence::present});
        });
}
template <class T, int dim>
void count_backward(const std::string& element) {
  using P = ByKey<T, dim, Mask::causal>;
  count_backward<T, dim, Occupancy::high>(element);
  if constexpr (cottention::tuning::fused_backward_tiling<P>(Occupancy::low) !=
                cottention::tuning::fused_backward_tiling<P>(Occupancy::high))
    count_backward<T, dim, Occupancy::low>(element);
}

}  // namespace

TEST_CASE("Instructions of a warp for a chunk") {
  std::printf(
      "PTX instructions that a warp executes for a chunk, on average, and how many of them are mma, ldmatrix "
      "and cvt;\n"
      "clocks of a multiprocessor for the chunk at the floor, with 132 of them, 1.755 GHz and 3.0 TB/s; and "
      "the share\n"
      "of these clocks in which each scheduler would issue, were there one SASS instruction for each of "
      "PTX.\n\n");
  std::printf("%-32s %-14s %5s %5s %12s %5s %8s %5s %8s %7s\n", "problem", "kernel", "chunk", "warps",
              "instructions", "mma", "ldmatrix", "cvt", "clocks", "share");
  count_forward<bf16, 64>("bf16");
  count_forward<fp16, 64>("fp16");
  count_forward<bf16, 128>("bf16");
  count_forward<fp32, 64>("fp32");
  count_backward<bf16, 64>("bf16");
  count_backward<fp16, 64>("fp16");
  count_backward<bf16, 128>("bf16");
}
