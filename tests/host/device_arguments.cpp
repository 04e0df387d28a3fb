// host/validation.hpp: each rule's refusal names the argument, its value and the rule, and what is
// legal is accepted.
#include <cottention/host/validation.hpp>

#include <cstdint>
#include <string>

#include "support/catch.hpp"

namespace cottention::test {
namespace {

template <class E>
using Causal = Problem<E, HeadDim{64, 32}, Mask::causal, Scale::by_key>;

/// Where no memory is: nothing is read.
template <class T>
T* at(std::uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

std::string outcome(const CallStatus& status) {
  return status.ok() ? "ok" : std::string(to_string(status.code)) + ": " + status.reason;
}

template <class E>
StepArguments<E> step_arguments() {
  return {
      .shape = {.batch = 3, .seq_q = 2, .seq_k = 2, .heads_q = 4, .heads_kv = 2, .dim_qk = 64, .dim_v = 32},
      .q = {.data = at<const E>(0x100000)},
      .k = {.data = at<const E>(0x200000)},
      .v = {.data = at<const E>(0x300000)},
      .o = {.data = at<E>(0x400000)},
      .scale_logit = at<const Accumulate<E>>(0x500008),
      .pool = {.h = at<Accumulate<E>>(0x600000), .count = at<std::int64_t>(0x700008)},
      .pool_slots = 5,
      .slot = at<const std::int32_t>(0x800004),
      .accepted = at<const std::int32_t>(0x900004)};
}

template <class E>
ForwardArguments<E> forward_arguments() {
  using A = Accumulate<E>;
  return {
      .shape = {.batch = 3, .seq_q = 5, .seq_k = 5, .heads_q = 4, .heads_kv = 2, .dim_qk = 64, .dim_v = 32},
      .q = {.data = at<const E>(0x100000)},
      .k = {.data = at<const E>(0x200000)},
      .v = {.data = at<const E>(0x300000)},
      .o = {.data = at<E>(0x400000)},
      .scale_logit = at<const Accumulate<E>>(0x500008),
      .query_mask = at<const std::uint8_t>(0x600001),
      .key_mask = at<const std::uint8_t>(0x700001),
      .initial_state = {.h = at<const A>(0x800000), .count = at<const std::int64_t>(0x900008)},
      .final_state = {.h = at<A>(0xa00000), .count = at<std::int64_t>(0xb00008)}};
}

template <class E>
std::string outcome_of(const StepArguments<E>& args) {
  if (const CallStatus status = validate<Causal<E>>(args); !status)
    return "refused before: " + outcome(status);
  return outcome(host::validate_for_device<Causal<E>>(args));
}
template <class E>
std::string outcome_of(const ForwardArguments<E>& args) {
  if (const CallStatus status = validate<Causal<E>>(args); !status)
    return "refused before: " + outcome(status);
  return outcome(host::validate_for_device<Causal<E>>(args));
}

/// Checks one rule of every tensor with both calls: `change(tensor)` breaks it, and `reason` is what follows
/// the tensor's name.
template <class E, class Change>
void check_tensors(Change change, const std::string& expected) {
  const auto with_name = [&](const char* name) {
    std::string text = expected;
    text.replace(text.find('?'), 1, name);
    return text;
  };
  auto step = step_arguments<E>();
  auto forward = forward_arguments<E>();
  const auto each = [&](auto& args) {
    using Arguments = std::remove_reference_t<decltype(args)>;
    const Arguments sound = args;
    change(args.q);
    CHECK(outcome_of(args) == with_name("q"));
    args = sound;
    change(args.k);
    CHECK(outcome_of(args) == with_name("k"));
    args = sound;
    change(args.v);
    CHECK(outcome_of(args) == with_name("v"));
    args = sound;
    change(args.o);
    CHECK(outcome_of(args) == with_name("o"));
  };
  each(step);
  each(forward);
}

TEMPLATE_TEST_CASE("Sound arguments are accepted", "", double, float, half, bfloat16) {
  CHECK(outcome_of(step_arguments<TestType>()) == "ok");
  CHECK(outcome_of(forward_arguments<TestType>()) == "ok");
}

TEST_CASE("Tensors must be aligned to 16 bytes") {
  check_tensors<half>([](auto& x) { x.data = reinterpret_cast<decltype(x.data)>(0xf00008); },
                      "bad option: ?.data = 0xf00008: must be aligned to 16 bytes on a device");
  check_tensors<double>([](auto& x) { x.data = reinterpret_cast<decltype(x.data)>(0xf00018); },
                        "bad option: ?.data = 0xf00018: must be aligned to 16 bytes on a device");
}

TEST_CASE("Strides must be multiples of 16 bytes") {
  check_tensors<bfloat16>(
      [](auto& x) { x.strides.head = 68; },
      "bad stride: ?.strides.head = 68: must be a multiple of 8 elements, 16 bytes, on a device");
  check_tensors<bfloat16>(
      [](auto& x) { x.strides.seq = 1004; },
      "bad stride: ?.strides.seq = 1004: must be a multiple of 8 elements, 16 bytes, on a device");
  check_tensors<float>(
      [](auto& x) { x.strides.batch = 9002; },
      "bad stride: ?.strides.batch = 9002: must be a multiple of 4 elements, 16 bytes, on a device");
  check_tensors<bfloat16>(
      [](auto& x) { x.strides = {.seq = 76, .head = outside_seq}; },
      "bad stride: ?.strides.seq = 76: must be a multiple of 8 elements, 16 bytes, on a device");
  check_tensors<double>(
      [](auto& x) { x.strides.head = 65; },
      "bad stride: ?.strides.head = 65: must be a multiple of 2 elements, 16 bytes, on a device");
}

TEST_CASE("Strides are free where there is nothing to stride to, and may be 0 or negative") {
  auto args = step_arguments<half>();
  args.shape.batch = args.shape.seq_q = args.shape.seq_k = 1;
  args.q.strides = args.k.strides = args.v.strides = args.o.strides = {.batch = 3, .seq = 1};
  CHECK(outcome_of(args) == "ok");
  args = step_arguments<half>();
  args.q.strides = {.batch = 0, .seq = -512, .head = 64};
  CHECK(outcome_of(args) == "ok");

  auto packed = forward_arguments<half>();
  packed.cu_seqlens_q = packed.cu_seqlens_k = at<const std::int32_t>(0xc00004);
  packed.q.strides.batch = packed.o.strides.batch = 3;
  CHECK(outcome_of(packed) == "ok");
}

TEST_CASE("States must be aligned to 16 bytes") {
  auto step = step_arguments<half>();
  step.pool.h = at<float>(0xf00004);
  CHECK(outcome_of(step) == "bad option: pool.h = 0xf00004: must be aligned to 16 bytes on a device");
  auto forward = forward_arguments<double>();
  forward.initial_state.h = at<const double>(0xf00008);
  CHECK(outcome_of(forward) ==
        "bad option: initial_state.h = 0xf00008: must be aligned to 16 bytes on a device");
  forward = forward_arguments<double>();
  forward.final_state.h = at<double>(0xf00008);
  CHECK(outcome_of(forward) ==
        "bad option: final_state.h = 0xf00008: must be aligned to 16 bytes on a device");
}

TEST_CASE("Tensors without elements may lie anywhere") {
  auto args = step_arguments<half>();
  args.shape.batch = 0;
  args.q.data = args.k.data = args.v.data = at<const half>(0x100002);
  args.o.data = nullptr;
  CHECK(outcome_of(args) == "ok");
  auto packed = forward_arguments<half>();
  packed.shape.batch = packed.shape.seq_q = packed.shape.seq_k = 0;
  packed.cu_seqlens_q = packed.cu_seqlens_k = at<const std::int32_t>(0xc00004);
  packed.q.data = packed.k.data = packed.v.data = at<const half>(0x100002);
  CHECK(outcome_of(packed) == "ok");
}

TEST_CASE("Kernels exist for multiples of 8 up to 256, and for 512 and 1024") {
  for (int dim = -8; dim <= 1100; ++dim)
    CHECK(host::is_device_dim(dim) == ((dim > 0 && dim <= 256 && dim % 8 == 0) || dim == 512 || dim == 1024));
}

TEST_CASE("Workspaces must be there, large enough and aligned to 256 bytes, if they are needed") {
  const auto with = [](std::uintptr_t address, std::size_t bytes, std::size_t needed) {
    return outcome(host::validate_workspace({at<void>(address), bytes}, needed));
  };
  CHECK(with(0, 0, 0) == "ok");
  CHECK(with(0x10001, 0, 0) == "ok");
  CHECK(with(0x10100, 512, 512) == "ok");
  CHECK(with(0, 512, 512) == "bad workspace: workspace.data = null: must point to 512 bytes");
  CHECK(with(0x10100, 511, 512) == "bad workspace: workspace.bytes = 511: must be at least 512");
  CHECK(with(0x10140, 512, 512) ==
        "bad workspace: workspace.data = 0x10140: must be aligned to 256 bytes on a device");
}

}  // namespace
}  // namespace cottention::test
