// Sequences split over processes of MPI, against the reference. Every process runs the same tests; what ranks
// have made is added up, and the first process checks it.
#include <mpi.h>

#include <chrono>
#include <concepts>
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

#include <cottention/mpi.hpp>

#include "support/cases.hpp"
#include "support/catch.hpp"
#include "support/cpu_runs.hpp"
#include "support/split_runs.hpp"

using cottention::bfloat16, cottention::half;  // in COTTENTION_TEST_ELEMENTS
using cottention::CallStatus, cottention::StatusCode;
using namespace support;

namespace {

/// MPI from before main to after it.
const struct WithMpi {
  WithMpi() { MPI_Init(nullptr, nullptr); }
  ~WithMpi() { MPI_Finalize(); }
} with_mpi;

/// The sum over processes, in which all but one have 0.
void join(std::vector<double>& x) {
  MPI_Allreduce(MPI_IN_PLACE, x.data(), static_cast<int>(x.size()), MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
}
void join(std::vector<std::int64_t>& x) {
  MPI_Allreduce(MPI_IN_PLACE, x.data(), static_cast<int>(x.size()), MPI_INT64_T, MPI_SUM, MPI_COMM_WORLD);
}
/// Whether something holds on every process: where a check fails on one, none may leave the others waiting.
bool everywhere(bool holds) {
  int all = holds;
  MPI_Allreduce(MPI_IN_PLACE, &all, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
  return all != 0;
}

/// How many processes there are, where they test this element: four of them all, others fp32.
template <cottention::Element T>
int processes_that_run() {
  int number = 1;
  MPI_Comm_size(MPI_COMM_WORLD, &number);
  return number == 4 || std::same_as<T, float> ? number : 0;
}

/// Waits for the first process, which may be long, and takes no core meanwhile.
void wait_for_first() {
  MPI_Request request;
  MPI_Ibarrier(MPI_COMM_WORLD, &request);
  for (int done = 0; MPI_Test(&request, &done, MPI_STATUS_IGNORE) == MPI_SUCCESS && done == 0;)
    std::this_thread::sleep_for(std::chrono::microseconds(200));
}

template <cottention::Element T>
void check_processes(const std::vector<Case>& some, std::uint64_t seed) {
  cottention::MpiCommunicator processes(MPI_COMM_WORLD);
  REQUIRE(everywhere(processes.status().ok()));
  RankOf rank(processes);
  Random random(seed);
  for (const Case& c : some) {
    Inputs<T> inputs(c);
    const std::vector<Cut> cuts = random_cuts(inputs, rank.size(), random);
    INFO(describe<T>(c) << ", rank " << rank.rank() << ", cuts " << describe(cuts));
    SplitProblem<T> problem(inputs, cuts, c.layout);
    const CallStatus status = run_rank(problem, c, rank, {.keeps_h = c.seed % 2 == 0});
    INFO(status.reason);
    REQUIRE(everywhere(status.ok()));
    Output output = problem.output(rank.rank());
    Gradient gradient = problem.gradient(0, rank.rank());
    for (auto* x : {&output.o, &output.h, &gradient.dq, &gradient.dk, &gradient.dv, &gradient.dscale_logit,
                    &gradient.dinitial_state})
      join(*x);
    join(output.count);
    CHECK(problem.surroundings_untouched());
    if (rank.rank() == 0) {
      check_output(inputs, output);
      check_gradient(inputs, gradient);
    }
    wait_for_first();
  }
}

}  // namespace

TEMPLATE_TEST_CASE("Processes: all options are right", "", COTTENTION_TEST_ELEMENTS) {
  const int number = processes_that_run<TestType>();
  if (number == 0) return;
  std::uint64_t seed = 500;
  for (const auto& some :
       {cases::packed(), cases::paddings(), cases::groups(), cases::states(), cases::cross_attention()})
    for (auto i = static_cast<std::size_t>(number % 5); i < some.size(); i += 5)  // others in other runs
      check_processes<TestType>({some[i]}, ++seed);
  for (int i = 0; i < 4; ++i, ++seed) check_processes<TestType>({cases::random(seed)}, seed);
}

TEMPLATE_TEST_CASE("Processes: two runs agree bit for bit", "", COTTENTION_TEST_ELEMENTS) {
  if (processes_that_run<TestType>() == 0) return;
  cottention::MpiCommunicator processes(MPI_COMM_WORLD);
  RankOf rank(processes);
  Random random(6);
  const std::vector<Case> all = cases::batches();
  for (std::size_t i = 0; i < all.size(); i += std::same_as<TestType, float> ? 1 : 5) {
    const Case& c = all[i];
    Inputs<TestType> inputs(c);
    const std::vector<Cut> cuts = random_cuts(inputs, rank.size(), random);
    SplitProblem<TestType> first(inputs, cuts), second(inputs, cuts);
    REQUIRE(everywhere(run_rank(first, c, rank, {}).ok()));
    REQUIRE(everywhere(run_rank(second, c, rank, {}).ok()));
    const int r = rank.rank();
    CHECK(same_bits(first.output(r), second.output(r)));
    CHECK(same_bits(first.gradient(r, r), second.gradient(r, r)));
  }
}

TEST_CASE("Processes: one with bad arguments makes all return its status") {
  cottention::MpiCommunicator processes(MPI_COMM_WORLD);
  RankOf rank(processes);
  Inputs<float> inputs({.shape = {2, 40, 40, 2, 1, 16, 16}});
  Random random(7);
  SplitProblem<float> problem(inputs, random_cuts(inputs, rank.size(), random));
  auto args = problem.forward(rank.rank());
  const int faulty = rank.size() - 1;
  if (rank.rank() == faulty) args.plan = static_cast<cottention::Plan>(7);
  const CallStatus status =
      run_part<float>(cpu_part_forward<float>(cottention::Mask::causal, cottention::Scale::by_key), args,
                      problem.part(rank.rank(), false), rank, {});
  CHECK(everywhere(status.code == StatusCode::bad_option));
  CHECK(std::string(status.reason) ==
        "rank " + std::to_string(faulty) + ": plan = 7: must be Plan::automatic or Plan::batch_invariant");
}
