// The text of a module of PTX, taken apart: variables, and functions as lists of statements.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace cottention::ptx {

/// What the machine will not do: text that it does not know, or a program that breaks a rule.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

enum class Space : std::uint8_t { generic, global, shared, local, param };

enum class Width : std::uint8_t { predicate, bits16, bits32, bits64 };

struct Operand {
  enum class Kind : std::uint8_t {
    none,           ///< of an address: [map, {i, j}] has its coordinates in `parts`
    register_name,  ///< `index`
    name,           ///< a variable, a label, a special register, or _
    number,
    address,  ///< parts[0], with `offset` bytes added; what follows it in the brackets are further parts
    vector,   ///< {parts...}
    pair,     ///< parts[0] | parts[1]
  };
  Kind kind = Kind::none;
  bool negated = false;
  std::uint32_t index = 0;
  std::int64_t offset = 0;
  std::string_view text;
  std::vector<Operand> parts;
};

struct Statement {
  int line = 0;
  int scope = 0;
  Operand guard;  ///< none, or a predicate
  std::string_view opcode;
  std::vector<Operand> operands;
};

struct Variable {
  Space space = Space::generic;
  std::int64_t align = 1, bytes = 0;
  std::vector<std::uint8_t> initial;  ///< empty: zeros
};

struct Function {
  std::string name;
  std::vector<Variable> params;  ///< in their order
  std::map<std::string, Variable, std::less<>> variables;
  std::vector<std::string> param_names;
  std::vector<Width> registers;
  std::vector<Statement> statements;
  std::map<std::pair<int, std::string>, std::size_t> labels;  ///< by scope and name
  std::vector<int> scope_parents;                             ///< of scope 0: -1
  int max_threads = 1024;
};

class Module {
 public:
  /// Reads the head of every function; their bodies wait for `function`.
  explicit Module(std::string text);
  Module(const Module&) = delete;
  Module& operator=(const Module&) = delete;

  int target() const { return target_; }  ///< 80 for sm_80
  const std::map<std::string, Variable, std::less<>>& variables() const { return variables_; }
  bool has_function(std::string_view name) const { return functions_.find(name) != functions_.end(); }
  Function function(std::string_view name) const;
  const std::string& text() const { return text_; }
  /// A line of the text, counted from 1.
  std::string line(int number) const;
  /// For each line of the text, counted from 1, the source line that the last .loc before it names.
  const std::vector<std::string>& source_lines() const;

 private:
  struct Place {
    std::size_t at;
    int line;
  };
  std::string text_;
  std::vector<std::size_t> line_starts_{0};
  mutable std::vector<std::string> sources_;  // once asked for
  int target_ = 0;
  std::map<std::string, Variable, std::less<>> variables_;
  std::map<std::string, Place, std::less<>> functions_;
};

}  // namespace cottention::ptx
