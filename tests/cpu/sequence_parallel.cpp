// Sequences split over ranks that are threads, against the reference on the whole sequences.
#include <cstdint>
#include <string>
#include <vector>

#include "support/cases.hpp"
#include "support/catch.hpp"
#include "support/cpu_runs.hpp"
#include "support/split_runs.hpp"

using cottention::bfloat16, cottention::half;  // in COTTENTION_TEST_ELEMENTS
using cottention::CallStatus, cottention::Mask, cottention::Scale, cottention::StatusCode;
using namespace support;

namespace {

/// Checks both calls on one to seven ranks.
template <cottention::Element T>
void check_parts(const std::vector<Case>& some, std::initializer_list<int> ranks = {1, 2, 3, 4, 7}) {
  Random random(3);
  std::vector<int> numbers(ranks);
  std::size_t turn = 0;
  for (const Case& c : some) {
    const int number = numbers[turn++ % numbers.size()];
    Inputs<T> inputs(c);
    const std::vector<Cut> cuts = random_cuts(inputs, number, random);
    INFO(describe<T>(c) << ", cuts " << describe(cuts));
    const PartManner manner{.keeps_h = turn % 2 == 0};
    SplitProblem<T> problem(inputs, cuts, c.layout);
    const auto statuses = run_parts(problem, c, manner);
    for (const CallStatus& status : statuses) {
      INFO(status.reason);
      REQUIRE(status.ok());
    }
    CHECK(problem.surroundings_untouched());
    check_output(inputs, problem.output());
    check_gradient(inputs, problem.gradient(number - 1));
  }
}

}  // namespace

TEMPLATE_TEST_CASE("Parts: every length is right", "", COTTENTION_TEST_ELEMENTS) {
  check_parts<TestType>(cases::lengths());
}

TEMPLATE_TEST_CASE("Parts: masked tokens, groups and states are right", "", COTTENTION_TEST_ELEMENTS) {
  check_parts<TestType>(cases::paddings());
  check_parts<TestType>(cases::groups());
  check_parts<TestType>(cases::states());
}

TEMPLATE_TEST_CASE("Parts: packed sequences that cross ranks are right", "", COTTENTION_TEST_ELEMENTS) {
  for (int turn = 0; turn < 2; ++turn) {
    check_parts<TestType>(cases::packed(), {2, 3, 7});
    check_parts<TestType>(cases::packed(), {4});
  }
}

TEMPLATE_TEST_CASE("Parts: cross-attention and strided tensors are right", "", COTTENTION_TEST_ELEMENTS) {
  check_parts<TestType>(cases::cross_attention());
  check_parts<TestType>(cases::layouts());
}

TEMPLATE_TEST_CASE("Parts: random problems are right", "", COTTENTION_TEST_ELEMENTS) {
  for (std::uint64_t seed = 300; seed < 360; ++seed)
    check_parts<TestType>({cases::random(seed)}, {static_cast<int>(2 + seed % 6)});
}

TEMPLATE_TEST_CASE("Parts: long sequences in pieces are right", "", COTTENTION_TEST_ELEMENTS) {
  const std::vector<Case> all = cases::pieces();
  for (std::size_t i = 0; i < all.size(); i += 4) check_parts<TestType>({all[i]}, {i % 8 == 0 ? 2 : 3});
}

TEMPLATE_TEST_CASE("Parts: two runs agree bit for bit, whatever the threads of each rank", "",
                   COTTENTION_TEST_ELEMENTS) {
  Random random(9);
  for (const Case& c : cases::batches()) {
    Inputs<TestType> inputs(c);
    const std::vector<Cut> cuts = random_cuts(inputs, 3, random);
    INFO(describe<TestType>(c) << ", cuts " << describe(cuts));
    SplitProblem<TestType> first(inputs, cuts), second(inputs, cuts);
    for (const CallStatus& status : run_parts(first, c, {})) REQUIRE(status.ok());
    for (const CallStatus& status : run_parts(second, c, {.execution = executor(2)})) REQUIRE(status.ok());
    CHECK(same_bits(first.output(), second.output()));
    for (int rank = 0; rank < 3; ++rank) CHECK(same_bits(first.gradient(rank), second.gradient(rank)));
  }
}

