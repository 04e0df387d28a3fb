#include "text.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "options.hpp"

namespace char_lm {

Text::Text(const std::string& path, std::int64_t context) : context_(static_cast<std::size_t>(context)) {
  if (std::filesystem::is_directory(path)) throw BadInput("'" + path + "': is a directory, not a text file");
  std::ifstream file(path, std::ios::binary);
  if (!file) throw BadInput("'" + path + "': cannot be opened (" + std::strerror(errno) + ")");
  bytes_.assign(std::istreambuf_iterator<char>(file), {});
  if (file.bad()) throw BadInput("'" + path + "': cannot be read");
  if (bytes_.empty()) throw BadInput("'" + path + "': is empty");
  // One sequence to train on and one held out, each with the byte that follows it.
  const std::size_t needed = 2 * (context_ + 1);
  if (bytes_.size() < needed)
    throw BadInput("'" + path + "': has " + std::to_string(bytes_.size()) + " bytes, but --context " +
                   std::to_string(context) + " needs at least " + std::to_string(needed));
  split_ = bytes_.size() - std::max(bytes_.size() / 10, context_ + 1);
}

void Text::copy(std::span<const std::uint8_t> from, std::size_t start, std::size_t sequence,
                Batch& batch) const {
  const auto at = static_cast<std::ptrdiff_t>(sequence * context_);
  const auto piece = from.subspan(start, context_ + 1);
  std::copy(piece.begin(), piece.end() - 1, batch.bytes.begin() + at);
  std::copy(piece.begin() + 1, piece.end(), batch.targets.begin() + at);
}

void Text::sample(std::mt19937_64& random, Batch& batch) const {
  std::uniform_int_distribution<std::size_t> place(0, training().size() - context_ - 1);
  for (std::size_t s = 0; s < batch.bytes.size() / context_; ++s) copy(training(), place(random), s, batch);
}

void Text::take_held_out(std::int64_t first, Batch& batch) const {
  for (std::size_t s = 0; s < batch.bytes.size() / context_; ++s) {
    const std::size_t sequence =
        (static_cast<std::size_t>(first) + s) % static_cast<std::size_t>(held_out_sequences());
    copy(held_out(), sequence * context_, s, batch);
  }
}

std::int64_t Text::held_out_sequences() const {
  return static_cast<std::int64_t>((held_out().size() - 1) / context_);
}

std::string Text::prompt() const {
  constexpr std::size_t shortest = 24, longest = 64;
  const auto text = held_out();
  std::size_t begin = 0;
  for (std::size_t i = 1; i + longest < text.size(); ++i)  // the first line that is long enough
    if (text[i - 1] == '\n' && std::find(text.begin() + static_cast<std::ptrdiff_t>(i),
                                         text.begin() + static_cast<std::ptrdiff_t>(i + longest),
                                         '\n') == text.begin() + static_cast<std::ptrdiff_t>(i + longest)) {
      begin = i;
      break;
    }
  std::size_t end = std::min(text.size(), begin + longest);
  while (end > begin + shortest && text[end - 1] != ' ') --end;
  while (end > begin + 1 && text[end - 1] == ' ') --end;
  return std::string(text.begin() + static_cast<std::ptrdiff_t>(begin),
                     text.begin() + static_cast<std::ptrdiff_t>(end));
}

}  // namespace char_lm
