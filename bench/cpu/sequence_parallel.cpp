// A sequence split over processes of MPI: times of a call on all parts, and of what it exchanges.
//
//     bench_sequence_parallel TOKENS SHARE REPETITIONS
//
// SHARE is that of the first process among two, in percent; more processes have equal parts. One thread each.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include <cottention/mpi.hpp>
#include <cottention/owned_workspace.hpp>
#include <cottention/sequence_parallel.hpp>

namespace {

using namespace cottention;
using Attention = Problem<float, HeadDim{64, 64}, Mask::causal, Scale::by_key>;
constexpr std::int64_t dim = 64;

std::vector<float> random_rows(std::int64_t tokens, std::mt19937& random) {
  std::normal_distribution<float> normal;
  std::vector<float> x(static_cast<std::size_t>(tokens * dim));
  for (float& e : x) e = normal(random);
  return x;
}

void check(const CallStatus& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "%s\n", status.reason);
  std::exit(1);
}

double median(std::vector<double> x) {
  std::sort(x.begin(), x.end());
  return x[x.size() / 2];
}

/// Times a call on all ranks, from when all are ready to when the last one is done.
template <class Call>
void measure(const char* name, MpiCommunicator& ranks, int repetitions, double& seconds, Call call) {
  std::vector<double> times;
  call();
  for (int i = 0; i < repetitions; ++i) {
    MPI_Barrier(MPI_COMM_WORLD);
    const double start = MPI_Wtime();
    call();
    double time = MPI_Wtime() - start;
    MPI_Allreduce(MPI_IN_PLACE, &time, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
    times.push_back(time);
  }
  seconds = median(times);
  if (ranks.rank() == 0) std::printf("%-32s %9.3f ms\n", name, 1e3 * seconds);
}

void run(std::int64_t tokens, std::int64_t share, int repetitions) {
  MpiCommunicator ranks(MPI_COMM_WORLD);
  check(ranks.status());
  const std::int64_t number = ranks.size(), rank = ranks.rank();
  const auto cut = [&](std::int64_t r) {
    return number == 2 && r == 1 ? tokens * share / 100 : tokens * r / number;
  };
  const std::int64_t count = cut(rank + 1) - cut(rank);
  if (rank == 0)
    std::printf(
        "1 head x %lld tokens x dim 64, fp32, causal by_key; processes: %lld of 1 thread; first part: %lld "
        "tokens\n",
        static_cast<long long>(tokens), static_cast<long long>(number), static_cast<long long>(count));

  std::mt19937 random(static_cast<unsigned>(rank + 1));
  const std::vector<float> q = random_rows(count, random), k = random_rows(count, random),
                           v = random_rows(count, random), dout = random_rows(count, random);
  std::vector<float> o(q.size()), dq(q.size()), dk(q.size()), dv(q.size()), kept(dim * dim);
  const float m = 0.5f;
  float dm = 0;
  const cpu::Execution execution{.threads = 1};
  const auto shape = [](std::int64_t n) {
    return Shape{
        .batch = 1, .seq_q = n, .seq_k = n, .heads_q = 1, .heads_kv = 1, .dim_qk = dim, .dim_v = dim};
  };
  const auto forward = [&](std::int64_t n) {
    return ForwardArguments<float>{.shape = shape(n),
                                   .q = {q.data()},
                                   .k = {k.data()},
                                   .v = {v.data()},
                                   .o = {o.data()},
                                   .scale_logit = &m};
  };
  const auto backward = [&](std::int64_t n) {
    return BackwardArguments<float>{.shape = shape(n),
                                    .q = {q.data()},
                                    .k = {k.data()},
                                    .v = {v.data()},
                                    .dout = {dout.data()},
                                    .dq = {dq.data()},
                                    .dk = {dk.data()},
                                    .dv = {dv.data()},
                                    .scale_logit = &m,
                                    .dscale_logit = &dm};
  };
  HostWorkspace workspace;
  std::size_t bytes = 0;
  check(cpu::part_workspace_bytes<Attention>(backward(count), ranks.size(), bytes, execution));
  check(workspace.reserve(bytes));
  const SequencePart<float> keeps{.first_sequence = 0, .incoming_h = kept.data()};
  double forward_seconds = 0, backward_seconds = 0, both = 0, empty = 0;
  measure("forward", ranks, repetitions, forward_seconds,
          [&] { check(cpu::forward<Attention>(forward(count), keeps, ranks, workspace.get(), execution)); });
  measure("backward, H made again", ranks, repetitions, both,
          [&] { check(cpu::backward<Attention>(backward(count), {}, ranks, workspace.get(), execution)); });
  measure("backward, H kept", ranks, repetitions, backward_seconds, [&] {
    check(cpu::backward<Attention>(backward(count), keeps, ranks, workspace.get(), execution));
  });
  measure("forward of no tokens", ranks, 20 * repetitions, empty,
          [&] { check(cpu::forward<Attention>(forward(0), {}, ranks, workspace.get(), execution)); });
  if (rank == 0) std::printf("%-32s %9.2f %%\n", "that, of a forward call", 100 * empty / forward_seconds);
  measure("backward of no tokens", ranks, 20 * repetitions, empty,
          [&] { check(cpu::backward<Attention>(backward(0), {}, ranks, workspace.get(), execution)); });
  if (rank == 0) std::printf("%-32s %9.2f %%\n", "that, of a backward call", 100 * empty / backward_seconds);
}

}  // namespace

int main(int argc, char* argv[]) {
  MPI_Init(&argc, &argv);
  run(argc > 1 ? std::atoll(argv[1]) : 262'144, argc > 2 ? std::atoll(argv[2]) : 50,
      argc > 3 ? std::atoi(argv[3]) : 7);
  MPI_Finalize();
  return 0;
}