TEST_CASE("Parts: what a rank sends does not grow with lengths, nor with a packed batch") {
  struct Sent {
    std::size_t bytes;
    int messages;
  };
  const auto sent = [](const Case& c, int number) {
    Inputs<float> inputs(c);
    Random random(12);
    SplitProblem<float> problem(inputs, random_cuts(inputs, number, random));
    std::vector<Sent> each(static_cast<std::size_t>(number));
    ThreadRanks ranks(number);
    std::vector<CallStatus> statuses(each.size());
    ranks.run([&](Rank& rank) {
      const auto at = static_cast<std::size_t>(rank.rank());
      statuses[at] = run_rank(problem, c, rank, {});
      each[at] = {rank.bytes_sent(), rank.messages_sent()};
    });
    for (std::size_t r = 0; r < each.size(); ++r) {
      REQUIRE(statuses[r].ok());
      CHECK(each[r].bytes == each[0].bytes);
      CHECK(each[r].messages == each[0].messages);
    }
    return each[0];
  };
  // Of both calls: two headers of 96 bytes, two counts, three states, and three sums for the gradient of m.
  constexpr std::size_t state = 2 * 16 * 24 * sizeof(float);
  for (const std::int64_t n : {64, 1000}) {
    const Sent one = sent({.shape = {1, n, n, 4, 2, 16, 24}}, 3);
    CHECK(one.bytes == 2 * 96 + 2 * 8 + 3 * state + 3 * 2 * sizeof(float));
    CHECK(one.messages == 7);
    CHECK(sent({.shape = {2, n, n, 4, 2, 16, 24}}, 3).bytes ==
          2 * 96 + 2 * 2 * 8 + 2 * 3 * state + 3 * 2 * sizeof(float));
    const Sent packed = sent({.shape = {.heads_q = 4, .heads_kv = 2, .dim_qk = 16, .dim_v = 24},
                              .lengths_q = {n, n, 5, n, n, n, 2 * n}},
                             3);
    CHECK(packed.bytes == one.bytes);
    const Sent both = sent({.mask = Mask::bidirectional,
                            .shape = {.heads_q = 4, .heads_kv = 2, .dim_qk = 16, .dim_v = 24},
                            .lengths_q = {n, n, 5, n, n, n, 2 * n}},
                           3);
    CHECK(both.bytes == 2 * 96 + 2 * 2 * 8 + 2 * 3 * state + 3 * 2 * sizeof(float));
  }
}

TEST_CASE("Parts: one rank with bad arguments makes all return its status, and none waits") {
  const Case c{.shape = {.heads_q = 2, .heads_kv = 1, .dim_qk = 16, .dim_v = 16}, .lengths_q = {40, 30, 50}};
  Inputs<float> inputs(c);
  const std::vector<Cut> cuts = {{0, 0, 0}, {0, 20, 20}, {1, 10, 10}, {2, 50, 50}};
  using Forward = cottention::ForwardArguments<float>;
  using Backward = cottention::BackwardArguments<float>;
  using Part = cottention::SequencePart<float>;
  const auto check = [&](StatusCode code, const std::string& reason, auto change_forward,
                         auto change_backward) {
    for (const bool backward : {false, true}) {
      SplitProblem<float> problem(inputs, cuts);
      std::vector<CallStatus> statuses(3);
      ThreadRanks ranks(3);
      ranks.run([&](Rank& rank) {
        Forward args = problem.forward(rank.rank());
        Backward gradients = problem.backward(rank.rank());
        Part part = problem.part(rank.rank(), false);
        if (rank.rank() >= 1) change_forward(args, part, rank.rank());
        if (rank.rank() >= 1) change_backward(gradients, part, rank.rank());
        statuses[static_cast<std::size_t>(rank.rank())] =
            backward ? run_part<float>(cpu_part_backward<float>(c.mask, c.scale), gradients, part, rank, {})
                     : run_part<float>(cpu_part_forward<float>(c.mask, c.scale), args, part, rank, {});
      });
      for (const CallStatus& status : statuses) {
        CHECK(status.code == code);
        CHECK(std::string(status.reason) == reason);
      }
      CHECK(problem.surroundings_untouched());
    }
  };
  const auto both = [&](StatusCode code, const std::string& reason, auto change) {
    check(code, reason, change, change);
  };
  both(StatusCode::bad_option, "rank 1: plan = 7: must be Plan::automatic or Plan::batch_invariant",
       [](auto& args, Part&, int) { args.plan = static_cast<cottention::Plan>(7); });
  both(StatusCode::null_pointer, "rank 2: k.data = null: must point to 1120 elements",
       [](auto& args, Part&, int rank) {
         if (rank == 2) args.k.data = nullptr;
       });
  both(StatusCode::bad_option, "rank 2: part.first_sequence = -1: must be at least 0 and at most 2^62",
       [](auto&, Part& part, int rank) {
         if (rank == 2) part.first_sequence = -1;
       });
  both(StatusCode::bad_option,
       "part.first_sequence = 4 on rank 2: must be 1 or 2, since rank 1 ends with sequence 1",
       [](auto&, Part& part, int rank) {
         if (rank == 2) part.first_sequence = 4;
       });
  both(StatusCode::bad_shape, "whether cu_seqlens_q is given = 0 on rank 1: must be 1, as on rank 0",
       [](auto& args, Part& part, int) {
         args.cu_seqlens_q = args.cu_seqlens_k = nullptr;
         args.shape.batch = 1;
         part.first_sequence = 0;
       });
}

