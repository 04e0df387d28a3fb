// One step of training over one long sequence, of which each process of MPI has a part: o, the loss, and all
// gradients. Then the first process does the same alone, and what all have made is compared.
//
//     sequence_parallel [TOKENS]
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include <cottention/cpu.hpp>
#include <cottention/mpi.hpp>
#include <cottention/owned_workspace.hpp>
#include <cottention/sequence_parallel.hpp>

#include "support.hpp"

namespace cottention::example {
using Attention = Problem<float, HeadDim{32, 32}, Mask::causal, Scale::by_key>;
constexpr std::int64_t dim = 32;

/// The same number in (-1, 1) for an index, in whatever process.
float number(std::uint64_t index) {
  index = (index ^ (index >> 31)) * 0x7fb5d329728ea185u;
  index = (index ^ (index >> 27)) * 0x81dadef4bc2dd44du;
  return static_cast<float>(static_cast<std::int64_t>(index ^ (index >> 33))) * 0x1p-63f;
}
std::vector<float> rows(std::uint64_t tensor, std::int64_t first, std::int64_t count) {
  std::vector<float> x(static_cast<std::size_t>(count * dim));
  for (std::size_t i = 0; i < x.size(); ++i)
    x[i] = number((tensor << 56) + static_cast<std::uint64_t>(first * dim) + i);
  return x;
}

/// Tokens `first` to first + count - 1, and a step's results for them.
struct Tokens {
  Tokens(std::int64_t first, std::int64_t count_)
      : count(count_), q(rows(1, first, count)), k(rows(2, first, count)), v(rows(3, first, count)) {
    target = rows(4, first, count);
    o.resize(q.size()), dout.resize(q.size()), dq.resize(q.size()), dk.resize(q.size()), dv.resize(q.size());
  }

  Shape shape() const {
    return {
        .batch = 1, .seq_q = count, .seq_k = count, .heads_q = 1, .heads_kv = 1, .dim_qk = dim, .dim_v = dim};
  }
  ForwardArguments<float> forward() {
    return {.shape = shape(),
            .q = {q.data()},
            .k = {k.data()},
            .v = {v.data()},
            .o = {o.data()},
            .scale_logit = &m};
  }
  /// Half the mean square of o - target; dout becomes its gradient, the mean being over `all` tokens.
  double loss(std::int64_t all) {
    double sum = 0;
    for (std::size_t i = 0; i < o.size(); ++i) {
      dout[i] = (o[i] - target[i]) / static_cast<float>(all);
      sum += 0.5 * std::pow(o[i] - target[i], 2) / static_cast<double>(all);
    }
    return sum;
  }
  BackwardArguments<float> backward() {
    return {.shape = shape(),
            .q = {q.data()},
            .k = {k.data()},
            .v = {v.data()},
            .dout = {dout.data()},
            .dq = {dq.data()},
            .dk = {dk.data()},
            .dv = {dv.data()},
            .scale_logit = &m,
            .dscale_logit = &dm};
  }

  std::int64_t count;
  std::vector<float> q, k, v, target, o, dout, dq, dk, dv;
  float m = 0.5f, dm = 0;
};

/// ||x - expected|| / ||expected|| over the parts of all processes, on the first one.
double error(const std::vector<float>& x, const std::vector<float>& expected, std::int64_t tokens, int rank,
             int ranks) {
  std::vector<int> counts, starts;
  for (std::int64_t r = 0; r < ranks; ++r) {
    starts.push_back(static_cast<int>(tokens * r / ranks * dim));
    counts.push_back(static_cast<int>(tokens * (r + 1) / ranks * dim) - starts.back());
  }
  std::vector<float> all(expected.size());
  MPI_Gatherv(x.data(), counts[static_cast<std::size_t>(rank)], MPI_FLOAT, all.data(), counts.data(),
              starts.data(), MPI_FLOAT, 0, MPI_COMM_WORLD);
  RelativeError e;
  e.add(all, {expected.begin(), expected.end()});
  return e.value();
}

int run(std::int64_t tokens) {
  MpiCommunicator ranks(MPI_COMM_WORLD);
  check(ranks.status());
  const std::int64_t first = tokens * ranks.rank() / ranks.size();
  Tokens part(first, tokens * (ranks.rank() + 1) / ranks.size() - first);
  const SequencePart<float> whole_on_all{};
  HostWorkspace workspace;
  std::size_t bytes = 0;
  check(cpu::part_workspace_bytes<Attention>(part.backward(), ranks.size(), bytes));
  check(workspace.reserve(bytes));
  check(cpu::forward<Attention>(part.forward(), whole_on_all, ranks, workspace.get()));
  double loss = part.loss(tokens);
  MPI_Allreduce(MPI_IN_PLACE, &loss, 1, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
  check(cpu::backward<Attention>(part.backward(), whole_on_all, ranks, workspace.get()));

  Tokens alone(0, ranks.rank() == 0 ? tokens : 0);
  check(cpu::forward<Attention>(alone.forward(), workspace));
  const double loss_alone = alone.loss(tokens);
  check(cpu::backward<Attention>(alone.backward(), workspace));
  const double errors[] = {error(part.o, alone.o, tokens, ranks.rank(), ranks.size()),
                           error(part.dq, alone.dq, tokens, ranks.rank(), ranks.size()),
                           error(part.dk, alone.dk, tokens, ranks.rank(), ranks.size()),
                           error(part.dv, alone.dv, tokens, ranks.rank(), ranks.size()),
                           std::fabs(part.dm / alone.dm - 1),
                           std::fabs(loss / loss_alone - 1)};
  if (ranks.rank() > 0) return 0;
  // Both have errors of their own, of 1e-6 in o and 3e-6 in gradients at most.
  const double bounds[] = {2e-6, 6e-6, 6e-6, 6e-6, 6e-6, 2e-6};
  const char* const names[] = {"o", "dq", "dk", "dv", "dm", "loss"};
  std::printf("%lld tokens, processes: %d, loss %.6f\n", static_cast<long long>(tokens), ranks.size(), loss);
  bool close = true;
  for (int i = 0; i < 6; ++i) {
    std::printf("%-4s differs by %.1e\n", names[i], errors[i]);
    close = close && errors[i] <= bounds[i];
  }
  return close ? 0 : 1;
}

}  // namespace cottention::example

int main(int argc, char* argv[]) {
  MPI_Init(&argc, &argv);
  const int code = cottention::example::run(argc > 1 ? std::atoll(argv[1]) : 1'048'576);
  MPI_Finalize();
  return code;
}
