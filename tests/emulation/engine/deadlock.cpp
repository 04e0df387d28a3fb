// Who waits where, once nobody can run.
#include <algorithm>
#include <cstdio>
#include <map>
#include <string>
#include <vector>

#include "block.hpp"

namespace cottention::emulation {
namespace {

// 0,1,2,5 as "0-2, 5".
std::string ranges(const std::vector<int>& ascending) {
  std::string text;
  for (std::size_t i = 0, j = 0; i < ascending.size(); i = j + 1) {
    for (j = i; j + 1 < ascending.size() && ascending[j + 1] == ascending[j] + 1;) ++j;
    text += (text.empty() ? "" : ", ") + std::to_string(ascending[i]);
    if (j > i) text += "-" + std::to_string(ascending[j]);
  }
  return text;
}

}  // namespace

std::string Block::describe_wait(const Wait& wait) const {
  std::string text = std::string(wait.word) + " at " + PlaceName(wait.where).text;
  if (wait.barrier >= 0) {
    const Barrier& barrier = barriers_[static_cast<std::size_t>(wait.barrier)];
    text += " (barrier " + std::to_string(wait.barrier) + ": " + std::to_string(barrier.arrived) + " of " +
            std::to_string(barrier.expected) + " threads have arrived)";
  }
  if (wait.mbarrier >= 0) text += " (" + mbarriers_.describe(static_cast<std::uint32_t>(wait.mbarrier)) + ")";
  return text;
}

std::string Block::deadlock() const {
  std::map<std::string, std::vector<int>> waiting;
  int first = -1;
  for (int i = 0; i < static_cast<int>(warps_.size()) * warp_size; ++i) {
    if (((warps_[static_cast<std::size_t>(i / warp_size)].live >> (i % warp_size)) & 1u) == 0) continue;
    if (first < 0) first = i;
    waiting[describe_wait(threads_[static_cast<std::size_t>(i)]->wait)].push_back(i);
  }
  char head[512];
  std::snprintf(head, sizeof head,
                "%s: block (%d,%d,%d) warp %d lane %d: deadlock: %d of %d threads wait, none can run [%s]",
                PlaceName(threads_[static_cast<std::size_t>(first)]->wait.where).text, position.block_x,
                position.block_y, position.block_z, first / warp_size, first % warp_size, running_,
                kernel_->threads, describe(options_).c_str());
  std::string text = head;
  for (const auto& [what, threads] : waiting) text += "\n  threads " + ranges(threads) + ": " + what;
  return text;
}

}  // namespace cottention::emulation
