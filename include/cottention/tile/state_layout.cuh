// How a state lies in memory.
#pragma once

namespace cottention::tile {

/// (dim_qk, dim_v) in memory, or (dim_v, dim_qk): the same state with b and c exchanged.
enum class StateLayout { as_is, transposed };

}  // namespace cottention::tile
