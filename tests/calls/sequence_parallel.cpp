// Sequences split over ranks of NCCL, which are threads that take turns in the emulator, against the
// reference on the whole sequences.
#include <concepts>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include <emulation.hpp>

#include "support/cases.hpp"
#include "support/catch.hpp"
#include "support/cuda_parts.hpp"

using cottention::CallStatus, cottention::HeadDim, cottention::Mask, cottention::Problem, cottention::Scale,
    cottention::Split, cottention::StatusCode, cottention::Tiling;
using namespace support;

namespace {

/// One tiling is compiled faster than all that the library may choose, and serves all kernels.
template <cottention::AnyProblem P>
inline constexpr Tiling tiling = cottention::tuning::tuned_forward<P>;

template <class T, Mask mask, Scale scale>
using Odd = Problem<T, HeadDim{24, 40}, mask, scale>;
using ByKey = Odd<float, Mask::causal, Scale::by_key>;

struct RestoreMultiprocessors {
  int before = cottention::emulation::options().multiprocessors;
  ~RestoreMultiprocessors() { cottention::emulation::options().multiprocessors = before; }
};

/// A problem of a few sequences, cut at random, on the device.
template <cottention::AnyProblem P>
struct OnRanks {
  using T = typename P::element;
  OnRanks(const Case& c, int ranks, std::uint64_t seed = 5)
      : inputs(cuda_case<P>(c)),
        random(seed),
        problem(inputs, random_cuts(inputs, ranks, random)),
        parts(problem, false),
        nccl(ranks) {}
  OnRanks(const Case& c, const std::vector<Cut>& cuts)
      : inputs(cuda_case<P>(c)),
        random(0),
        problem(inputs, cuts),
        parts(problem, false),
        nccl(static_cast<int>(cuts.size()) - 1) {}

  Inputs<T> inputs;
  Random random;
  SplitProblem<T> problem;
  DeviceParts<P, tiling<P>> parts;
  NcclRanks nccl;
};

template <cottention::AnyProblem P>
void check_parts(const std::vector<Case>& some, Split split = {}) {
  check_cuda_parts<P, tiling<P>>(some, split);
}

}  // namespace

TEST_CASE("Parts on GPUs: every option is right") {
  check_parts<ByKey>(some_options(6, 0));
  check_parts<Odd<float, Mask::causal, Scale::by_query>>(some_options(12, 1));
  check_parts<Odd<float, Mask::bidirectional, Scale::by_key>>(some_options(6, 2));
  check_parts<Odd<float, Mask::bidirectional, Scale::by_query>>(some_options(12, 3));
}

TEST_CASE("Parts on GPUs: every element type is right") {
  const std::vector<Case> some = some_options(20, 5);
  check_parts<Odd<double, Mask::causal, Scale::by_key>>(some);
  check_parts<Odd<cottention::half, Mask::bidirectional, Scale::none>>(some);
  check_parts<Odd<cottention::bfloat16, Mask::causal, Scale::none>>(some);
}

TEST_CASE("Parts on GPUs: sequences that are cut into pieces on each are right") {
  check_parts<ByKey>({{.shape = {1, 2000, 2000, 1, 1, 0, 0}, .initial_state = Presence::present},
                      {.shape = {.heads_q = 1, .heads_kv = 1}, .lengths_q = {1300, 700, 900}}},
                     {.pieces = 2});
}

TEST_CASE("Parts on GPUs: a part with one sequence that others hold has scratch for all of its own") {
  // On a device of so many multiprocessors fewer sequences are cut into more pieces.
  const Case c{.shape = {.heads_q = 1, .heads_kv = 1}, .lengths_q = {600, 600, 600, 600, 600}};
  const RestoreMultiprocessors restore;
  for (const int multiprocessors : {3, 5, 8, 16}) {
    cottention::emulation::options().multiprocessors = multiprocessors;
    OnRanks<ByKey> run(c, {{0, 0, 0}, {1, 300, 300}, {4, 600, 600}});
    for (const CallStatus& status : run.parts.run(run.nccl)) {
      INFO(status.reason);
      REQUIRE(status.ok());
    }
    run.parts.download();
    check_output(run.inputs, run.problem.output());
    check_gradient(run.inputs, run.problem.gradient(0));
  }
}

