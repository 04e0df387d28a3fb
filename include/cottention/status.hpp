// What a call returns: success, or which argument broke which rule.
#pragma once

#include <cottention/requirements.hpp>

#include <cottention/host_only.hpp>

#include <cstdarg>
#include <cstdint>
#include <cstdio>

namespace cottention {

enum class StatusCode {
  ok,
  null_pointer,         ///< an argument that must point somewhere is null
  bad_shape,            ///< an extent is negative, zero where it must not be, or does not match another
  bad_stride,           ///< elements of an output share an address with each other or with another tensor
  bad_offsets,          ///< cu_seqlens does not ascend from 0, or leaves the token axis
  bad_slot,             ///< a slot is outside the pool or named twice
  bad_workspace,        ///< the workspace is null, too small or misaligned
  bad_option,           ///< any other value outside its rule
  unsupported,          ///< the combination is valid, but not compiled in or not built for this device
  cuda_error,           ///< the CUDA runtime refused; see cuda_error
  communication_error,  ///< the communicator refused; the text has its name for the error
};

constexpr const char* to_string(StatusCode code) {
  switch (code) {
    case StatusCode::ok:
      return "ok";
    case StatusCode::null_pointer:
      return "null pointer";
    case StatusCode::bad_shape:
      return "bad shape";
    case StatusCode::bad_stride:
      return "bad stride";
    case StatusCode::bad_offsets:
      return "bad offsets";
    case StatusCode::bad_slot:
      return "bad slot";
    case StatusCode::bad_workspace:
      return "bad workspace";
    case StatusCode::bad_option:
      return "bad option";
    case StatusCode::unsupported:
      return "unsupported";
    case StatusCode::cuda_error:
      return "CUDA error";
    case StatusCode::communication_error:
      return "communication error";
  }
  return "unknown";
}

/// The outcome of a call. Anything but `ok` means that nothing was launched and no output was written, but
/// for communication_error, which may come in the middle of a call. Holds its text by value: no allocation,
/// and safe to keep after the call.
struct [[nodiscard]] CallStatus {
  StatusCode code = StatusCode::ok;
  int cuda_error = 0;     ///< the cudaError_t where code is cuda_error
  char reason[184] = {};  ///< "argument = value: rule"; empty when ok

  constexpr bool ok() const { return code == StatusCode::ok; }
  constexpr explicit operator bool() const { return ok(); }

  /// A failure whose reason is formatted like printf.
  [[gnu::format(printf, 2, 3)]] static CallStatus failure(StatusCode code, const char* format, ...) {
    CallStatus status;
    status.code = code;
    std::va_list values;
    va_start(values, format);
    std::vsnprintf(status.reason, sizeof status.reason, format, values);
    va_end(values);
    return status;
  }
};

// Xlib.h has a macro of this name.
#ifndef Status
using Status = CallStatus;  ///< the name of version 0.1
#endif

}  // namespace cottention
