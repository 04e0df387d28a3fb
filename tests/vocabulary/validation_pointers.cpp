// Rules of validation.hpp about each array alone: its pointer, its alignment and its strides.
#include <cottention/validation.hpp>

#include <cstdint>
#include <string>

#include "support/catch.hpp"
#include "support/validation.hpp"

namespace cottention::test {

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
  // By query it weighs outputs, which a step that only absorbs tokens has none of.
  using ByQuery = Problem<float, any_head_dim, Mask::causal, Scale::by_query>;
  auto absorbing = step_arguments<float>();
  absorbing.scale_logit = nullptr;
  CHECK(outcome(validate<ByQuery>(absorbing)) == reason);
  absorbing.o = {};
  CHECK(outcome(validate<ByQuery>(absorbing)) == "ok");
  CHECK(outcome(validate<P>(absorbing)) == reason);
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

// ---- Strides

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

}  // namespace cottention::test