TEMPLATE_TEST_CASE("Parts on GPUs: two runs agree bit for bit", "", double, float, cottention::half,
                   cottention::bfloat16) {
  const Case c{
      .shape = {2, 150, 150, 4, 2, 0, 0}, .padding = Padding::middle, .initial_state = Presence::present};
  using P =
      Odd<TestType,
          sizeof(TestType) == 2 && std::same_as<TestType, cottention::half> ? Mask::bidirectional
                                                                            : Mask::causal,
          std::same_as<TestType, double> || std::same_as<TestType, float> ? Scale::by_key : Scale::none>;
  OnRanks<P> first(c, 3), second(c, 3);
  for (OnRanks<P>* run : {&first, &second}) {
    for (const CallStatus& status : run->parts.run(run->nccl)) REQUIRE(status.ok());
    run->parts.download();
  }
  CHECK(same_bits(first.problem.output(), second.problem.output()));
  for (int rank = 0; rank < 3; ++rank)
    CHECK(same_bits(first.problem.gradient(rank), second.problem.gradient(rank)));
}

TEST_CASE(
    "Parts on GPUs: what a rank sends does not grow with lengths, and gathers are ordered with the calls") {
  constexpr std::size_t state = 2 * 24 * 40 * sizeof(float);
  for (const std::int64_t n : {40, 200}) {
    OnRanks<ByKey> run({.shape = {1, n, n, 4, 2, 0, 0}}, 3);
    for (const CallStatus& status : run.nccl.run([&](cottention::NcclCommunicator&rank, cudaStream_t stream) {
           using cottention::emulation::launches_before;
           const int r = rank.rank();
           const auto workspace = run.parts.workspace(run.parts.backward(r));
           const CallStatus status = agree_and_call<ByKey, tiling<ByKey>>(
               run.parts.backward(r), run.parts.part(r), rank, workspace, stream);
           const ncclComm_t communicator = run.nccl[r];
           // Headers; counts, H with D, and sums for the gradient of m.
           CHECK(communicator->bytes_sent == 96 + 8 + 2 * state + 3 * 2 * sizeof(float));
           CHECK(communicator->gathers == 4);
           // The stream of the calls is past all gathers, and the last gather past all but the last sum.
           CHECK(launches_before(stream, communicator->stream) == 4);
           CHECK(launches_before(communicator->stream, stream) + 1 == launches_before(stream, stream));
           return status;
         }))
      CHECK(status.ok());
  }
}

TEST_CASE("Parts on GPUs: one rank with bad arguments makes all return its status, and none waits") {
  const auto check = [](StatusCode code, const std::string& reason, auto change) {
    OnRanks<ByKey> run({.shape = {2, 60, 60, 2, 1, 0, 0}}, 3);
    const auto workspace = run.parts.workspace(run.parts.backward(1));
    const auto forward_workspace = run.parts.workspace(run.parts.forward(1));
    change(run.parts.forward(1), run.parts.part(1));
    change(run.parts.backward(1), run.parts.part(1));
    for (const bool backward : {false, true}) {
      cottention::emulation::clear_statistics();
      const auto statuses = run.nccl.run([&](cottention::NcclCommunicator& rank, cudaStream_t) {
        cottention::PartAgreement agreement;
        const int r = rank.rank();
        const CallStatus status =
            backward ? cottention::agree<ByKey, tiling<ByKey>>(run.parts.backward(r), run.parts.part(r), rank,
                                                               workspace, agreement)
                     : cottention::agree<ByKey, tiling<ByKey>>(run.parts.forward(r), run.parts.part(r), rank,
                                                               forward_workspace, agreement);
        CHECK(!agreement.is_made);
        return status;
      });
      for (const CallStatus& status : statuses) {
        CHECK(status.code == code);
        CHECK(std::string(status.reason) == reason);
      }
      CHECK(cottention::emulation::launches().empty());
    }
  };
  check(StatusCode::bad_option, "rank 1: plan = 7: must be Plan::automatic or Plan::batch_invariant",
        [](auto& args, auto&) { args.plan = static_cast<cottention::Plan>(7); });
  check(StatusCode::bad_option, "rank 1: part.first_sequence = 1: must be 0 in a batch that is not packed",
        [](auto&, auto& part) { part.first_sequence = 1; });
  check(StatusCode::bad_option, "rank 1: part.incoming_h = 0x1004: must be aligned to 16 bytes on a device",
        [](auto&, auto& part) { part.incoming_h = reinterpret_cast<float*>(0x1004); });
  check(StatusCode::bad_shape,
        "shape.batch = 1 on rank 1: must be 2, as on rank 0, in a batch that is not packed",
        [](auto& args, auto&) { args.shape.batch = 1; });
}

