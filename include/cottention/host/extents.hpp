// What a call over whole sequences has to obey on a device.
#pragma once

#include <cstdint>

#include <cottention/host/split_plan.hpp>
#include <cottention/host/validation.hpp>
#include <cottention/validation.hpp>

namespace cottention::host {

inline CallStatus validate_length(const char* name, std::int64_t length) {
  if (length <= max_axis) return {};
  return CallStatus::failure(StatusCode::bad_shape, "shape.%s = %lld: must be at most %lld on a device", name,
                             static_cast<long long>(length), static_cast<long long>(max_axis));
}

/// What workspace_bytes rests on.
template <AnyProblem P, class Arguments>
CallStatus validate_extents(const Arguments& args, Split split) {
  const Shape& shape = args.shape;
  if (CallStatus status = cottention::detail::validate_shape<P>(shape); !status) return status;
  if (CallStatus status = validate_length("seq_q", shape.seq_q); !status) return status;
  if (CallStatus status = validate_length("seq_k", shape.seq_k); !status) return status;
  if (CallStatus status = validate_length("batch", shape.batch); !status) return status;
  if (CallStatus status = validate_length("heads_q", shape.heads_q); !status) return status;
  if (split.pieces < 0 || split.pieces > max_pieces)
    return CallStatus::failure(StatusCode::bad_option, "split.pieces = %d: must be at least 0 and at most %d",
                               split.pieces, max_pieces);
  if (shape.batch > 0 && shape.heads_kv > max_grid_blocks / shape.batch)
    return CallStatus::failure(
        StatusCode::bad_shape,
        "shape.heads_kv = %lld: must be at most %lld with a batch of %lld, for the blocks "
        "of a grid",
        static_cast<long long>(shape.heads_kv), static_cast<long long>(max_grid_blocks / shape.batch),
        static_cast<long long>(shape.batch));
  return cottention::detail::validate_extents<P>(args);
}

/// All that can be told of a call without the device.
template <AnyProblem P, class Arguments>
CallStatus validate_call(const Arguments& args, Split split) {
  if (CallStatus status = validate_extents<P>(args, split); !status) return status;
  if (CallStatus status = validate<P>(args); !status) return status;
  return validate_for_device<P>(args);
}

}  // namespace cottention::host
