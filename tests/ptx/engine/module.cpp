#include "module.hpp"

#include <cctype>
#include <sstream>
#include <utility>

#include "scanner.hpp"

namespace cottention::ptx {
namespace {

std::int64_t bytes_of(std::string_view type) {
  std::size_t digits = type.size();
  while (digits > 0 && std::isdigit(static_cast<unsigned char>(type[digits - 1])) != 0) --digits;
  return std::stoll(std::string(type.substr(digits))) / 8;
}

bool is_type(std::string_view word) {
  return word.size() >= 3 && word.size() <= 4 && word[0] == '.' &&
         std::string_view("bsuf").find(word[1]) != std::string_view::npos &&
         std::isdigit(static_cast<unsigned char>(word[2])) != 0;
}

/// [.align N] .TYPE NAME[COUNT] [= {...}], after its state space.
std::pair<std::string, Variable> variable(Scanner& scanner, Space space) {
  Variable v;
  v.space = space;
  std::int64_t element = 0;
  for (;;) {
    const std::string_view word = scanner.word();
    if (word == ".align") {
      v.align = scanner.number();
    } else if (is_type(word)) {
      element = bytes_of(word);
      if (v.align < element) v.align = element;
    } else if (word == ".v2" || word == ".v4") {
      scanner.fail("vectors of variables are not known");
    } else {
      v.bytes = element;
      if (scanner.take('[')) {
        v.bytes = scanner.peek() == ']' ? 0 : element * scanner.number();
        scanner.expect(']');
      }
      if (scanner.take('=')) v.initial = scanner.initial(element);
      return {std::string(word), v};
    }
  }
}

/// The body of a function: declarations, labels and statements in nested scopes.
class Body {
 public:
  Body(Scanner& scanner, Function& function) : scanner_(scanner), function_(function) { open(-1); }

  void read() {
    scanner_.expect('{');
    for (;;) {
      const char next = scanner_.peek();
      if (next == '{') {
        scanner_.expect('{');
        open(scope_);
      } else if (next == '}') {
        scanner_.expect('}');
        if (scope_ == 0) return;
        scope_ = function_.scope_parents[static_cast<std::size_t>(scope_)];
      } else if (next == '.') {
        directive();
      } else {
        statement();
      }
    }
  }

 private:
  struct Registers {
    std::uint32_t first, count;  ///< count 0: one register of this very name
    Width width;
  };

  void open(int parent) {
    function_.scope_parents.push_back(parent);
    registers_.emplace_back();
    scope_ = static_cast<int>(function_.scope_parents.size()) - 1;
  }

  void directive() {
    const std::string_view word = scanner_.word();
    if (word == ".reg") {
      declare_registers();
    } else if (word == ".local" || word == ".shared") {
      function_.variables.insert(variable(scanner_, word == ".local" ? Space::local : Space::shared));
      scanner_.expect(';');
    } else if (word == ".pragma") {
      scanner_.skip_past(';');
    } else if (word == ".loc") {
      scanner_.skip_line();
    } else {
      scanner_.fail("unknown directive " + std::string(word));
    }
  }

  void declare_registers() {
    const std::string_view type = scanner_.word();
    const Width width = type == ".pred"       ? Width::predicate
                        : bytes_of(type) == 8 ? Width::bits64
                        : bytes_of(type) == 4 ? Width::bits32
                                              : Width::bits16;
    do {
      const std::string_view name = scanner_.word();
      std::uint32_t count = 0;
      if (scanner_.take('<')) {
        count = static_cast<std::uint32_t>(scanner_.number());
        scanner_.expect('>');
      }
      const auto first = static_cast<std::uint32_t>(function_.registers.size());
      registers_[static_cast<std::size_t>(scope_)][std::string(name)] = {first, count, width};
      function_.registers.resize(first + (count == 0 ? 1 : count), width);
    } while (scanner_.take(','));
    scanner_.expect(';');
  }

  void statement() {
    Statement s;
    s.line = scanner_.line();
    s.scope = scope_;
    if (scanner_.take('@')) {
      s.guard.negated = scanner_.take('!');
      const bool negated = s.guard.negated;
      s.guard = operand();
      s.guard.negated = negated;
    }
    s.opcode = scanner_.word();
    if (scanner_.take(':')) {
      function_.labels[{scope_, std::string(s.opcode)}] = function_.statements.size();
      return;
    }
    while (!scanner_.take(';')) {
      scanner_.take(',');
      s.operands.push_back(operand());
    }
    function_.statements.push_back(std::move(s));
  }

  Operand operand() {
    Operand x;
    const char next = scanner_.peek();
    if (next == '{' || next == '[') {
      const char close = next == '{' ? '}' : ']';
      x.kind = next == '{' ? Operand::Kind::vector : Operand::Kind::address;
      scanner_.expect(next);
      do {
        x.parts.push_back(operand());
        while (next == '[' && scanner_.peek() == '+') {
          scanner_.expect('+');
          x.offset += scanner_.number();
        }
      } while (scanner_.take(','));
      scanner_.expect(close);
      return x;
    }
    x.negated = scanner_.take('!');
    x.text = scanner_.word();
    const char first = x.text[0];
    if (first == '-' || std::isdigit(static_cast<unsigned char>(first)) != 0) {
      x.kind = Operand::Kind::number;
    } else if (find_register(x)) {
      x.kind = Operand::Kind::register_name;
    } else {
      x.kind = Operand::Kind::name;
    }
    if (!scanner_.take('|')) return x;
    Operand both;
    both.kind = Operand::Kind::pair;
    both.parts = {x, operand()};
    return both;
  }