TEST_CASE("Parts on GPUs: slots, and kept states in other arrays, are refused on all ranks") {
  const std::string slots = "rank 1: write_slot = 0x1000: must be null for parts of sequences";
  OnRanks<ByKey> run({.shape = {2, 60, 60, 2, 1, 0, 0}}, 3);
  const auto workspace = run.parts.workspace(run.parts.forward(1));
  run.parts.forward(1).pool_slots = 2;
  run.parts.forward(1).write_slot = reinterpret_cast<const std::int32_t*>(0x1000);
  const auto agreed = [&] {
    return run.nccl.run([&](cottention::NcclCommunicator& rank, cudaStream_t) {
      cottention::PartAgreement agreement;
      return cottention::agree<ByKey, tiling<ByKey>>(run.parts.forward(rank.rank()),
                                                     run.parts.part(rank.rank()), rank, workspace, agreement);
    });
  };
  for (const CallStatus& status : agreed()) CHECK(std::string(status.reason) == slots);
  run.parts.forward(1).write_slot = nullptr;
  run.parts.part(1).incoming_h = run.parts.forward(1).final_state.h;
  for (const CallStatus& status : agreed()) {
    CHECK(status.code == StatusCode::bad_stride);
    CHECK(std::string(status.reason).find("rank 1: final_state.h = ") == 0);
  }
}

TEST_CASE("Parts on GPUs: workspaces and agreements are checked before anything is launched") {
  OnRanks<ByKey> run({.shape = {2, 60, 60, 2, 1, 0, 0}}, 1);
  auto& args = run.parts.forward(0);
  const auto workspace = run.parts.workspace(args);
  std::size_t bytes = 0;
  CHECK(std::string(cottention::part_workspace_bytes<ByKey, tiling<ByKey>>(args, 0, bytes).reason) ==
        "ranks = 0: must be at least 1");
  const auto statuses = run.nccl.run([&](cottention::NcclCommunicator& rank, cudaStream_t stream) {
    const auto refused = [&](const CallStatus& status, const std::string& reason) {
      INFO(status.reason);
      CHECK(std::string(status.reason).starts_with(reason));
    };
    const auto call = [&](const cottention::PartAgreement& agreement, const cottention::Workspace& memory) {
      return cottention::forward<ByKey, tiling<ByKey>>(args, run.parts.part(0), agreement, rank, memory,
                                                       stream);
    };
    cottention::PartAgreement agreement;
    const auto agree = [&](const cottention::Workspace& memory) {
      return cottention::agree<ByKey, tiling<ByKey>>(args, run.parts.part(0), rank, memory, agreement);
    };
    cottention::emulation::clear_statistics();
    refused(agree({workspace.data, workspace.bytes - 1}), "rank 0: workspace.bytes = ");
    refused(call(agreement, workspace), "agreement: must be made by agree() with this communicator");
    CHECK(agree(workspace).ok());
    refused(call(agreement, {workspace.data, workspace.bytes - 1}), "workspace.bytes = ");
    run.parts.part(0).incoming_h = args.final_state.h;
    refused(call(agreement, workspace),
            "whether part.incoming_h is given = 1: must be 0, as ranks have agreed");
    run.parts.part(0).incoming_h = nullptr;
    CHECK(cottention::emulation::launches().empty());
    return call(agreement, workspace);
  });
  CHECK(statuses[0].ok());
}

