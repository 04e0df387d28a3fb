#include "proxy.hpp"

#include <algorithm>

#include "failure.hpp"

namespace cottention::emulation {

void UnitSet::add(const UnitSet& other) {
  if (other.empty_) return;
  empty_ = false;
  words_.resize(std::max(words_.size(), other.words_.size()));
  for (std::size_t i = 0; i < other.words_.size(); ++i) words_[i] |= other.words_[i];
}

void UnitSet::remove(const UnitSet& other) {
  for (std::size_t i = 0; i < std::min(words_.size(), other.words_.size()); ++i)
    words_[i] &= ~other.words_[i];
}

void HiddenWrites::reset(std::size_t shared_bytes, std::size_t warps) {
  hidden_.resize(shared_bytes);
  known_.assign(warps, hidden_);
  latest_.assign(shared_bytes / UnitSet::unit + 1, {});
}

void HiddenWrites::write(std::uint32_t offset, std::size_t bytes, Where where) {
  const auto warp = static_cast<std::size_t>(position.thread / 32);
  const auto end = offset + static_cast<std::uint32_t>(bytes);
  for (auto at = offset; at < end; at = (at / UnitSet::unit + 1) * UnitSet::unit) {
    hidden_.add(at);
    known_[warp].add(at);
    latest_[at / UnitSet::unit] = {position.thread, where};
  }
}

void HiddenWrites::overwrite(std::uint32_t offset, std::size_t bytes) {
  UnitSet units;
  units.resize(offset + bytes);
  for (std::uint32_t at = offset; at < offset + bytes; at += UnitSet::unit) units.add(at);
  hidden_.remove(units);
  for (UnitSet& known : known_) known.remove(units);
}

void HiddenWrites::show(std::size_t warp) {
  if (known_[warp].empty()) return;
  const UnitSet shown = known_[warp];
  hidden_.remove(shown);
  for (UnitSet& known : known_) known.remove(shown);
  known_[warp].clear();
}

void HiddenWrites::check(std::uint32_t offset, const char* word, Where where) const {
  if (!hidden_.has(offset)) return;
  const Write& write = latest_[offset / UnitSet::unit];
  fail(where,
       "%s: offset %u of shared memory was written by warp %d lane %d at %s, and no fence_proxy_async has "
       "followed that "
       "write on its way here",
       word, offset, write.thread / 32, write.thread % 32, PlaceName(write.where).text);
}

}  // namespace cottention::emulation
