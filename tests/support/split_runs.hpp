// Runs the CPU backend's calls on all parts of a problem, with threads as ranks.
#pragma once

#include <string>
#include <vector>

#include "support/cpu_calls.hpp"
#include "support/executor.hpp"
#include "support/ranks.hpp"
#include "support/split.hpp"
#include "support/workspace.hpp"

namespace support {

struct PartManner {
  cottention::cpu::Execution execution{.threads = 1};
  bool keeps_h = false;
};

inline std::string describe(const std::vector<Cut>& cuts) {
  std::string text;
  for (const Cut& cut : cuts)
    text += " " + std::to_string(cut.sequence) + ":" + std::to_string(cut.q) + "/" + std::to_string(cut.k);
  return text;
}

/// One call of a rank, in a workspace of exactly the size that it asks for.
template <cottention::Element T, class Arguments>
cottention::CallStatus run_part(const PartCall<T, Arguments>& call, const Arguments& args,
                                const cottention::SequencePart<T>& part, Rank& rank,
                                const PartManner& manner) {
  std::size_t bytes = 0;
  if (cottention::CallStatus status = call.workspace_bytes(args, rank.size(), bytes, manner.execution);
      !status)
    return status;
  ExactWorkspace workspace(bytes);
  workspace.fill(std::uint64_t{0xfff4000000000000});
  const cottention::CallStatus status = call.run(args, part, rank, workspace.view(), manner.execution);
  if (!workspace.guards_untouched())
    return cottention::CallStatus::failure(cottention::StatusCode::bad_workspace, "guards were written");
  return status;
}

/// `forward` and then `backward` of a rank.
template <cottention::Element T>
cottention::CallStatus run_rank(SplitProblem<T>& problem, const Case& c, Rank& rank,
                                const PartManner& manner) {
  const auto part = problem.part(rank.rank(), manner.keeps_h);
  if (cottention::CallStatus status =
          run_part<T>(cpu_part_forward<T>(c.mask, c.scale), problem.forward(rank.rank()), part, rank, manner);
      !status)
    return status;
  return run_part<T>(cpu_part_backward<T>(c.mask, c.scale), problem.backward(rank.rank()), part, rank,
                     manner);
}

/// The same of every rank. Returns their statuses.
template <cottention::Element T>
std::vector<cottention::CallStatus> run_parts(SplitProblem<T>& problem, const Case& c,
                                              const PartManner& manner) {
  std::vector<cottention::CallStatus> statuses(static_cast<std::size_t>(problem.ranks()));
  ThreadRanks ranks(problem.ranks());
  ranks.run([&](Rank& rank) {
    statuses[static_cast<std::size_t>(rank.rank())] = run_rank(problem, c, rank, manner);
  });
  return statuses;
}

}  // namespace support
