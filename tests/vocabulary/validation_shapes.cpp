// Rules of validation.hpp about shapes, empty ones included, and about slots and plans: what breaks one is
// refused by a reason that names the argument, its value and the rule, and what is legal, however unusual, is
// accepted.
#include <cottention/validation.hpp>

#include <cstdint>
#include <string>
#include <utility>

#include "support/catch.hpp"
#include "support/validation.hpp"

namespace cottention::test {

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

TEST_CASE("Head dimensions whose states nobody could hold are refused") {
  CHECK(forward_with([](auto& args) { args.shape.dim_qk = 65'537; }) ==
        "bad shape: shape.dim_qk = 65537: must be at most 65536");
  CHECK(backward_with([](auto& args) { args.shape.dim_v = std::int64_t{1} << 40; }) ==
        "bad shape: shape.dim_v = 1099511627776: must be at most 65536");
  CHECK(step_with([](auto& args) { args.shape.dim_v = 65'537; }) ==
        "bad shape: shape.dim_v = 65537: must be at most 65536");
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

TEST_CASE("Sequences without slots must fit the pool") {
  const auto with = [](std::int64_t pool_slots, bool read, bool write) {
    return forward_with([=](auto& args) {
      args.pool_slots = pool_slots;
      if (read) args.read_slot = at<const std::int32_t>(0xe00000);
      if (write) args.write_slot = at<const std::int32_t>(0xf00000);
    });
  };
  CHECK(with(1, true, true) == "ok");
  CHECK(with(2, true, false) == "ok");
  CHECK(with(1, true, false) ==
        "bad slot: pool_slots = 1: must be at least shape.batch = 2 when write_slot is null");
  CHECK(with(1, false, true) ==
        "bad slot: pool_slots = 1: must be at least shape.batch = 2 when read_slot is null");
  CHECK(with(-1, true, true) == "bad shape: pool_slots = -1: must be at least 0");
  CHECK(with(-1, false, false) == "ok");  // not looked at
  CHECK(with(most, true, true) ==
        "bad shape: shape of final_state.h = [9223372036854775807, 2, 64, 32]: must "
        "have at most 2^57 elements");
  CHECK(forward_with([](auto& args) {  // there is no initial state
          args.initial_state = {};
          args.pool_slots = 1;
          args.write_slot = at<const std::int32_t>(0xf00000);
        }) == "ok");
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

TEST_CASE("Checkpoints are whole chunks apart, of causal calls, and have slots only where there are any") {
  const auto interval = [](std::int64_t tokens) {
    return [=](auto& args) { args.checkpoint_interval = tokens; };
  };
  for (const std::int64_t tokens : {0, 128, 640}) CHECK(forward_with(interval(tokens)) == "ok");
  for (const std::int64_t tokens : {-128, 1, 64, 129})
    CHECK(forward_with(interval(tokens)) == "bad option: checkpoint_interval = " + std::to_string(tokens) +
                                                ": must be a multiple of checkpoint_chunk = 128, or 0");
  auto everything = forward_arguments<float>();
  everything.checkpoint_interval = 128;
  CHECK(outcome(validate<Both>(everything)) ==
        "bad option: checkpoint_interval = 128: must be 0 unless causal");
  const auto with_slots = [](std::int64_t tokens, std::int64_t places) {
    return forward_with([=](auto& args) {
      args.checkpoint_interval = tokens, args.max_checkpoints = places, args.pool_slots = 2;
      args.checkpoint_slot = at<const std::int32_t>(0xe00000);
    });
  };
  CHECK(with_slots(128, 3) == "ok");
  CHECK(with_slots(128, -1) == "bad shape: max_checkpoints = -1: must be at least 0");
  CHECK(with_slots(0, 3) ==
        "bad option: checkpoint_slot = 0xe00000: must be null where checkpoint_interval is 0");
  CHECK(forward_with([](auto& args) {
          args.checkpoint_interval = 128, args.max_checkpoints = 3, args.pool_slots = 1;
          args.checkpoint_slot = at<const std::int32_t>(0xe00000);
        }) == "bad slot: pool_slots = 1: must be at least shape.batch = 2 when read_slot is null");
}

}  // namespace cottention::test