TEST_CASE("Parts: kept states must share no memory with the arrays of a call") {
  Inputs<float> inputs({.shape = {2, 60, 60, 2, 1, 16, 16}});
  SplitProblem<float> problem(inputs, {{0, 0, 0}, {0, 20, 20}, {0, 60, 60}});
  const auto check = [&](const char* reason, auto args_of, auto place_of, auto call) {
    std::vector<CallStatus> statuses(2);
    ThreadRanks ranks(2);
    ranks.run([&](Rank& rank) {
      const auto args = args_of(rank.rank());
      cottention::SequencePart<float> part;
      if (rank.rank() == 1) part.incoming_h = const_cast<float*>(place_of(args));
      statuses[static_cast<std::size_t>(rank.rank())] = run_part<float>(call, args, part, rank, {});
    });
    for (const CallStatus& status : statuses) {
      CHECK(status.code == StatusCode::bad_stride);
      CHECK(std::string(status.reason).find(reason) == 0);
    }
    CHECK(problem.surroundings_untouched());
  };
  const auto forward = [&](int rank) { return problem.forward(rank); };
  const auto backward = [&](int rank) { return problem.backward(rank); };
  const auto run_forward = cpu_part_forward<float>(Mask::causal, Scale::by_key);
  const auto run_backward = cpu_part_backward<float>(Mask::causal, Scale::by_key);
  check(
      "rank 1: final_state.h = ", forward, [](const auto& x) { return x.final_state.h; }, run_forward);
  check(
      "rank 1: o.data = ", forward, [](const auto& x) { return x.o.data; }, run_forward);
  check(
      "rank 1: part.incoming_h = ", forward, [](const auto& x) { return x.k.data; }, run_forward);
  check(
      "rank 1: dq.data = ", backward, [](const auto& x) { return x.dq.data; }, run_backward);
  check(
      "rank 1: part.incoming_h = ", backward, [](const auto& x) { return x.dout.data; }, run_backward);
}

TEST_CASE("Parts: states by slot are refused") {
  Inputs<float> inputs({.shape = {2, 60, 60, 2, 1, 16, 16}});
  SplitProblem<float> problem(inputs, {{0, 0, 0}, {0, 20, 20}, {0, 60, 60}});
  const std::int32_t slot[] = {0, 1};
  for (const bool reads : {true, false}) {
    std::vector<CallStatus> statuses(2);
    ThreadRanks ranks(2);
    ranks.run([&](Rank& rank) {
      auto args = problem.forward(rank.rank());
      args.pool_slots = 2;
      if (rank.rank() == 1) (reads ? args.read_slot : args.write_slot) = slot;
      statuses[static_cast<std::size_t>(rank.rank())] =
          run_part<float>(cpu_part_forward<float>(Mask::causal, Scale::by_key), args, {}, rank, {});
    });
    for (const CallStatus& status : statuses) {
      CHECK(status.code == StatusCode::bad_option);
      const std::string reason = status.reason;
      CHECK(reason.find(reads ? "rank 1: read_slot = " : "rank 1: write_slot = ") == 0);
      CHECK(reason.find(": must be null for parts of sequences") != std::string::npos);
    }
    CHECK(problem.surroundings_untouched());
  }
}

