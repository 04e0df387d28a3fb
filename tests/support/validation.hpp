// What the sources of the program `validation` share: legal arguments, and what comes of a change to them.
#pragma once

#include <cottention/validation.hpp>

#include <cstdint>
#include <cstring>
#include <limits>
#include <string>

namespace cottention::test {

template <class E>
using Causal = Problem<E, any_head_dim, Mask::causal, Scale::by_key>;
template <class E>
using Bidirectional = Problem<E, any_head_dim, Mask::bidirectional, Scale::by_key>;
inline constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max();
inline constexpr std::int64_t big = std::int64_t{1} << 32;
using P = Causal<float>;
using Both = Bidirectional<float>;
using Fixed = Problem<float, HeadDim{64, 32}, Mask::causal, Scale::by_key>;

/// Where no memory is: `validate` must not read behind pointers.
template <class T>
T* at(std::uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

inline std::string outcome(const CallStatus& status) {
  if (status.ok()) return status.reason[0] == '\0' ? "ok" : "ok with a reason";
  if (std::strlen(status.reason) + 1 >= sizeof status.reason) return "cut off: " + std::string(status.reason);
  return std::string(to_string(status.code)) + ": " + status.reason;
}

inline constexpr Shape small{
    .batch = 2, .seq_q = 5, .seq_k = 5, .heads_q = 4, .heads_kv = 2, .dim_qk = 64, .dim_v = 32};

/// Legal arguments with every option set, each array at an address of its own.
template <class E>
ForwardArguments<E> forward_arguments() {
  using A = Accumulate<E>;
  return {.shape = small,
          .q = {.data = at<const E>(0x100000)},
          .k = {.data = at<const E>(0x200000)},
          .v = {.data = at<const E>(0x300000)},
          .o = {.data = at<E>(0x400000)},
          .scale_logit = at<const A>(0x500000),
          .query_mask = at<const std::uint8_t>(0x600001),
          .key_mask = at<const std::uint8_t>(0x700001),
          .initial_state = {.h = at<const A>(0xa00000), .count = at<const std::int64_t>(0xb00000)},
          .final_state = {.h = at<A>(0xc00000), .count = at<std::int64_t>(0xd00000)}};
}

template <class E>
BackwardArguments<E> backward_arguments() {
  using A = Accumulate<E>;
  return {.shape = small,
          .q = {.data = at<const E>(0x100000)},
          .k = {.data = at<const E>(0x200000)},
          .v = {.data = at<const E>(0x300000)},
          .dout = {.data = at<const E>(0x400000)},
          .dq = {.data = at<E>(0x500000)},
          .dk = {.data = at<E>(0x600000)},
          .dv = {.data = at<E>(0x700000)},
          .scale_logit = at<const A>(0x800000),
          .dscale_logit = at<A>(0x900000),
          .query_mask = at<const std::uint8_t>(0xa00001),
          .key_mask = at<const std::uint8_t>(0xb00001),
          .initial_state = {.h = at<const A>(0xe00000), .count = at<const std::int64_t>(0xf00000)},
          .dfinal_state = at<const A>(0x1000000),
          .dinitial_state = at<A>(0x1100000)};
}

template <class E>
StepArguments<E> step_arguments() {
  using A = Accumulate<E>;
  return {.shape = small,
          .q = {.data = at<const E>(0x100000)},
          .k = {.data = at<const E>(0x200000)},
          .v = {.data = at<const E>(0x300000)},
          .o = {.data = at<E>(0x400000)},
          .scale_logit = at<const A>(0x500000),
          .pool = {.h = at<A>(0x600000), .count = at<std::int64_t>(0x700000)},
          .pool_slots = 3,
          .slot = at<const std::int32_t>(0x800000),
          .accepted = at<const std::int32_t>(0x900000)};
}

template <class Change>
std::string forward_with(Change change) {
  auto args = forward_arguments<float>();
  change(args);
  return outcome(validate<P>(args));
}
template <class Change>
std::string backward_with(Change change) {
  auto args = backward_arguments<float>();
  change(args);
  return outcome(validate<P>(args));
}
template <class Change>
std::string step_with(Change change) {
  auto args = step_arguments<float>();
  change(args);
  return outcome(validate<P>(args));
}

}  // namespace cottention::test
