// cp.async. Copies land as late as is legal: when they are waited for. Until then their destination is NaN.
#include <algorithm>

#include "forms.hpp"

namespace cottention::ptx {
namespace {

void land(Warp& w, const Instruction& i, int lane, const std::vector<AsyncCopy>& copies) {
  for (const AsyncCopy& copy : copies) {
    std::uint8_t* const to = w.memory(i, lane, Space::shared, copy.to, 16);
    std::memset(to, 0, 16);
    for (int byte = 0; byte < copy.bytes; ++byte)
      to[byte] = *w.memory(i, lane, Space::global, copy.from + static_cast<std::uint64_t>(byte), 1);
  }
}

/// cp.async [to], [from], 16, bytes
void begin(Warp& w, const Instruction& i) {
  const std::uint32_t* const to = w.at<std::uint32_t>(i.o[0]);
  const std::uint64_t* const from = w.at<std::uint64_t>(i.o[1]);
  const std::uint32_t* const bytes = w.at<std::uint32_t>(i.o[3]);
  each_lane(w.mask, [&](int l) {
    if (bytes[l] > 16) w.fail(i, l, "more than 16 bytes");
    std::uint8_t* const there = w.memory(i, l, Space::shared, to[l], 16);
    if (from[l] % 16 != 0) w.fail(i, l, "misaligned source");
    if (bytes[l] > 0) w.memory(i, l, Space::global, from[l], 1);
    if (bytes[l] > 0) w.memory(i, l, Space::global, from[l] + bytes[l] - 1, 1);
    std::memset(there, 0xff, 16);
    auto& groups = w.groups[static_cast<std::size_t>(l)];
    if (groups.empty()) groups.emplace_back();
    groups.back().push_back({to[l], from[l], static_cast<int>(bytes[l])});
  });
}

void commit(Warp& w, const Instruction&) {
  each_lane(w.mask, [&](int l) {
    auto& groups = w.groups[static_cast<std::size_t>(l)];
    if (groups.empty()) groups.emplace_back();
    groups.emplace_back();
  });
}

void wait(Warp& w, const Instruction& i) {
  const std::uint32_t* const most = w.at<std::uint32_t>(i.o[0]);
  each_lane(w.mask, [&](int l) {
    auto& groups = w.groups[static_cast<std::size_t>(l)];
    while (groups.size() > most[l] + 1) {
      land(w, i, l, groups.front());
      groups.pop_front();
    }
  });
}

}  // namespace

void add_copies(Forms& f) {
  f["cp.async.cg.shared.global"] = {begin, "xyww"};
  f["cp.async.commit_group"] = {commit, ""};
  f["cp.async.wait_group"] = {wait, "w"};
}

}  // namespace cottention::ptx
