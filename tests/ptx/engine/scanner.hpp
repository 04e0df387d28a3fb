// Words, numbers and signs of a text of PTX, one after the other, with the line they are in.
#pragma once

#include <cctype>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "module.hpp"

namespace cottention::ptx {

class Scanner {
 public:
  explicit Scanner(std::string_view text, std::size_t at = 0, int line = 1)
      : text_(text), at_(at), line_(line) {}

  [[noreturn]] void fail(const std::string& what) const {
    throw Error("PTX line " + std::to_string(line_) + ": " + what);
  }

  std::size_t position() const { return at_; }
  int line() const { return line_; }
  bool at_end() { return peek() == '\0'; }

  /// The next sign that is neither space nor comment; 0 at the end.
  char peek() {
    while (at_ < text_.size()) {
      const char c = text_[at_];
      if (c == '\n') {
        ++line_;
        ++at_;
      } else if (std::isspace(static_cast<unsigned char>(c)) != 0) {
        ++at_;
      } else if (text_.substr(at_, 2) == "//") {
        while (at_ < text_.size() && text_[at_] != '\n') ++at_;
      } else {
        return c;
      }
    }
    return '\0';
  }

  bool take(char c) {
    if (peek() != c) return false;
    ++at_;
    return true;
  }
  void expect(char c) {
    if (!take(c)) fail(std::string("expected ") + c + ", found " + std::string(text_.substr(at_, 12)));
  }

  /// A name, a directive, an opcode with its modifiers, or a number.
  std::string_view word() {
    peek();
    const std::size_t start = at_;
    if (at_ < text_.size() && text_[at_] == '-') ++at_;
    while (at_ < text_.size() && is_word(at_)) ++at_;
    if (at_ == start) fail("a word was expected, found " + std::string(text_.substr(at_, 12)));
    return text_.substr(start, at_ - start);
  }

  std::int64_t number() {
    const std::string text(word());
    return text[0] == '-' ? std::stoll(text, nullptr, 0)
                          : static_cast<std::int64_t>(std::stoull(text, nullptr, 0));
  }

  /// Bytes of the numbers of an initialiser, `element` bytes each.
  std::vector<std::uint8_t> initial(std::int64_t element) {
    std::vector<std::uint8_t> bytes;
    const auto append = [&] {
      const std::int64_t value = number();
      for (int i = 0; i < element; ++i) bytes.push_back(static_cast<std::uint8_t>(value >> (8 * i)));
    };
    if (!take('{')) {
      append();
      return bytes;
    }
    while (!take('}')) {
      take(',');
      append();
    }
    return bytes;
  }

  void skip_line() {
    while (at_ < text_.size() && text_[at_] != '\n') ++at_;
  }
  void skip_to(char c) {
    while (at_ < text_.size() && text_[at_] != c) step();
  }
  void skip_past(char c) {
    skip_to(c);
    expect(c);
  }
  /// A { and what belongs to it, to its }.
  void skip_braces() {
    int depth = 0;
    for (; at_ < text_.size(); step()) {
      if (text_[at_] == '{') ++depth;
      if (text_[at_] == '}' && --depth == 0) {
        ++at_;
        return;
      }
    }
    fail("a } is missing");
  }

 private:
  bool is_word(std::size_t i) const {
    const char c = text_[i];
    if (std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '$' || c == '.' || c == '%')
      return true;
    // shared::cta is a part of an opcode, a lone : ends a label
    return c == ':' && ((i + 1 < text_.size() && text_[i + 1] == ':') || (i > 0 && text_[i - 1] == ':'));
  }
  void step() {
    if (text_[at_] == '\n') ++line_;
    ++at_;
  }

  std::string_view text_;
  std::size_t at_;
  int line_;
};

}  // namespace cottention::ptx
