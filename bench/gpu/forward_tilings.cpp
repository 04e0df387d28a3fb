// Tilings beside the library's choice: what tuning rows are chosen from.
#include "forward.hpp"

namespace bench {
namespace {

using namespace cottention;

/// Every tiling in turn.
template <AnyProblem P, Tiling... tilings>
void add_tilings(Rows& rows, const std::vector<Size>& sizes) {
  for (const Size& size : sizes) (add_forward<P, tilings>(rows, size, in_words(tilings)), ...);
}

}  // namespace

void add_forward_tilings(Rows& rows) {
  if (!rows.wants(Preset::standard)) return;
  using Causal64 = Problem<bfloat16, HeadDim{64, 64}, Mask::causal, Scale::by_key>;
  using Causal128 = Problem<bfloat16, HeadDim{128, 128}, Mask::causal, Scale::by_key>;
  using Bidirectional64 = Problem<bfloat16, HeadDim{64, 64}, Mask::bidirectional, Scale::by_key>;
  add_tilings<Causal64,  //
              Tiling{.chunk = 64, .warps = 4, .stages = 2, .columns = 64, .min_blocks_per_sm = 3},
              Tiling{.chunk = 64, .warps = 4, .stages = 3, .columns = 64, .min_blocks_per_sm = 2},
              Tiling{.chunk = 32, .warps = 4, .stages = 3, .columns = 64, .min_blocks_per_sm = 3},
              Tiling{.chunk = 64, .warps = 8, .stages = 2, .columns = 64, .min_blocks_per_sm = 2},
              Tiling{.chunk = 64, .warps = 8, .stages = 3, .columns = 64, .min_blocks_per_sm = 1},
              Tiling{.chunk = 64, .warps = 16, .stages = 2, .columns = 64, .min_blocks_per_sm = 1},
              Tiling{.chunk = 64, .warps = 2, .stages = 2, .columns = 32, .min_blocks_per_sm = 4}>(
      rows, {{8, 16, 2048, 64}, long_sequence, {8, 8, 1024, 64}});
  add_tilings<Causal128, Tiling{.chunk = 32, .warps = 8, .stages = 2, .columns = 128, .min_blocks_per_sm = 1},
              Tiling{.chunk = 32, .warps = 8, .stages = 3, .columns = 128, .min_blocks_per_sm = 1},
              Tiling{.chunk = 64, .warps = 16, .stages = 2, .columns = 128, .min_blocks_per_sm = 1},
              Tiling{.chunk = 64, .warps = 8, .stages = 3, .columns = 128, .min_blocks_per_sm = 1},
              Tiling{.chunk = 64, .warps = 4, .stages = 2, .columns = 64, .min_blocks_per_sm = 2},
              Tiling{.chunk = 32, .warps = 4, .stages = 3, .columns = 64, .min_blocks_per_sm = 2}>(
      rows, {{32, 16, 512, 128}, {4, 32, 8192, 128}});
  add_tilings<Bidirectional64,
              Tiling{.chunk = 64, .warps = 4, .stages = 3, .columns = 64, .min_blocks_per_sm = 3},
              Tiling{.chunk = 64, .warps = 4, .stages = 4, .columns = 64, .min_blocks_per_sm = 2},
              Tiling{.chunk = 32, .warps = 4, .stages = 4, .columns = 64, .min_blocks_per_sm = 3}>(
      rows, {{8, 16, 2048, 64}, long_sequence});
}

}  // namespace bench
