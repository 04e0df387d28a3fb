// Rules of validation.hpp about what arrays hold: offsets, counts, slots. And that checks allocate nothing.
#include <cottention/validation.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <new>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/validation.hpp"

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

namespace {

/// Checks the contents of a forward call with states in pools of ten slots, slot 9 of which has a negative
/// count; with room for a copy of the slots and without.
std::string forward_contents(const std::vector<std::int32_t>& read, const std::vector<std::int32_t>& write,
                             bool one_pool = true) {
  std::vector<std::int64_t> count{0, 1, 2, 3, 4, 5, 6, 7, 8, -5};
  const auto batch = static_cast<std::int64_t>(std::max(read.size(), write.size()));
  std::vector<std::int32_t> scratch(static_cast<std::size_t>(batch));
  ForwardArguments<float> args{.shape = small, .pool_slots = 10};
  args.shape.batch = batch;
  args.initial_state = {at<const float>(0x1000), count.data()};
  args.final_state = {at<float>(one_pool ? 0x1000 : 0x2000), one_pool ? count.data() : nullptr};
  args.read_slot = read.empty() ? nullptr : read.data();
  args.write_slot = write.empty() ? nullptr : write.data();
  const std::string found = outcome(validate_contents<P>(args, scratch.data()));
  CHECK(outcome(validate_contents<P>(args)) == found);
  return found;
}

}  // namespace

TEST_CASE("Slots of forward must lie in the pool, and written ones differ") {
  CHECK(forward_contents({8, 0, 3}, {8, 0, 3}) == "ok");
  CHECK(forward_contents({8, 0, 3}, {1, 2, 4}) == "ok");
  CHECK(forward_contents({8, 8, 8}, {1, 2, -4}) == "ok");
  CHECK(forward_contents({-1, -1, -9}, {-1, -1, -1}) == "ok");
  CHECK(forward_contents({8, 10, 3}, {8, 0, 3}) ==
        "bad slot: read_slot[1] = 10: must be below pool_slots = 10");
  CHECK(forward_contents({8, 0, 3}, {8, 0, 10}) ==
        "bad slot: write_slot[2] = 10: must be below pool_slots = 10");
  CHECK(forward_contents({-1, -1, -1, -1}, {5, 7, 7, 5}) ==
        "bad slot: write_slot[3] = 5: must not be used twice, and is by write_slot[0]");
}

TEST_CASE("A slot that forward writes for one sequence is read for no other") {
  CHECK(forward_contents({2, 4, 5}, {5, 3, 6}) ==
        "bad slot: write_slot[0] = 5: must not be what sequence 2 reads");
  CHECK(forward_contents({2, 4, 5}, {5, 3, 6}, false) == "ok");
  CHECK(forward_contents({}, {1, 4}) == "bad slot: write_slot[0] = 1: must not be what sequence 1 reads");
  CHECK(forward_contents({}, {1, 4}, false) == "ok");
  CHECK(forward_contents({2, 0, -1}, {}) ==
        "bad slot: read_slot[0] = 2: must not be where sequence 2 has its final state");
  CHECK(forward_contents({0, -1, 3}, {}) == "ok");
  CHECK(forward_contents({2, 0, -1}, {}, false) == "ok");
}

TEST_CASE("Counts of states that forward reads must not be negative") {
  CHECK(forward_contents({0, 9}, {1, 2}) == "bad option: initial_state.count[9] = -5: must not be negative");
  CHECK(forward_contents({0, -1}, {1, 9}) == "ok");
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
  ForwardArguments<float> pooled{.shape = small, .pool_slots = 1000, .write_slot = slot.data()};
  pooled.shape.batch = 1000;
  pooled.final_state.h = at<float>(0x1000);

  const std::int64_t before = allocations;
  const bool right = validate<P>(forward).ok() && validate<P>(backward).ok() && validate<P>(step).ok() &&
                     !validate<P>(shared).ok() && validate_contents<P>(many, scratch.data()).ok() &&
                     validate_contents<P>(pooled, scratch.data()).ok() &&
                     !validate(Workspace{nullptr, 0}, 10).ok();
  const std::int64_t after = allocations;
  CHECK(right);
  CHECK(after == before);
  CHECK(before > 0);  // the counter counts
}

namespace {

/// Checks the slots of checkpoints every 128 tokens, three for each of two sequences of 300 and 128 tokens.
std::string checkpoint_contents(const std::vector<std::int32_t>& checkpoint, std::int32_t read = -1,
                                bool packed = true) {
  std::vector<std::int64_t> count{0, 1, 2, 3, 4, 5, 6, 7, 8, 9};
  const std::int64_t offsets[] = {0, 300, 428};
  const std::int32_t read_slot[] = {-1, read}, write_slot[] = {8, 9};
  std::vector<std::int32_t> scratch(8);
  ForwardArguments<float> args{.shape = small, .pool_slots = 10, .checkpoint_interval = 128};
  args.shape.seq_q = args.shape.seq_k = packed ? 500 : 200;
  if (packed) args.cu_seqlens_q = args.cu_seqlens_k = offsets;
  args.initial_state = {at<const float>(0x1000), count.data()};
  args.final_state = {at<float>(0x1000), count.data()};
  args.read_slot = read_slot;
  args.write_slot = write_slot;
  args.max_checkpoints = 3;
  args.checkpoint_slot = checkpoint.data();
  const std::string found = outcome(validate_contents<P>(args, scratch.data()));
  CHECK(outcome(validate_contents<P>(args)) == found);
  return found;
}

}  // namespace

TEST_CASE("Slots of checkpoints lie in the pool, are written once, and are read by no other sequence") {
  CHECK(checkpoint_contents({0, 1, -1, 2, -1, -1}) == "ok");
  CHECK(checkpoint_contents({0, -1, 0, -1, 0, 12}) == "ok");  // those beyond a sequence's length are not read
  CHECK(checkpoint_contents({0, 10, -1, 2, -1, -1}) ==
        "bad slot: checkpoint_slot[1] = 10: must be below pool_slots = 10");
  CHECK(checkpoint_contents({0, 1, -1, 1, -1, -1}) ==
        "bad slot: checkpoint_slot[3] = 1: must not be used twice, and is by checkpoint_slot[1]");
  CHECK(checkpoint_contents({0, 9, -1, 1, -1, -1}) ==
        "bad slot: checkpoint_slot[1] = 9: must not be used twice, and is by write_slot[1]");
  CHECK(checkpoint_contents({0, 1, -1, 2, -1, -1}, 1) ==
        "bad slot: checkpoint_slot[1] = 1: must not be what sequence 1 reads");
  CHECK(checkpoint_contents({0, 1, -1, 2, -1, -1}, 2) == "ok");  // its own
  CHECK(checkpoint_contents({0, 1, 1, 2, 3, 3}, -1, false) == "ok");
  CHECK(checkpoint_contents({0, 1, 1, 0, 3, 3}, -1, false) ==
        "bad slot: checkpoint_slot[3] = 0: must not be used twice, and is by checkpoint_slot[0]");
}

}  // namespace cottention::test
