// How a state lies in memory.
#pragma once

namespace cottention::tile {

/// Whether the state in memory is (dim_qk, dim_v), row by row, or its transpose (dim_v, dim_qk).
enum class StateLayout { as_is, transposed };

}  // namespace cottention::tile