  bool find_register(Operand& x) const {
    std::size_t digits = x.text.size();
    while (digits > 0 && std::isdigit(static_cast<unsigned char>(x.text[digits - 1])) != 0) --digits;
    for (int scope = scope_; scope >= 0; scope = function_.scope_parents[static_cast<std::size_t>(scope)]) {
      const auto& known = registers_[static_cast<std::size_t>(scope)];
      if (const auto found = known.find(x.text); found != known.end() && found->second.count == 0) {
        x.index = found->second.first;
        return true;
      }
      const auto found = known.find(x.text.substr(0, digits));
      if (digits == x.text.size() || found == known.end() || found->second.count == 0) continue;
      const auto number = static_cast<std::uint32_t>(std::stoul(std::string(x.text.substr(digits))));
      if (number >= found->second.count) continue;
      x.index = found->second.first + number;
      return true;
    }
    return false;
  }

  Scanner& scanner_;
  Function& function_;
  std::vector<std::map<std::string, Registers, std::less<>>> registers_;
  int scope_ = 0;
};

void read_parameters(Scanner& scanner, Function& function) {
  if (!scanner.take('(')) return;
  while (!scanner.take(')')) {
    scanner.take(',');
    if (scanner.word() != ".param") scanner.fail("a parameter was expected");
    auto [name, param] = variable(scanner, Space::param);
    function.param_names.push_back(name);
    function.params.push_back(param);
  }
}

/// What stands between the parameters and the body: .maxntid and its like.
void read_limits(Scanner& scanner, Function& function) {
  while (scanner.peek() == '.') {
    const std::string_view word = scanner.word();
    std::int64_t product = scanner.number();
    while (scanner.take(',')) product *= scanner.number();
    if (word == ".maxntid" || word == ".reqntid") function.max_threads = static_cast<int>(product);
  }
}

}  // namespace

Module::Module(std::string text) : text_(std::move(text)) {
  for (std::size_t end = text_.find('\n'); end != std::string::npos; end = text_.find('\n', end + 1))
    line_starts_.push_back(end + 1);
  Scanner scanner(text_);
  while (!scanner.at_end()) {
    const std::string_view word = scanner.word();
    if (word == ".version" || word == ".address_size") {
      scanner.skip_line();
    } else if (word == ".file") {
      scanner.skip_line();
    } else if (word == ".target") {
      target_ = std::stoi(std::string(scanner.word().substr(3)));
      scanner.skip_line();
    } else if (word == ".section") {  // what debuggers want to know
      scanner.skip_to('{');
      scanner.skip_braces();
    } else if (word == ".visible" || word == ".extern" || word == ".weak" || word == ".common") {
      continue;
    } else if (word == ".global" || word == ".const" || word == ".shared") {
      variables_.insert(variable(scanner, word == ".shared" ? Space::shared : Space::global));
      scanner.expect(';');
    } else if (word == ".entry") {
      const std::string_view name = scanner.word();
      functions_[std::string(name)] = {scanner.position(), scanner.line()};
      scanner.skip_to('{');
      scanner.skip_braces();
    } else {
      scanner.fail("unknown directive " + std::string(word));
    }
  }
}

Function Module::function(std::string_view name) const {
  const auto found = functions_.find(name);
  if (found == functions_.end()) throw Error("the module has no function " + std::string(name));
  Scanner scanner(text_, found->second.at, found->second.line);
  Function function;
  function.name = name;
  read_parameters(scanner, function);
  read_limits(scanner, function);
  Body(scanner, function).read();
  return function;
}

std::string Module::line(int number) const {
  const std::size_t at = line_starts_.at(static_cast<std::size_t>(number - 1));
  const std::size_t end = text_.find('\n', at);
  std::string line = text_.substr(at, end - at);
  const std::size_t first = line.find_first_not_of(" \t");
  return first == std::string::npos ? "" : line.substr(first);
}

const std::vector<std::string>& Module::source_lines() const {
  if (!sources_.empty()) return sources_;
  std::map<int, std::string> files;
  std::string line, now;
  for (std::istringstream text(text_); std::getline(text, line);) {
    std::istringstream words(line);
    std::string word, name;
    int number = 0;
    if (!(words >> word >> number >> name) || word != ".file") continue;
    const std::size_t folder = name.rfind("/cottention/");
    name = name.substr(folder == std::string::npos ? 1 : folder + 12);
    files[number] = name.substr(0, name.find('"'));
  }
  sources_.push_back("");
  for (std::istringstream text(text_); std::getline(text, line);) {
    std::istringstream words(line);
    std::string word;
    int file = 0, number = 0;
    if (words >> word >> file >> number && word == ".loc") now = files[file] + ":" + std::to_string(number);
    sources_.push_back(now);
  }
  return sources_;
}

}  // namespace cottention::ptx