TEST_CASE("Parts on GPUs: calls may be captured, and allocate and wait for nothing") {
  OnRanks<ByKey> run({.shape = {2, 60, 60, 2, 1, 0, 0}}, 2);
  const cottention::Workspace workspaces[] = {run.parts.workspace(run.parts.backward(0)),
                                              run.parts.workspace(run.parts.backward(1))};
  const auto statuses = run.nccl.run([&](cottention::NcclCommunicator& rank, cudaStream_t stream) {
    const int r = rank.rank();
    cottention::PartAgreement agreement;
    CallStatus status = cottention::agree<ByKey, tiling<ByKey>>(run.parts.backward(r), run.parts.part(r),
                                                                rank, workspaces[r], agreement);
    if (!status) return status;
    cudaGraph_t graph = nullptr;
    cottention::emulation::clear_statistics();
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed) == cudaSuccess);
    status = cottention::backward<ByKey, tiling<ByKey>>(run.parts.backward(r), run.parts.part(r), agreement,
                                                        rank, workspaces[r], stream);
    CHECK(cudaStreamEndCapture(stream, &graph) == cudaSuccess);
    CHECK(cottention::emulation::launches().empty());
    return status;
  });
  for (const CallStatus& status : statuses) {
    INFO(status.reason);
    CHECK(status.ok());
  }
}

TEST_CASE("Parts on GPUs: a rank that fails ends the calls of the others") {
  OnRanks<ByKey> run({.shape = {2, 60, 60, 2, 1, 0, 0}}, 2);
  const auto workspace = run.parts.workspace(run.parts.forward(0));
  const auto statuses = run.nccl.run([&](cottention::NcclCommunicator& rank, cudaStream_t stream) {
    if (rank.rank() == 1) throw std::runtime_error("gone");
    return agree_and_call<ByKey, tiling<ByKey>>(run.parts.forward(0), run.parts.part(0), rank, workspace,
                                                stream);
  });
  CHECK(statuses[0].code == StatusCode::communication_error);
  CHECK(std::string(statuses[0].reason) ==
        "ncclAllGather: error 6 of NCCL: remote process exited or there was a network error");
}

TEST_CASE("Sums of arrays: any number of blocks adds all terms in their order, in double") {
  using Sum = cottention::kernel::ArraySum<float>;
  constexpr std::int64_t elements = 1000, ranks = 3, stride = 1024;
  Mirror mirror;
  std::vector<float> terms(ranks * stride), to(elements);
  for (std::int64_t e = 0; e < elements; ++e) {
    const float own = static_cast<float>(e);
    terms[static_cast<std::size_t>(e)] = 0x1p30f + 64 * own;
    terms[static_cast<std::size_t>(stride + e)] = own / 4;  // lost in a sum of floats
    terms[static_cast<std::size_t>(2 * stride + e)] = -0x1p30f - 64 * own;
  }
  const float* const from = mirror.array(static_cast<const float*>(terms.data()), std::ssize(terms));
  float* const sum = mirror.array(to.data(), elements);
  REQUIRE(cottention::device::prepare<Sum>() == cudaSuccess);
  for (const std::int64_t blocks : {std::int64_t{1}, std::int64_t{3}, Sum::blocks(elements)}) {
    REQUIRE(cudaMemset(sum, nan_byte, sizeof(float) * elements) == cudaSuccess);
    const Sum::Params params{.runs = {{from, 1, 0}, {from + stride, 2, stride}},
                             .count = 2,
                             .to = sum,
                             .elements = elements,
                             .blocks = blocks};
    REQUIRE(cottention::device::launch<Sum>({blocks}, params, nullptr) == cudaSuccess);
    mirror.download();
    for (std::int64_t e = 0; e < elements; ++e)
      REQUIRE(to[static_cast<std::size_t>(e)] == static_cast<float>(e) / 4);
  }
}