TEST_CASE("Parts: checkpoints are refused") {
  Inputs<float> inputs({.shape = {2, 60, 60, 2, 1, 16, 16}});
  SplitProblem<float> problem(inputs, {{0, 0, 0}, {0, 20, 20}, {0, 60, 60}});
  std::vector<CallStatus> statuses(2);
  ThreadRanks ranks(2);
  ranks.run([&](Rank& rank) {
    auto args = problem.forward(rank.rank());
    if (rank.rank() == 1) args.checkpoint_interval = cottention::checkpoint_chunk;
    statuses[static_cast<std::size_t>(rank.rank())] =
        run_part<float>(cpu_part_forward<float>(Mask::causal, Scale::by_key), args, {}, rank, {});
  });
  for (const CallStatus& status : statuses) {
    CHECK(status.code == StatusCode::bad_option);
    CHECK(std::string(status.reason) ==
          "rank 1: checkpoint_interval = 128: must be 0 for parts of sequences");
  }
  CHECK(problem.surroundings_untouched());
}

TEST_CASE("Parts: a rank without memory enough makes all return its status") {
  Inputs<float> inputs({.shape = {2, 60, 60, 2, 1, 16, 16}});
  const std::vector<Cut> cuts = {{0, 0, 0}, {0, 20, 20}, {0, 60, 60}};
  SplitProblem<float> problem(inputs, cuts);
  alignas(cottention::workspace_alignment) std::byte memory[64];
  for (const bool given : {false, true}) {
    std::vector<CallStatus> statuses(2);
    ThreadRanks ranks(2);
    ranks.run([&](Rank& rank) {
      const auto call = cpu_part_forward<float>(Mask::causal, Scale::by_key);
      const cottention::Workspace workspace =
          given ? cottention::Workspace{memory, sizeof memory} : cottention::Workspace{};
      statuses[static_cast<std::size_t>(rank.rank())] =
          call.run(problem.forward(rank.rank()), {}, rank, workspace, {.threads = 1});
    });
    for (const CallStatus& status : statuses) {
      CHECK(status.code == StatusCode::bad_workspace);
      const std::string reason = status.reason;
      CHECK(reason.starts_with(given ? "rank 0: workspace.bytes = 64: must be at least "
                                     : "rank 0: workspace.data = null: must point to "));
      CHECK(reason.ends_with(given ? ", as part_workspace_bytes says for ranks = 2 and threads = 1"
                                   : " bytes"));
    }
  }
}

TEST_CASE("Parts: batches that are not packed must be of one size") {
  Inputs<float> two({.shape = {2, 60, 60, 2, 1, 16, 16}}), three({.shape = {3, 60, 60, 2, 1, 16, 16}});
  const std::vector<Cut> cuts = {{0, 0, 0}, {0, 20, 20}, {0, 60, 60}};
  SplitProblem<float> with_two(two, cuts), with_three(three, cuts);
  std::vector<CallStatus> statuses(2);
  ThreadRanks ranks(2);
  ranks.run([&](Rank& rank) {
    const auto call = cpu_part_forward<float>(Mask::causal, Scale::by_key);
    statuses[static_cast<std::size_t>(rank.rank())] =
        run_part<float>(call, (rank.rank() == 0 ? with_two : with_three).forward(rank.rank()), {}, rank, {});
  });
  for (const CallStatus& status : statuses)
    CHECK(std::string(status.reason) ==
          "shape.batch = 3 on rank 1: must be 2, as on rank 0, in a batch that is not packed");
}

TEST_CASE("Parts: gradients that one rank alone wants are sums over all") {
  Inputs<float> inputs({.shape = {2, 60, 60, 2, 1, 16, 16}});
  const std::vector<Cut> cuts = {{0, 0, 0}, {0, 20, 20}, {0, 30, 30}, {0, 60, 60}};
  SplitProblem<float> problem(inputs, cuts), whole(inputs, cuts);
  for (const CallStatus& status : run_parts(whole, inputs.description(), {})) REQUIRE(status.ok());
  std::vector<CallStatus> statuses(3);
  ThreadRanks ranks(3);
  ranks.run([&](Rank& rank) {
    auto args = problem.backward(rank.rank());
    if (rank.rank() != 1) args.dscale_logit = nullptr;
    statuses[static_cast<std::size_t>(rank.rank())] =
        run_part<float>(cpu_part_backward<float>(Mask::causal, Scale::by_key), args,
                        problem.part(rank.rank(), false), rank, {});
  });
  for (const CallStatus& status : statuses) REQUIRE(status.ok());
  CHECK(same_bits(problem.gradient(1), whole.gradient(1)));
}
