// Cases that the reference is checked with.
#pragma once

#include <vector>

#include "support/oracle.hpp"
#include "support/problem_generator.hpp"

namespace support {

inline cottention::reference::Output definition(const Case& c,
                                                const cottention::ForwardArguments<double>& args) {
  return definition(c.mask, c.scale, args);
}

/// Every kind of problem that the definition knows, small enough for finite differences.
inline std::vector<Case> small_cases() {
  std::vector<Case> cases;
  for (const cottention::Scale scale :
       {cottention::Scale::none, cottention::Scale::by_key, cottention::Scale::by_query}) {
    Case base{.scale = scale, .shape = {2, 5, 5, 4, 2, 3, 2}, .initial_state = Presence::present};
    for (const cottention::Mask mask : {cottention::Mask::causal, cottention::Mask::bidirectional}) {
      base.mask = mask;
      for (const Padding padding : {Padding::none, Padding::unrelated}) {
        Case c = base;
        c.padding = padding;
        cases.push_back(c);
      }
      Case packed = base;
      packed.lengths_q = {3, 0, 1, 4};
      packed.trailing_q = packed.trailing_k = 2;
      packed.layout = Layout::gaps;
      cases.push_back(packed);
      Case plain = base;
      plain.initial_state = Presence::absent;
      plain.layout = Layout::bhsd;
      plain.rows = Rows::mixed;
      cases.push_back(plain);
    }
    Case cross = base;
    cross.shape.seq_q = 3;
    cross.padding = Padding::right;
    cases.push_back(cross);
    cross.padding = Padding::none;
    cross.lengths_q = {2, 3, 0};
    cross.lengths_k = {4, 0, 2};
    cross.trailing_k = 3;
    cases.push_back(cross);
  }
  return cases;
}

}  // namespace support
