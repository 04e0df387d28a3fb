// Which rows a benchmark has.
#pragma once

#include <optional>
#include <string_view>
#include <utility>

namespace bench {

/// What is looked at first, named shapes and decoding; sweeps over length, head dimension, batch x heads; the
/// sizes that the authors of the paper time. All: the first two.
enum class Preset { all, standard, sweep, authors };

inline bool includes(Preset chosen, Preset rows) {
  return chosen == rows || (chosen == Preset::all && rows != Preset::authors);
}

inline std::optional<Preset> parse_preset(std::string_view text) {
  using enum Preset;
  constexpr std::pair<std::string_view, Preset> known[] = {
      {"all", all}, {"standard", standard}, {"sweep", sweep}, {"authors", authors}};
  for (const auto& [name, value] : known)
    if (name == text) return value;
  return std::nullopt;
}

}  // namespace bench
