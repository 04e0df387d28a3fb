// Each rule of validation.hpp: what breaks it is refused by a reason that names the argument, its value and
// the rule, and what is legal, however unusual, is accepted.
#include <cottention/validation.hpp>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <new>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "support/catch.hpp"

namespace {
std::int64_t allocations = 0;
}

// Counts what the checks allocate: nothing. Inlined, g++ would take malloc and delete for a mismatch.
[[gnu::noinline]] void* operator new(std::size_t bytes) {
  ++allocations;
  if (void* p = std::malloc(bytes)) return p;
  throw std::bad_alloc();
}
[[gnu::noinline]] void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
  ++allocations;
  return std::malloc(bytes);
}
[[gnu::noinline]] void operator delete(void* p) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, std::size_t) noexcept { std::free(p); }

namespace cottention::test {
namespace {

template <class E>
using Causal = Problem<E, any_head_dim, Mask::causal, Scale::by_key>;
template <class E>
using Bidirectional = Problem<E, any_head_dim, Mask::bidirectional, Scale::by_key>;
constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max();
constexpr std::int64_t big = std::int64_t{1} << 32;
using P = Causal<float>;
using Both = Bidirectional<float>;
using Fixed = Problem<float, HeadDim{64, 32}, Mask::causal, Scale::by_key>;

/// Where no memory is: `validate` must not read behind pointers.
template <class T>
T* at(std::uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

std::string outcome(const CallStatus& status) {
  if (status.ok()) return status.reason[0] == '\0' ? "ok" : "ok with a reason";
  if (std::strlen(status.reason) + 1 >= sizeof status.reason) return "cut off: " + std::string(status.reason);
  return std::string(to_string(status.code)) + ": " + status.reason;
}

constexpr Shape small{
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

}  // namespace

// ---- Shapes

TEMPLATE_TEST_CASE("Arguments with every option set are accepted", "", double, float, half, bfloat16) {
  CHECK(outcome(validate<Causal<TestType>>(forward_arguments<TestType>())) == "ok");
  CHECK(outcome(validate<Bidirectional<TestType>>(forward_arguments<TestType>())) == "ok");
  CHECK(outcome(validate<Causal<TestType>>(backward_arguments<TestType>())) == "ok");
  CHECK(outcome(validate<Bidirectional<TestType>>(backward_arguments<TestType>())) == "ok");
  CHECK(outcome(validate<Causal<TestType>>(step_arguments<TestType>())) == "ok");
}

TEST_CASE("Extents below their least value are refused") {
  const std::pair<std::int64_t Shape::*, std::string> extents[] = {
      {&Shape::batch, "shape.batch = -3: must be at least 0"},
      {&Shape::seq_q, "shape.seq_q = -3: must be at least 0"},
      {&Shape::seq_k, "shape.seq_k = -3: must be at least 0"},
      {&Shape::heads_q, "shape.heads_q = -3: must be at least 0"},
      {&Shape::heads_kv, "shape.heads_kv = -3: must be at least 0"},
      {&Shape::dim_qk, "shape.dim_qk = -3: must be at least 1"},
      {&Shape::dim_v, "shape.dim_v = -3: must be at least 1"}};
  for (const auto& [extent, reason] : extents) {
    const auto change = [extent = extent](auto& args) { args.shape.*extent = -3; };
    CHECK(forward_with(change) == "bad shape: " + reason);
    CHECK(backward_with(change) == "bad shape: " + reason);
    CHECK(step_with(change) == "bad shape: " + reason);
  }
  CHECK(forward_with([](auto& args) { args.shape.dim_qk = 0; }) ==
        "bad shape: shape.dim_qk = 0: must be at least 1");
  CHECK(forward_with([](auto& args) { args.shape.dim_v = 0; }) ==
        "bad shape: shape.dim_v = 0: must be at least 1");
}

TEST_CASE("Query heads that do not divide among the key heads are refused") {
  const auto heads = [](std::int64_t q, std::int64_t kv) {
    return [=](auto& args) { args.shape.heads_q = q, args.shape.heads_kv = kv; };
  };
  CHECK(forward_with(heads(6, 4)) ==
        "bad shape: shape.heads_q = 6: must be a multiple of shape.heads_kv = 4");
  CHECK(backward_with(heads(2, 4)) ==
        "bad shape: shape.heads_q = 2: must be a multiple of shape.heads_kv = 4");
  CHECK(step_with(heads(6, 0)) == "bad shape: shape.heads_q = 6: must be a multiple of shape.heads_kv = 0");
  CHECK(forward_with(heads(8, 2)) == "ok");
  CHECK(forward_with(heads(0, 2)) == "ok");
  CHECK(forward_with(heads(0, 0)) == "ok");
}

TEST_CASE("Causal attention and step refuse keys and queries of different lengths") {
  const auto change = [](auto& args) { args.shape.seq_k = 7; };
  const std::string reason = "bad shape: shape.seq_k = 7: must equal shape.seq_q = 5 when causal";
  CHECK(forward_with(change) == reason);
  CHECK(backward_with(change) == reason);
  CHECK(step_with(change) == reason);
}

TEST_CASE("Bidirectional attention accepts keys and queries of different lengths") {
  auto forward = forward_arguments<float>();
  auto backward = backward_arguments<float>();
  forward.shape.seq_k = backward.shape.seq_k = 7;
  CHECK(outcome(validate<Both>(forward)) == "ok");
  CHECK(outcome(validate<Both>(backward)) == "ok");
}

TEST_CASE("Head dimensions other than the Problem's are refused") {
  auto args = forward_arguments<float>();
  CHECK(outcome(validate<Fixed>(args)) == "ok");
  args.shape.dim_qk = 128;
  CHECK(outcome(validate<Fixed>(args)) ==
        "bad shape: shape.dim_qk = 128: must be 64, the dim_qk of the Problem");
  auto step = step_arguments<float>();
  step.shape.dim_v = 64;
  CHECK(outcome(validate<Fixed>(step)) ==
        "bad shape: shape.dim_v = 64: must be 32, the dim_v of the Problem");
}

TEST_CASE("Extents whose product overflows are refused") {
  CHECK(forward_with([](auto& args) { args.shape.batch = big, args.shape.seq_q = args.shape.seq_k = big; }) ==
        "bad shape: shape of q = [4294967296, 4294967296, 4, 64]: must have at most 2^57 elements");
  CHECK(forward_with([](auto& args) { args.shape.batch = 0, args.shape.seq_q = args.shape.seq_k = most; }) ==
        "bad shape: shape of q = [0, 9223372036854775807, 4, 64]: must have at most 2^57 elements");
  CHECK(
      backward_with([](auto& args) {
        args.shape.batch = std::int64_t{1} << 30;
        args.shape.seq_q = args.shape.seq_k = 0;
        args.shape.dim_qk = args.shape.dim_v = 65'536;
      }) ==
      "bad shape: shape of initial_state.h = [1073741824, 2, 65536, 65536]: must have at most 2^57 elements");
  CHECK(step_with([](auto& args) { args.pool_slots = most; }) ==
        "bad shape: shape of pool.h = [9223372036854775807, 2, 64, 32]: must have at most 2^57 elements");
  CHECK(forward_with([](auto& args) {
          args.shape = {.batch = most,
                        .seq_q = most,
                        .seq_k = most,
                        .heads_q = most,
                        .heads_kv = most,
                        .dim_qk = 1,
                        .dim_v = 1};
        }) ==
        "bad shape: shape of q = [9223372036854775807, 9223372036854775807, 9223372036854775807, 1]: must "
        "have at "
        "most 2^57 elements");
}

TEST_CASE("Packed tensors have no batch axis") {
  CHECK(forward_with([](auto& args) {
          args.shape.batch = std::int64_t{1} << 40;
          args.shape.seq_q = args.shape.seq_k = std::int64_t{1} << 40;
          args = {.shape = args.shape, .q = args.q, .k = args.k, .v = args.v, .o = args.o};
          args.cu_seqlens_q = args.cu_seqlens_k = at<const std::int32_t>(std::uintptr_t{1} << 62);
          args.q.data += std::int64_t{1} << 55;
          args.k.data += std::int64_t{1} << 56;
          args.v.data += std::int64_t{1} << 57;
          args.o.strides.batch = 0;
          args.scale_logit = at<const float>(0x1000);
        }) == "ok");
}

TEST_CASE("More packed sequences than can be counted are refused") {
  CHECK(forward_with([](auto& args) {
          args.shape.batch = most;
          args.cu_seqlens_q = args.cu_seqlens_k = at<const std::int32_t>(0x800000);
        }) ==
        "bad shape: shape of cu_seqlens_q = [1, 1, 1, 9223372036854775807]: must have at most 2^57 elements");
}

// ---- Pointers

TEST_CASE("Tensors of forward must not be null where they have elements") {
  CHECK(forward_with([](auto& args) { args.q.data = nullptr; }) ==
        "null pointer: q.data = null: must point to 2560 elements");
  CHECK(forward_with([](auto& args) { args.k.data = nullptr; }) ==
        "null pointer: k.data = null: must point to 1280 elements");
  CHECK(forward_with([](auto& args) { args.v.data = nullptr; }) ==
        "null pointer: v.data = null: must point to 640 elements");
  CHECK(forward_with([](auto& args) { args.o.data = nullptr; }) ==
        "null pointer: o.data = null: must point to 1280 elements");
}

TEST_CASE("Inputs of backward must not be null once any output is wanted") {
  CHECK(backward_with([](auto& args) { args.q.data = nullptr; }) ==
        "null pointer: q.data = null: must point to 2560 elements");
  CHECK(backward_with([](auto& args) { args.dout.data = nullptr; }) ==
        "null pointer: dout.data = null: must point to 1280 elements");
  const BackwardArguments<float> none{.shape = small};
  CHECK(outcome(validate<P>(none)) == "ok");
  const auto wanted = [&](auto change) {
    auto args = none;
    change(args);
    return outcome(validate<P>(args));
  };
  const std::string reason = "null pointer: q.data = null: must point to 2560 elements";
  CHECK(wanted([](auto& args) { args.dq.data = at<float>(0x1000); }) == reason);
  CHECK(wanted([](auto& args) { args.dk.data = at<float>(0x1000); }) == reason);
  CHECK(wanted([](auto& args) { args.dv.data = at<float>(0x1000); }) == reason);
  CHECK(wanted([](auto& args) { args.dscale_logit = at<float>(0x1000); }) == reason);
  CHECK(wanted([](auto& args) { args.dinitial_state = at<float>(0x1000); }) == reason);
}

TEST_CASE("Each output of backward may be null") {
  CHECK(backward_with([](auto& args) { args.dq.data = nullptr; }) == "ok");
  CHECK(backward_with([](auto& args) { args.dk.data = nullptr; }) == "ok");
  CHECK(backward_with([](auto& args) { args.dv.data = nullptr; }) == "ok");
  CHECK(backward_with([](auto& args) { args.dscale_logit = nullptr; }) == "ok");
  CHECK(backward_with([](auto& args) { args.dinitial_state = nullptr; }) == "ok");
}

TEST_CASE("Tensors of step must not be null, but o may be, and then q") {
  CHECK(step_with([](auto& args) { args.q.data = nullptr; }) ==
        "null pointer: q.data = null: must point to 2560 elements");
  CHECK(step_with([](auto& args) { args.o.data = nullptr; }) == "ok");
  CHECK(step_with([](auto& args) { args.o.data = nullptr, args.q.data = nullptr; }) == "ok");
  CHECK(step_with([](auto& args) { args.k.data = nullptr; }) ==
        "null pointer: k.data = null: must point to 1280 elements");
  CHECK(step_with([](auto& args) { args.v.data = nullptr; }) ==
        "null pointer: v.data = null: must point to 640 elements");
  CHECK(step_with([](auto& args) { args.pool.h = nullptr; }) ==
        "null pointer: pool.h = null: must point to 12288 elements");
  CHECK(step_with([](auto& args) { args.pool.count = nullptr; }) ==
        "null pointer: pool.count = null: must point to 3 elements");
}

TEST_CASE("Options may be null") {
  CHECK(forward_with([](auto& args) {
          args = {.shape = args.shape,
                  .q = args.q,
                  .k = args.k,
                  .v = args.v,
                  .o = args.o,
                  .scale_logit = args.scale_logit};
        }) == "ok");
  CHECK(forward_with([](auto& args) { args.final_state.h = nullptr; }) == "ok");
  CHECK(forward_with([](auto& args) { args.final_state.count = nullptr; }) == "ok");
  CHECK(step_with([](auto& args) { args.slot = nullptr, args.accepted = nullptr; }) == "ok");
}

/// Checks scale_logit = null with every call of a Scale: `change(args)` and then what comes of it.
template <Scale scale, class Change>
void check_null_scale(Change change, const std::string& expected) {
  using Weighted = Problem<float, any_head_dim, Mask::causal, scale>;
  const auto check = [&](auto args) {
    args.scale_logit = nullptr;
    change(args);
    CHECK(outcome(validate<Weighted>(args)) == expected);
  };
  check(forward_arguments<float>());
  check(backward_arguments<float>());
  check(step_arguments<float>());
}

TEST_CASE("scale_logit must not be null where it weighs anything, but Scale::none does not look at it") {
  const std::string reason =
      "null pointer: scale_logit = null: must point to 2 elements, m of each key head. Remedy: give it, or "
      "write Scale::none in the Problem for w = 1";
  const auto unchanged = [](auto&) {};
  check_null_scale<Scale::by_key>(unchanged, reason);
  check_null_scale<Scale::by_query>(unchanged, reason);
  check_null_scale<Scale::none>(unchanged, "ok");
  const auto without_query_heads = [](auto& args) { args.shape.heads_q = 0; };
  check_null_scale<Scale::by_key>(without_query_heads, reason);
  check_null_scale<Scale::by_query>(without_query_heads, "ok");
  check_null_scale<Scale::by_key>([](auto& args) { args.shape.heads_q = args.shape.heads_kv = 0; }, "ok");
  check_null_scale<Scale::by_key>([](auto& args) { args.shape.batch = 0; }, "ok");
  check_null_scale<Scale::by_query>([](auto& args) { args.shape.seq_q = args.shape.seq_k = 0; }, "ok");

  auto cross = forward_arguments<float>();
  cross.scale_logit = nullptr;
  cross.shape.seq_k = 0;
  CHECK(outcome(validate<Both>(cross)) == "ok");
  CHECK(outcome(validate<Problem<float, any_head_dim, Mask::bidirectional, Scale::by_query>>(cross)) ==
        reason);
  const BackwardArguments<float> nothing_wanted{.shape = small};
  CHECK(outcome(validate<P>(nothing_wanted)) == "ok");
  // What is not read may lie anywhere, even where o is.
  auto unweighted = forward_arguments<float>();
  unweighted.scale_logit = at<const float>(0x400002);
  CHECK(outcome(validate<Problem<float, any_head_dim, Mask::causal, Scale::none>>(unweighted)) == "ok");
}

TEST_CASE("An initial state needs both h and count") {
  const auto without_h = [](auto& args) { args.initial_state.h = nullptr; };
  const auto without_count = [](auto& args) { args.initial_state.count = nullptr; };
  CHECK(forward_with(without_h) ==
        "null pointer: initial_state.h = null: must be given together with initial_state.count");
  CHECK(backward_with(without_count) ==
        "null pointer: initial_state.count = null: must be given together with initial_state.h");
}

TEST_CASE("cu_seqlens must be given for queries and keys or for neither") {
  CHECK(forward_with([](auto& args) { args.cu_seqlens_k = at<const std::int32_t>(0x800000); }) ==
        "null pointer: cu_seqlens_q = null: must be given together with cu_seqlens_k");
  CHECK(backward_with([](auto& args) { args.cu_seqlens_q = at<const std::int64_t>(0xc00000); }) ==
        "null pointer: cu_seqlens_k = null: must be given together with cu_seqlens_q");
}

TEST_CASE("Pointers must be aligned to their elements") {
  CHECK(forward_with([](auto& args) { args.q.data = at<const float>(0x100002); }) ==
        "bad option: q.data = 0x100002: must be aligned to 4 bytes");
  CHECK(forward_with([](auto& args) { args.o.data = at<float>(0x400001); }) ==
        "bad option: o.data = 0x400001: must be aligned to 4 bytes");
  CHECK(forward_with([](auto& args) { args.scale_logit = at<const float>(0x500002); }) ==
        "bad option: scale_logit = 0x500002: must be aligned to 4 bytes");
  CHECK(forward_with([](auto& args) { args.initial_state.count = at<const std::int64_t>(0xb00004); }) ==
        "bad option: initial_state.count = 0xb00004: must be aligned to 8 bytes");
  CHECK(forward_with([](auto& args) {
          args.cu_seqlens_q = args.cu_seqlens_k = at<const std::int32_t>(0x800002);
        }) == "bad option: cu_seqlens_q = 0x800002: must be aligned to 4 bytes");
  CHECK(forward_with([](auto& args) {
          args.cu_seqlens_q = args.cu_seqlens_k = at<const std::int64_t>(0x800004);
        }) == "bad option: cu_seqlens_q = 0x800004: must be aligned to 8 bytes");
  CHECK(backward_with([](auto& args) { args.dinitial_state = at<float>(0x1100002); }) ==
        "bad option: dinitial_state = 0x1100002: must be aligned to 4 bytes");
  CHECK(step_with([](auto& args) { args.slot = at<const std::int32_t>(0x800001); }) ==
        "bad option: slot = 0x800001: must be aligned to 4 bytes");
  auto in_half = forward_arguments<half>();
  in_half.k.data = at<const half>(0x200002);
  CHECK(outcome(validate<Causal<half>>(in_half)) == "ok");
  in_half.k.data = at<const half>(0x200001);
  CHECK(outcome(validate<Causal<half>>(in_half)) ==
        "bad option: k.data = 0x200001: must be aligned to 2 bytes");
}

// ---- Strides and shared memory

TEST_CASE("Strides that leave the address space are refused") {
  CHECK(forward_with([](auto& args) { args.q.strides.batch = -most; }) ==
        "bad stride: q.strides = {-9223372036854775807, 256, 64}: elements must lie within 2^57 bytes of "
        "addresses");
  CHECK(forward_with([](auto& args) { args.k.strides.seq = std::int64_t{1} << 54; }) ==
        "bad stride: k.strides = {90071992547409920, 18014398509481984, 64}: elements must lie within 2^57 "
        "bytes of "
        "addresses");
  CHECK(forward_with([](auto& args) { args.q.strides.seq = -0x100000; }) ==
        "bad stride: q.strides = {5242880, -1048576, 64}: elements must lie within 2^57 bytes of addresses");
  CHECK(
      forward_with([](auto& args) {
        args.q.strides = {2 - most, 2 - most, 2 - most};
      }) ==
      "bad stride: q.strides = {-9223372036854775805, -9223372036854775805, -9223372036854775805}: elements "
      "must lie within 2^57 bytes of addresses");
  CHECK(forward_with([](auto& args) {
          args.q.strides = {.batch = std::int64_t{1} << 55, .seq = -(std::int64_t{1} << 53)};
          args.q.data = at<const float>(std::uintptr_t{1} << 60);
        }) ==
        "bad stride: q.strides = {36028797018963968, -9007199254740992, 64}: elements must lie within 2^57 "
        "bytes of addresses");
}

TEST_CASE("Head dimensions whose states nobody could hold are refused") {
  CHECK(forward_with([](auto& args) { args.shape.dim_qk = 65'537; }) ==
        "bad shape: shape.dim_qk = 65537: must be at most 65536");
  CHECK(backward_with([](auto& args) { args.shape.dim_v = std::int64_t{1} << 40; }) ==
        "bad shape: shape.dim_v = 1099511627776: must be at most 65536");
  CHECK(step_with([](auto& args) { args.shape.dim_v = 65'537; }) ==
        "bad shape: shape.dim_v = 65537: must be at most 65536");
}

TEST_CASE("Strides along an extent of 1 do not matter") {
  CHECK(forward_with([](auto& args) {
          args.shape.batch = args.shape.heads_kv = 1;
          args.o.strides.batch = args.k.strides.head = most;
          args.q.strides.batch = args.v.strides.head = -most;
        }) == "ok");
}

TEST_CASE("An output of stride 0 along an extent above 1 is refused") {
  CHECK(
      forward_with([](auto& args) { args.o.strides.batch = 0; }) ==
      "bad stride: o.strides.batch = 0: elements of an output must not share an address (640 is contiguous)");
}

TEST_CASE("Output rows that overlap are refused") {
  const auto o = [](Strides strides) { return forward_with([=](auto& args) { args.o.strides = strides; }); };
  const std::string rule = ": elements of an output must not share an address ";
  CHECK(o({.head = 16}) == "bad stride: o.strides.head = 16" + rule + "(32 is contiguous)");
  CHECK(o({.seq = 127}) == "bad stride: o.strides.seq = 127" + rule + "(128 is contiguous)");
  CHECK(o({.batch = 639}) == "bad stride: o.strides.batch = 639" + rule + "(640 is contiguous)");
  CHECK(o({.batch = -639}) == "bad stride: o.strides.batch = -639" + rule + "(640 is contiguous)");
  CHECK(o({.batch = 640, .seq = 32, .head = 32}) ==
        "bad stride: o.strides.seq = 32" + rule + "(128 is contiguous)");
  CHECK(step_with([](auto& args) { args.o.strides.head = 31; }) ==
        "bad stride: o.strides.head = 31" + rule + "(32 is contiguous)");
  CHECK(backward_with([](auto& args) { args.dk.strides.seq = 64; }) ==
        "bad stride: dk.strides.seq = 64" + rule + "(128 is contiguous)");
  // of heads outside of seq, in numbers
  CHECK(o({.batch = 639, .head = outside_seq}) ==
        "bad stride: o.strides.batch = 639" + rule + "(640 is contiguous)");
  CHECK(o({.seq = 31, .head = outside_seq}) ==
        "bad stride: o.strides.seq = 31" + rule + "(128 is contiguous)");
}

TEST_CASE("Outputs may have any strides that keep their elements apart") {
  const auto o = [](Strides strides) { return forward_with([=](auto& args) { args.o.strides = strides; }); };
  CHECK(o(bhsd) == "ok");
  CHECK(o({.batch = 128, .seq = 256, .head = 32}) == "ok");  // [seq, batch, heads, dim]
  CHECK(o({.batch = -640, .seq = 128, .head = 32}) == "ok");
  CHECK(o({.batch = 640, .seq = -128, .head = -32}) == "ok");
  CHECK(o({.batch = 1000, .seq = 200, .head = 40}) == "ok");  // padded
  CHECK(o({.batch = 32, .seq = 80, .head = 500}) == "ok");    // batches in the gaps between positions
  CHECK(forward_with([](auto& args) { args.shape.batch = 1, args.o.strides.batch = 0; }) == "ok");
}

TEST_CASE("Inputs may repeat and overlap their own elements and each other") {
  CHECK(forward_with([](auto& args) { args.k.strides.batch = 0; }) == "ok");
  CHECK(forward_with([](auto& args) { args.v.strides = {0, 0, 0}; }) == "ok");
  CHECK(forward_with([](auto& args) { args.q.strides.seq = 1; }) == "ok");
  CHECK(forward_with([](auto& args) { args.q.strides = {-1280, -256, -64}; }) == "ok");
  CHECK(forward_with([](auto& args) { args.k.data = args.q.data, args.v.data = args.q.data; }) == "ok");
  CHECK(forward_with([](auto& args) { args.query_mask = args.key_mask; }) == "ok");
  CHECK(backward_with([](auto& args) { args.dout.strides = {0, 0, 0}; }) == "ok");  // the gradient of a sum
}

TEST_CASE("An output that shares memory with a tensor is refused") {
  CHECK(forward_with([](auto& args) { args.o.data = at<float>(0x100000); }) ==
        "bad stride: o.data = 0x100000: is written, so must share no memory with q.data = 0x100000");
  // The last element of k: 2 * 5 * 2 * 64 * 4 bytes on, less 4.
  CHECK(forward_with([](auto& args) { args.o.data = at<float>(0x2013fc); }) ==
        "bad stride: o.data = 0x2013fc: is written, so must share no memory with k.data = 0x200000");
  CHECK(forward_with([](auto& args) { args.o.data = at<float>(0x201400); }) == "ok");
  CHECK(backward_with([](auto& args) { args.dv.data = args.dk.data; }) ==
        "bad stride: dk.data = 0x600000: is written, so must share no memory with dv.data = 0x600000");
  CHECK(backward_with([](auto& args) { args.dq.data = at<float>(0x400000); }) ==
        "bad stride: dq.data = 0x400000: is written, so must share no memory with dout.data = 0x400000");
  // Negative strides reach below data.
  CHECK(forward_with([](auto& args) { args.o = {at<float>(0x302000), {-640, -128, -32}}; }) == "ok");
  CHECK(forward_with([](auto& args) {
          args.o = {at<float>(0x301000), {-640, -128, -32}};
        }) == "bad stride: o.data = 0x301000: is written, so must share no memory with v.data = 0x300000");
}

TEST_CASE("An output that shares memory with an option is refused") {
  const auto o_on = [](auto change) { return forward_with(change); };
  const std::string rule = "bad stride: o.data = 0x400000: is written, so must share no memory with ";
  CHECK(o_on([](auto& args) { args.scale_logit = at<const float>(0x4013fc); }) ==
        rule + "scale_logit = 0x4013fc");
  CHECK(o_on([](auto& args) { args.query_mask = at<const std::uint8_t>(0x3ffff7); }) ==
        rule + "query_mask = 0x3ffff7");
  CHECK(o_on([](auto& args) { args.query_mask = at<const std::uint8_t>(0x3ffff6); }) == "ok");
  CHECK(o_on([](auto& args) { args.key_mask = at<const std::uint8_t>(0x4013ff); }) ==
        rule + "key_mask = 0x4013ff");
  CHECK(o_on([](auto& args) { args.initial_state.h = at<const float>(0x401000); }) ==
        rule + "initial_state.h = 0x401000");
  CHECK(o_on([](auto& args) { args.final_state.count = at<std::int64_t>(0x401000); }) ==
        rule + "final_state.count = 0x401000");
  CHECK(o_on([](auto& args) {
          args.cu_seqlens_q = at<const std::int32_t>(0x800000);
          args.cu_seqlens_k = at<const std::int32_t>(0x400100);
        }) == rule + "cu_seqlens_k = 0x400100");
  CHECK(o_on([](auto& args) { args.cu_seqlens_q = args.cu_seqlens_k = at<const std::int64_t>(0x800000); }) ==
        "ok");
  CHECK(
      backward_with([](auto& args) { args.dscale_logit = at<float>(0x800004); }) ==
      "bad stride: dscale_logit = 0x800004: is written, so must share no memory with scale_logit = 0x800000");
  CHECK(backward_with([](auto& args) { args.dinitial_state = at<float>(0x1000000); }) ==
        "bad stride: dinitial_state = 0x1000000: is written, so must share no memory with dfinal_state = "
        "0x1000000");
}

TEST_CASE("What lies in the gaps of a tensor is apart from it, to the byte") {
  // Batches of o are 2560 bytes, 0x10000 elements apart; the gap is 0x400a00 to 0x43ffff.
  const auto in_gap = [](auto change) {
    return forward_with([&](auto& args) {
      args.o.strides.batch = 0x10000;
      change(args);
    });
  };
  const std::string rule = "bad stride: o.data = 0x400000: is written, so must share no memory with ";
  const auto m = [&](std::uintptr_t address) {
    return in_gap([=](auto& args) { args.scale_logit = at<const float>(address); });
  };
  CHECK(m(0x410000) == "ok");
  CHECK(m(0x400a00) == "ok");
  CHECK(m(0x4009fc) == rule + "scale_logit = 0x4009fc");
  CHECK(m(0x43fff8) == "ok");
  CHECK(m(0x43fffc) == rule + "scale_logit = 0x43fffc");
  const auto mask = [&](std::uintptr_t address) {
    return in_gap([=](auto& args) { args.key_mask = at<const std::uint8_t>(address); });
  };
  CHECK(mask(0x400a00) == "ok");
  CHECK(mask(0x4009ff) == rule + "key_mask = 0x4009ff");
  CHECK(mask(0x43fff6) == "ok");
  CHECK(mask(0x43fff7) == rule + "key_mask = 0x43fff7");
  const auto state = [&](std::uintptr_t address) {  // 2 * 2 * 64 * 32 numbers
    return in_gap([=](auto& args) { args.final_state.h = at<float>(address); });
  };
  CHECK(state(0x400a00) == "ok");
  CHECK(state(0x438000) == "ok");
  CHECK(state(0x438004) == rule + "final_state.h = 0x438004");
  CHECK(in_gap([](auto& args) { args.final_state.count = at<std::int64_t>(0x43fff0); }) == "ok");
  CHECK(in_gap([](auto& args) { args.final_state.count = at<std::int64_t>(0x43fff8); }) ==
        rule + "final_state.count = 0x43fff8");
  // A tensor that is read, and rows that walk backwards.
  const auto slope = [](std::uintptr_t address, std::int64_t sign) {
    return backward_with([=](auto& args) {
      args.q.strides.batch = sign * 0x20000;
      args.dscale_logit = at<float>(address);
    });
  };
  CHECK(slope(0x110000, 1) == "ok");
  CHECK(slope(0x180000, 1) ==
        "bad stride: dscale_logit = 0x180000: is written, so must share no memory with q.data = 0x100000");
  CHECK(slope(0x82000, -1) == "ok");
  CHECK(slope(0x80000, -1) ==
        "bad stride: dscale_logit = 0x80000: is written, so must share no memory with q.data = 0x100000");
}

TEST_CASE("Offsets have one more entry than the batch has sequences") {
  const auto offsets_at = [](auto* offsets) {
    return forward_with([=](auto& args) {
      args.cu_seqlens_q = offsets + 0x40000;
      args.cu_seqlens_k = offsets;
    });
  };
  const std::string rule =
      "bad stride: o.data = 0x400000: is written, so must share no memory with cu_seqlens_k = ";
  CHECK(offsets_at(at<const std::int32_t>(0x400000 - 12)) == "ok");
  CHECK(offsets_at(at<const std::int32_t>(0x400000 - 8)) == rule + "0x3ffff8");
  CHECK(offsets_at(at<const std::int64_t>(0x400000 - 24)) == "ok");
  CHECK(offsets_at(at<const std::int64_t>(0x400000 - 16)) == rule + "0x3ffff0");
}

TEST_CASE("Pool and tensors of step must not share memory") {
  CHECK(step_with([](auto& args) { args.o.data = at<float>(0x600000); }) ==
        "bad stride: o.data = 0x600000: is written, so must share no memory with pool.h = 0x600000");
  CHECK(step_with([](auto& args) { args.pool.h = at<float>(0x200000); }) ==
        "bad stride: pool.h = 0x200000: is written, so must share no memory with k.data = 0x200000");
  CHECK(step_with([](auto& args) { args.pool.count = at<std::int64_t>(0x600008); }) ==
        "bad stride: pool.h = 0x600000: is written, so must share no memory with pool.count = 0x600008");
  CHECK(step_with([](auto& args) { args.slot = at<const std::int32_t>(0x700014); }) ==
        "bad stride: pool.count = 0x700000: is written, so must share no memory with slot = 0x700014");
  CHECK(step_with([](auto& args) { args.accepted = at<const std::int32_t>(0x700014); }) ==
        "bad stride: pool.count = 0x700000: is written, so must share no memory with accepted = 0x700014");
}

TEST_CASE("A final state may replace the initial one but not overlap part of it") {
  CHECK(forward_with([](auto& args) {
          args.final_state.h = at<float>(0xa00000);
          args.final_state.count = at<std::int64_t>(0xb00000);
        }) == "ok");
  CHECK(forward_with([](auto& args) { args.final_state.h = at<float>(0xa00004); }) ==
        "bad stride: final_state.h = 0xa00004: is written, so must share no memory with initial_state.h = "
        "0xa00000");
  CHECK(forward_with([](auto& args) { args.final_state.count = at<std::int64_t>(0xb00008); }) ==
        "bad stride: final_state.count = 0xb00008: is written, so must share no memory with "
        "initial_state.count = "
        "0xb00000");
  // In place, it must still keep clear of everything else.
  CHECK(forward_with([](auto& args) {
          args.final_state.h = at<float>(0xa00000), args.o.data = at<float>(0xa00100);
        }) ==
        "bad stride: o.data = 0xa00100: is written, so must share no memory with final_state.h = 0xa00000");
}

TEST_CASE("Tensors may be views of one packed qkv buffer") {
  // [batch, seq, heads_q + 2 heads_kv, dim]
  const Strides strides{.batch = 5 * 8 * 64, .seq = 8 * 64, .head = 64};
  CHECK(forward_with([&](auto& args) {
          args.shape.dim_v = 64;
          args.q.strides = args.k.strides = args.v.strides = strides;
          args.k.data = args.q.data + 4 * 64;
          args.v.data = args.q.data + 6 * 64;
        }) == "ok");
  CHECK(backward_with([&](auto& args) {
          args.shape.dim_v = 64;
          args.dq.strides = args.dk.strides = args.dv.strides = strides;
          args.dk.data = args.dq.data + 4 * 64;
          args.dv.data = args.dq.data + 6 * 64;
        }) == "ok");
}

TEST_CASE("Gradients may be views of one packed buffer of tokens") {
  BackwardArguments<half> args{
      .shape =
          {.batch = 3, .seq_q = 1000, .seq_k = 1000, .heads_q = 12, .heads_kv = 4, .dim_qk = 96, .dim_v = 64},
      .q = {at<const half>(0x10000000)},
      .k = {at<const half>(0x20000000)},
      .v = {at<const half>(0x30000000)},
      .dout = {at<const half>(0x40000000)},
      .scale_logit = at<const float>(0x2000),
      .cu_seqlens_q = at<const std::int32_t>(0x1000),
      .cu_seqlens_k = at<const std::int32_t>(0x1000)};
  half* buffer = at<half>(0x50000000);
  constexpr std::int64_t token = 12 * 96 + 4 * 96 + 4 * 64;
  args.dq = {buffer, {.seq = token, .head = 96}};
  args.dk = {buffer + 12 * 96, {.seq = token, .head = 96}};
  args.dv = {buffer + 16 * 96, {.seq = token, .head = 64}};

  SECTION("each part in its place is accepted") { CHECK(outcome(validate<Causal<half>>(args)) == "ok"); }
  SECTION("dk one element early meets the end of dq") {
    --args.dk.data;
    CHECK(outcome(validate<Causal<half>>(args)) ==
          "bad stride: dq.data = 0x50000000: is written, so must share no memory with dk.data = 0x500008fe");
  }
  SECTION("dv one element late meets the beginning of the next token's dq") {
    ++args.dv.data;
    CHECK(outcome(validate<Causal<half>>(args)) ==
          "bad stride: dq.data = 0x50000000: is written, so must share no memory with dv.data = 0x50000c02");
  }
  SECTION("dv one element early meets the end of dk") {
    --args.dv.data;
    CHECK(outcome(validate<Causal<half>>(args)) ==
          "bad stride: dk.data = 0x50000900: is written, so must share no memory with dv.data = 0x50000bfe");
  }
}

TEST_CASE("Gradients may be interleaved in other orders") {
  const auto with = [](auto change) {
    return backward_with([&](auto& args) {
      args.shape.heads_kv = 4;
      args.shape.dim_v = 64;
      change(args);
    });
  };
  SECTION("[batch, heads, q k v, seq, dim]") {
    CHECK(with([](auto& args) {
            const Strides strides{.batch = 4 * 3 * 5 * 64, .seq = 64, .head = 3 * 5 * 64};
            args.dq.strides = args.dk.strides = args.dv.strides = strides;
            args.dk.data = args.dq.data + 5 * 64;
            args.dv.data = args.dq.data + 10 * 64;
          }) == "ok");
  }
  SECTION("[batch, seq, heads, q k v, dim]") {
    CHECK(with([](auto& args) {
            const Strides strides{.batch = 5 * 4 * 3 * 64, .seq = 4 * 3 * 64, .head = 3 * 64};
            args.dq.strides = args.dk.strides = args.dv.strides = strides;
            args.dk.data = args.dq.data + 64;
            args.dv.data = args.dq.data + 128;
          }) == "ok");
  }
  SECTION("[q k v, batch, seq, heads, dim]") {
    CHECK(with([](auto& args) {
            args.dk.data = args.dq.data + 2 * 5 * 4 * 64;
            args.dv.data = args.dk.data + 2 * 5 * 4 * 64;
          }) == "ok");
  }
  SECTION("every other head, with half as many heads of keys") {
    CHECK(with([](auto& args) {
            args.shape.heads_kv = 2;
            args.dv.data = nullptr;
            args.dq.strides = {.batch = 5 * 8 * 64, .seq = 8 * 64, .head = 2 * 64};
            args.dk.strides = {.batch = 5 * 8 * 64, .seq = 8 * 64, .head = 4 * 64};
            args.dk.data = args.dq.data + 64;
          }) == "ok");
  }
  SECTION("dq runs backwards through its half of the heads") {
    CHECK(with([](auto& args) {
            args.dv.data = nullptr;
            args.dq.strides = {.batch = 5 * 8 * 64, .seq = 8 * 64, .head = -64};
            args.dk.strides = {.batch = 5 * 8 * 64, .seq = 8 * 64, .head = 64};
            args.dk.data = args.dq.data + 64;
          }) == "ok");
  }
}

TEST_CASE("Random small layouts are refused exactly when two elements share an address, seed 3") {
  std::mt19937 random(3);
  const auto pick = [&](std::int64_t low, std::int64_t high) {
    return std::uniform_int_distribution<std::int64_t>(low, high)(random);
  };
  const auto elements = [](const Tensor<float>& x, std::int64_t batch, std::int64_t seq, std::int64_t heads,
                           std::int64_t dim) {
    std::vector<const float*> all;
    const Strides s = resolve(x.strides, seq, heads, dim);
    for (std::int64_t b = 0; b < batch; ++b)
      for (std::int64_t i = 0; i < seq; ++i)
        for (std::int64_t h = 0; h < heads; ++h)
          for (std::int64_t d = 0; d < dim; ++d)
            all.push_back(
                at<const float>(reinterpret_cast<std::uintptr_t>(x.data) +
                                static_cast<std::uintptr_t>(4 * (b * s.batch + i * s.seq + h * s.head + d))));
    std::sort(all.begin(), all.end());
    return all;
  };
  const auto repeats = [](const std::vector<const float*>& all) {
    return std::adjacent_find(all.begin(), all.end()) != all.end();
  };
  // Mostly layouts that nest in some order, with gaps, so that legal ones are common.
  const auto strides = [&](std::int64_t batch, std::int64_t seq, std::int64_t heads, std::int64_t dim) {
    std::array<std::int64_t, 3> extents{batch, seq, heads}, order{0, 1, 2}, result{};
    std::shuffle(order.begin(), order.end(), random);
    std::int64_t size = dim;
    for (const auto axis : order) {
      const std::int64_t step = pick(0, 5) == 0 ? pick(0, 20) : size + pick(0, 1) * pick(0, 8);
      result[static_cast<std::size_t>(axis)] = pick(0, 3) == 0 ? -step : step;
      size += step * (extents[static_cast<std::size_t>(axis)] - 1);
    }
    return Strides{result[0], result[1], result[2]};
  };

  BackwardArguments<float> args{.q = {at<const float>(0x1000)},
                                .k = {at<const float>(0x2000)},
                                .v = {at<const float>(0x3000)},
                                .dout = {at<const float>(0x4000)},
                                .scale_logit = at<const float>(0x5000)};
  int legal = 0, repeated = 0, shared = 0, wrong = 0;
  for (int trial = 0; trial < 50'000; ++trial) {
    Shape& s = args.shape;
    s = {.batch = pick(1, 3),
         .seq_q = pick(1, 4),
         .seq_k = pick(1, 4),
         .heads_kv = pick(1, 3),
         .dim_qk = pick(1, 5),
         .dim_v = 1};
    s.heads_q = s.heads_kv * pick(1, 2);
    args.dq = {at<float>(0x100000), strides(s.batch, s.seq_q, s.heads_q, s.dim_qk)};
    args.dk = {args.dq.data + pick(-60, 60), strides(s.batch, s.seq_k, s.heads_kv, s.dim_qk)};
    if (pick(0, 1) == 0) args.dk.strides = args.dq.strides;

    auto dq = elements(args.dq, s.batch, s.seq_q, s.heads_q, s.dim_qk);
    const auto dk = elements(args.dk, s.batch, s.seq_k, s.heads_kv, s.dim_qk);
    std::string expected = "ok";
    if (repeats(dq)) {
      expected = "bad stride: dq.strides.";
      ++repeated;
    } else if (std::vector<const float*> both;
               std::set_intersection(dq.begin(), dq.end(), dk.begin(), dk.end(), std::back_inserter(both)),
               !both.empty()) {
      expected = "bad stride: dq.data = ";
      ++shared;
    } else if (repeats(dk)) {
      expected = "bad stride: dk.strides.";
      ++repeated;
    } else {
      ++legal;
    }
    wrong += outcome(validate<Both>(args)).rfind(expected, 0) != 0;
  }
  CHECK(wrong == 0);
  CHECK(legal > 5'000);
  CHECK(repeated > 5'000);
  CHECK(shared > 5'000);
}

TEST_CASE("A layout too intricate to decide is accepted after a bounded search") {
  // Even strides and an odd distance never meet, but only by parity; an unbounded search would try 10^15
  // sums.
  BackwardArguments<float> args{.shape = {.batch = 100'000,
                                          .seq_q = 100'000,
                                          .seq_k = 100'000,
                                          .heads_q = 100'000,
                                          .heads_kv = 100'000,
                                          .dim_qk = 1,
                                          .dim_v = 1},
                                .q = {at<const float>(0x1000), {0, 0, 0}},
                                .k = {at<const float>(0x1000), {0, 0, 0}},
                                .v = {at<const float>(0x1000), {0, 0, 0}},
                                .dout = {at<const float>(0x1000), {0, 0, 0}},
                                .scale_logit = at<const float>(0x2000)};
  args.dq = {at<float>(0x1000000), {200'000LL * 100'000, 200'000, 2}};
  args.dk = {args.dq.data + 1'000'000'001, {210'022LL * 100'006, 210'022, 2 * 50'021}};
  args.shape.heads_kv = args.shape.heads_q = 2;
  CHECK(outcome(validate<Both>(args)) == "ok");
}

// ---- Empty problems

TEST_CASE("Empty problems need no pointers") {
  const auto accept = [](Shape shape) {
    CHECK(outcome(validate<P>(ForwardArguments<float>{.shape = shape})) == "ok");
    CHECK(outcome(validate<P>(BackwardArguments<float>{.shape = shape, .dscale_logit = at<float>(0x1000)})) ==
          "ok");
    CHECK(outcome(validate<P>(StepArguments<float>{.shape = shape, .pool_slots = 2})) == "ok");
  };
  accept({.batch = 0, .seq_q = 5, .seq_k = 5, .heads_q = 4, .heads_kv = 2, .dim_qk = 64, .dim_v = 32});
  accept({.batch = 2, .seq_q = 0, .seq_k = 0, .heads_q = 4, .heads_kv = 2, .dim_qk = 64, .dim_v = 32});
  accept({.batch = 2, .seq_q = 5, .seq_k = 5, .heads_q = 0, .heads_kv = 0, .dim_qk = 64, .dim_v = 32});
}

TEST_CASE("An empty problem still needs the arrays that are not empty") {
  Shape no_keys = small;
  no_keys.seq_k = 0;
  ForwardArguments<float> args{.shape = no_keys};
  CHECK(outcome(validate<Both>(args)) == "null pointer: q.data = null: must point to 2560 elements");
  args.q.data = at<const float>(0x1000);
  CHECK(outcome(validate<Both>(args)) == "null pointer: o.data = null: must point to 1280 elements");
  args.o.data = at<float>(0x100000);
  args.initial_state.h = at<const float>(0x200000);
  CHECK(outcome(validate<Both>(args)) ==
        "null pointer: initial_state.count = null: must be given together with initial_state.h");
  args.initial_state.count = at<const std::int64_t>(0x300000);
  CHECK(outcome(validate<Both>(args)) == "ok");

  Shape no_tokens = small;
  no_tokens.seq_q = no_tokens.seq_k = 0;
  CHECK(outcome(validate<P>(ForwardArguments<float>{
            .shape = no_tokens,
            .initial_state = {at<const float>(0x1000), at<const std::int64_t>(0x100000)},
            .final_state = {.h = at<float>(0x1004)}})) ==
        "bad stride: final_state.h = 0x1004: is written, so must share no memory with initial_state.h = "
        "0x1000");

  StepArguments<float> no_queries{.shape = small, .pool_slots = 2};
  no_queries.shape.heads_q = 0;
  CHECK(outcome(validate<P>(no_queries)) == "null pointer: k.data = null: must point to 1280 elements");
}

TEST_CASE("Half of an empty initial state is no fault") {
  CHECK(forward_with([](auto& args) { args.shape.batch = 0, args.initial_state.h = nullptr; }) == "ok");
  CHECK(forward_with([](auto& args) {
          args.shape.heads_q = args.shape.heads_kv = 0;
          args.initial_state.h = nullptr;
        }) == "ok");
}

TEST_CASE("Pointers of empty tensors are not looked at") {
  CHECK(forward_with([](auto& args) {
          args.shape.seq_q = args.shape.seq_k = 0;
          args.o = {at<float>(0x100001), {0, 0, 0}};
          args.q = {at<const float>(0x100001), {0, 0, 0}};
        }) == "ok");
}

// ---- Options of step and plans

TEST_CASE("Lanes without slots must fit the pool") {
  CHECK(step_with([](auto& args) { args.slot = nullptr, args.pool_slots = 1; }) ==
        "bad slot: pool_slots = 1: must be at least shape.batch = 2 when slot is null");
  CHECK(step_with([](auto& args) { args.slot = nullptr, args.pool_slots = 2; }) == "ok");
  CHECK(step_with([](auto& args) { args.pool_slots = 1; }) == "ok");
}

TEST_CASE("A negative number of slots is refused") {
  CHECK(step_with([](auto& args) { args.pool_slots = -1; }) ==
        "bad shape: pool_slots = -1: must be at least 0");
}

TEST_CASE("A plan outside its enumeration is refused") {
  CHECK(forward_with([](auto& args) { args.plan = Plan::batch_invariant; }) == "ok");
  CHECK(forward_with([](auto& args) { args.plan = static_cast<Plan>(7); }) ==
        "bad option: plan = 7: must be Plan::automatic or Plan::batch_invariant");
  CHECK(backward_with([](auto& args) { args.plan = static_cast<Plan>(-1); }) ==
        "bad option: plan = -1: must be Plan::automatic or Plan::batch_invariant");
}

// ---- Workspace

TEST_CASE("A workspace that is null, short or misaligned is refused") {
  void* place = at<void>(0x1000);
  CHECK(outcome(validate(Workspace{place, 100}, 100)) == "ok");
  CHECK(outcome(validate(Workspace{nullptr, 0}, 0)) == "ok");
  CHECK(outcome(validate(Workspace{nullptr, 100}, 100)) ==
        "bad workspace: workspace.data = null: must point to 100 bytes");
  CHECK(outcome(validate(Workspace{place, 99}, 100)) ==
        "bad workspace: workspace.bytes = 99: must be at least 100");
  CHECK(outcome(validate(Workspace{at<void>(0x1020), 100}, 100)) ==
        "bad workspace: workspace.data = 0x1020: must be aligned to 64 bytes");
}

// ---- Contents

namespace {

template <class Problem, class Index>
std::string packed(const std::vector<Index>& q, const std::vector<Index>& k, std::int64_t seq_q,
                   std::int64_t seq_k) {
  Shape shape = small;
  shape.batch = static_cast<std::int64_t>(q.size()) - 1;
  shape.seq_q = seq_q;
  shape.seq_k = seq_k;
  const std::string forward = outcome(validate_contents<Problem>(
      ForwardArguments<float>{.shape = shape, .cu_seqlens_q = q.data(), .cu_seqlens_k = k.data()}));
  const std::string backward = outcome(validate_contents<Problem>(
      BackwardArguments<float>{.shape = shape, .cu_seqlens_q = q.data(), .cu_seqlens_k = k.data()}));
  return forward == backward ? forward : "forward: " + forward + "; backward: " + backward;
}

}  // namespace

TEMPLATE_TEST_CASE("Offsets must ascend from 0 and stay within the token axis", "", std::int32_t,
                   std::int64_t) {
  using Offsets = std::vector<TestType>;
  const auto self = [](const Offsets& offsets) { return packed<P>(offsets, offsets, 20, 20); };
  CHECK(self({0, 5, 20}) == "ok");
  CHECK(self({0, 0, 20, 20}) == "ok");
  CHECK(self({1, 5, 20}) == "bad offsets: cu_seqlens_q[0] = 1: must be 0");
  CHECK(self({0, 9, 7, 20}) == "bad offsets: cu_seqlens_q[2] = 7: must not be below cu_seqlens_q[1] = 9");
  CHECK(self({0, -1, 20}) == "bad offsets: cu_seqlens_q[1] = -1: must not be below cu_seqlens_q[0] = 0");
  CHECK(self({0, 5, 19}) == "ok");
  CHECK(self({0, 0, 0}) == "ok");
  CHECK(self({2, 2, 2}) == "bad offsets: cu_seqlens_q[0] = 2: must be 0");
  CHECK(self({0, 5, 21}) == "bad offsets: cu_seqlens_q[2] = 21: must not be above shape.seq_q = 20");
  CHECK(self({0, 25, 20}) == "bad offsets: cu_seqlens_q[2] = 20: must not be below cu_seqlens_q[1] = 25");
  CHECK(packed<Both, TestType>({0, 5, 20}, {0, 20, 17}, 20, 20) ==
        "bad offsets: cu_seqlens_k[2] = 17: must not be below cu_seqlens_k[1] = 20");
  CHECK(packed<Both, TestType>({0, 5, 20}, {0, 3, 17}, 20, 18) == "ok");
  CHECK(packed<Both, TestType>({0, 5, 20}, {0, 3, 17}, 20, 16) ==
        "bad offsets: cu_seqlens_k[2] = 17: must not be above shape.seq_k = 16");
  CHECK(packed<Both, TestType>({0, 5, 20}, {3, 3, 18}, 20, 18) ==
        "bad offsets: cu_seqlens_k[0] = 3: must be 0");
}

TEST_CASE("Offsets of queries and keys must be equal when causal") {
  using Offsets = std::vector<std::int64_t>;
  CHECK(packed<P>(Offsets{0, 5, 20}, Offsets{0, 6, 20}, 20, 20) ==
        "bad offsets: cu_seqlens_k[1] = 6: must equal cu_seqlens_q[1] = 5 when causal");
  CHECK(packed<P>(Offsets{0, 5, 19}, Offsets{0, 5, 20}, 20, 20) ==
        "bad offsets: cu_seqlens_k[2] = 20: must equal cu_seqlens_q[2] = 19 when causal");
  CHECK(packed<Both>(Offsets{0, 5, 20}, Offsets{0, 6, 20}, 20, 20) == "ok");
  CHECK(packed<Both>(Offsets{0, 5, 20}, Offsets{0, 6, 30}, 20, 30) == "ok");
}

TEST_CASE("A packed batch may have no sequences") {
  CHECK(packed<P>(std::vector<std::int32_t>{0}, {0}, 0, 0) == "ok");
  CHECK(packed<P>(std::vector<std::int32_t>{0}, {0}, 4, 4) == "ok");
  CHECK(packed<P>(std::vector<std::int32_t>{1}, {1}, 4, 4) == "bad offsets: cu_seqlens_q[0] = 1: must be 0");
}

TEST_CASE("The longest numbers fit the reason") {
  constexpr std::int64_t least = std::numeric_limits<std::int64_t>::min();
  std::vector<std::int64_t> offsets(1'000'002, 0);
  offsets.back() = least;
  CHECK(packed<P>(offsets, offsets, 20, 20) ==
        "bad offsets: cu_seqlens_q[1000001] = -9223372036854775808: must not be below cu_seqlens_q[1000000] "
        "= 0");
}

TEST_CASE("Counts of an initial state must not be negative") {
  const std::int64_t count[] = {3, -1};
  ForwardArguments<float> forward{.shape = small};
  BackwardArguments<float> backward{.shape = small};
  CHECK(outcome(validate_contents<P>(forward)) == "ok");
  forward.initial_state.count = backward.initial_state.count = count;
  CHECK(outcome(validate_contents<P>(forward)) ==
        "bad option: initial_state.count[1] = -1: must not be negative");
  CHECK(outcome(validate_contents<P>(backward)) ==
        "bad option: initial_state.count[1] = -1: must not be negative");
  forward.shape.batch = 1;
  CHECK(outcome(validate_contents<P>(forward)) == "ok");
}

namespace {

/// Checks the contents of a step over a pool of ten slots, slot 9 of which has a negative count.
std::string step_contents(std::vector<std::int32_t> slot, std::vector<std::int32_t> accepted = {}) {
  std::vector<std::int64_t> count{0, 1, 2, 3, 4, 5, 6, 7, 8, -5};
  std::vector<std::int32_t> scratch(slot.size());
  StepArguments<float> args{.shape = small, .pool_slots = 10};
  args.shape.batch = static_cast<std::int64_t>(slot.size());
  args.pool.count = count.data();
  args.slot = slot.data();
  args.accepted = accepted.empty() ? nullptr : accepted.data();
  return outcome(validate_contents<P>(args, scratch.data()));
}

}  // namespace

TEST_CASE("Slots must lie in the pool") {
  CHECK(step_contents({8, 0, 3}) == "ok");
  CHECK(step_contents({8, 10, 3}) == "bad slot: slot[1] = 10: must be below pool_slots = 10");
  CHECK(step_contents({8, std::numeric_limits<std::int32_t>::max()}) ==
        "bad slot: slot[1] = 2147483647: must be below pool_slots = 10");
}

TEST_CASE("No slot may serve two lanes") {
  CHECK(step_contents({8, 0, 3, 0}) == "bad slot: slot[3] = 0: must not be used twice, and is by slot[1]");
  CHECK(step_contents({5, 7, 7, 5}) == "bad slot: slot[3] = 5: must not be used twice, and is by slot[0]");
  CHECK(step_contents({6, 6}) == "bad slot: slot[1] = 6: must not be used twice, and is by slot[0]");
}

TEST_CASE("Any number of lanes may be idle and nothing of theirs is looked at") {
  CHECK(step_contents({-1, -1, 3, -7}) == "ok");
  CHECK(step_contents({-1, 3}, {-100, 5}) == "ok");
  CHECK(step_contents({std::numeric_limits<std::int32_t>::min(), 3}) == "ok");
}

TEST_CASE("Accepted tokens must lie within 0 to T") {
  CHECK(step_contents({0, 1, 2}, {0, 5, 3}) == "ok");
  CHECK(step_contents({0, 1, 2}, {0, 6, 3}) ==
        "bad option: accepted[1] = 6: must be at least 0 and at most shape.seq_k = 5");
  CHECK(step_contents({0, 1, 2}, {0, 5, -1}) ==
        "bad option: accepted[2] = -1: must be at least 0 and at most shape.seq_k = 5");
}

TEST_CASE("Counts of states in use must not be negative") {
  CHECK(step_contents({0, 9}) == "bad option: pool.count[9] = -5: must not be negative");
}

TEST_CASE("Without slots lane b has slot b") {
  std::int64_t count[] = {1, -2};
  StepArguments<float> args{.shape = small, .pool = {.count = count}, .pool_slots = 2};
  CHECK(outcome(validate_contents<P>(args, nullptr)) ==
        "bad option: pool.count[1] = -2: must not be negative");
  count[1] = 2;
  CHECK(outcome(validate_contents<P>(args, nullptr)) == "ok");
}

TEST_CASE("Slots are read and not changed") {
  const std::vector<std::int32_t> slot{7, -1, 2, 5};
  std::vector<std::int32_t> copy = slot, scratch(4, -9);
  StepArguments<float> args{.shape = small, .pool_slots = 10};
  args.shape.batch = 4;
  args.slot = copy.data();
  CHECK(outcome(validate_contents<P>(args, scratch.data())) == "ok");
  CHECK(copy == slot);
}

TEST_CASE("Contents of an empty problem are accepted") {
  CHECK(outcome(validate_contents<P>(ForwardArguments<float>{.shape = {.dim_qk = 1, .dim_v = 1}})) == "ok");
  CHECK(outcome(validate_contents<P>(BackwardArguments<float>{.shape = {.dim_qk = 1, .dim_v = 1}})) == "ok");
  CHECK(outcome(validate_contents<P>(StepArguments<float>{.shape = {.dim_qk = 1, .dim_v = 1}}, nullptr)) ==
        "ok");
}

TEST_CASE("Checks allocate nothing") {
  const auto forward = forward_arguments<float>();
  const auto backward = backward_arguments<float>();
  const auto step = step_arguments<float>();
  auto shared = forward;
  shared.o.data = at<float>(0x100000);
  std::vector<std::int32_t> slot(1000), scratch(1000);
  for (std::size_t i = 0; i < slot.size(); ++i) slot[i] = static_cast<std::int32_t>((i * 7) % 1000);
  StepArguments<float> many{.shape = small, .pool_slots = 1000, .slot = slot.data()};
  many.shape.batch = 1000;

  const std::int64_t before = allocations;
  const bool right = validate<P>(forward).ok() && validate<P>(backward).ok() && validate<P>(step).ok() &&
                     !validate<P>(shared).ok() && validate_contents<P>(many, scratch.data()).ok() &&
                     !validate(Workspace{nullptr, 0}, 10).ok();
  const std::int64_t after = allocations;
  CHECK(right);
  CHECK(after == before);
  CHECK(before > 0);  // the counter counts
}

}  // namespace cottention::test
