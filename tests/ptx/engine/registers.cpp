// Which registers share a place: liveness, then a scan over intervals.
#include <algorithm>
#include <queue>
#include <set>

#include "decode.hpp"

namespace cottention::ptx {
namespace {

using Bits = std::vector<std::uint64_t>;

struct Stretch {  ///< of instructions without branches
  std::size_t begin, end;
  std::vector<std::size_t> next;
  Bits read, written, live_in, live_out;
};

class Liveness {
 public:
  Liveness(const Program& program, const std::vector<RegisterUse>& uses, std::size_t registers)
      : code_(program.code), uses_(uses), words_((registers + 63) / 64) {
    cut();
    collect();
    iterate();
  }

  const std::vector<Stretch>& stretches() const { return stretches_; }

  static bool has(const Bits& bits, std::size_t n) { return (bits[n / 64] >> (n % 64) & 1) != 0; }

 private:
  void cut() {
    std::set<std::size_t> starts{0};
    for (std::size_t n = 0; n < code_.size(); ++n) {
      if (code_[n].kind == Kind::branch) starts.insert(code_[n].target);
      if ((code_[n].kind == Kind::branch || code_[n].kind == Kind::leave) && n + 1 < code_.size())
        starts.insert(n + 1);
    }
    const std::vector<std::size_t> begins(starts.begin(), starts.end());
    const auto stretch_at = [&](std::size_t n) {
      return static_cast<std::size_t>(std::lower_bound(begins.begin(), begins.end(), n) - begins.begin());
    };
    for (std::size_t b = 0; b < begins.size(); ++b) {
      Stretch s{begins[b],    b + 1 < begins.size() ? begins[b + 1] : code_.size(),
                {},           Bits(words_),
                Bits(words_), Bits(words_),
                Bits(words_)};
      const Instruction& last = code_[s.end - 1];
      if (last.kind == Kind::branch) s.next.push_back(stretch_at(last.target));
      const bool goes_on = (last.kind != Kind::branch && last.kind != Kind::leave) || last.guard != no_guard;
      if (goes_on && b + 1 < begins.size()) s.next.push_back(b + 1);
      stretches_.push_back(std::move(s));
    }
  }

  /// Under a guard a register may keep its value, so that counts as reading it.
  void collect() {
    std::size_t stretch = 0;
    for (std::size_t n = 0; n < uses_.size();) {
      const std::size_t instruction = uses_[n].instruction;
      while (stretches_[stretch].end <= instruction) ++stretch;
      Stretch& s = stretches_[stretch];
      const bool guarded = code_[instruction].guard != no_guard;
      std::size_t end = n;
      for (; end < uses_.size() && uses_[end].instruction == instruction; ++end)
        if ((!uses_[end].written || guarded) && !has(s.written, uses_[end].number))
          set(s.read, uses_[end].number);
      for (; n < end; ++n)
        if (uses_[n].written && !guarded) set(s.written, uses_[n].number);
    }
  }

  void iterate() {
    for (bool changed = true; changed;) {
      changed = false;
      for (std::size_t b = stretches_.size(); b-- > 0;) {
        Stretch& s = stretches_[b];
        for (const std::size_t next : s.next)
          for (std::size_t k = 0; k < words_; ++k) s.live_out[k] |= stretches_[next].live_in[k];
        for (std::size_t k = 0; k < words_; ++k) {
          const std::uint64_t in = s.read[k] | (s.live_out[k] & ~s.written[k]);
          changed = changed || in != s.live_in[k];
          s.live_in[k] = in;
        }
      }
    }
  }

  static void set(Bits& bits, std::size_t n) { bits[n / 64] |= std::uint64_t{1} << (n % 64); }

  const std::vector<Instruction>& code_;
  const std::vector<RegisterUse>& uses_;
  std::size_t words_;
  std::vector<Stretch> stretches_;
};

struct Interval {
  std::size_t begin = ~std::size_t{0}, end = 0;
  void cover(std::size_t from, std::size_t to) {
    begin = std::min(begin, from);
    end = std::max(end, to);
  }
};

}  // namespace

void place_registers(Program& program, const std::vector<Width>& widths,
                     const std::vector<RegisterUse>& uses) {
  std::vector<Interval> intervals(widths.size());
  for (const RegisterUse& use : uses) intervals[use.number].cover(use.instruction, use.instruction);
  const Liveness liveness(program, uses, widths.size());
  for (const Stretch& s : liveness.stretches())
    for (std::size_t n = 0; n < widths.size(); ++n) {
      if (Liveness::has(s.live_in, n)) intervals[n].cover(s.begin, s.begin);
      if (Liveness::has(s.live_out, n)) intervals[n].cover(s.end - 1, s.end - 1);
    }
  std::vector<std::uint32_t> order;
  for (std::uint32_t n = 0; n < widths.size(); ++n)
    if (intervals[n].begin <= intervals[n].end) order.push_back(n);
  std::sort(order.begin(), order.end(),
            [&](auto a, auto b) { return intervals[a].begin < intervals[b].begin; });

  // One stack of free places for each size; 32 lanes of 8 or 4 bytes, or the bits of a predicate in a line of
  // its own.
  const auto bytes_of = [](Width w) -> std::uint32_t {
    return w == Width::bits64 ? 256 : w == Width::predicate ? 64 : 128;
  };
  std::map<std::uint32_t, std::vector<std::uint32_t>> unused;
  using Ending = std::pair<std::size_t, std::uint32_t>;
  std::priority_queue<Ending, std::vector<Ending>, std::greater<>> active;
  std::vector<std::uint32_t> places(widths.size());
  std::uint32_t bytes = 0;
  for (const std::uint32_t n : order) {
    for (; !active.empty() && active.top().first < intervals[n].begin; active.pop())
      unused[bytes_of(widths[active.top().second])].push_back(places[active.top().second]);
    auto& mine = unused[bytes_of(widths[n])];
    if (mine.empty()) {
      mine.push_back(bytes);
      bytes += bytes_of(widths[n]);
    }
    places[n] = mine.back();
    mine.pop_back();
    active.emplace(intervals[n].end, n);
  }
  program.register_bytes = bytes;
  for (const RegisterUse& use : uses) program.operands[use.operand] = places[use.number];
}

}  // namespace cottention::ptx
