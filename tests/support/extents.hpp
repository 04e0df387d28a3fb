// Shapes in few words.
#pragma once

#include <cstdint>

#include <cottention/arguments.hpp>

namespace support {

/// A Shape as a row of numbers, which a Shape itself refuses: tests have hundreds.
struct Extents {
  std::int64_t batch = 0, seq_q = 0, seq_k = 0, heads_q = 0, heads_kv = 0, dim_qk = 0, dim_v = 0;
  constexpr operator cottention::Shape() const {
    return {.batch = batch,
            .seq_q = seq_q,
            .seq_k = seq_k,
            .heads_q = heads_q,
            .heads_kv = heads_kv,
            .dim_qk = dim_qk,
            .dim_v = dim_v};
  }
};

}  // namespace support
