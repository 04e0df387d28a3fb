#include "decode.hpp"

#include <algorithm>
#include <utility>

namespace cottention::ptx {

const Forms& forms() {
  static const Forms known = [] {
    Forms f;
    add_integers(f);
    add_floats(f);
    add_rounded(f);
    add_conversions(f);
    add_comparisons(f);
    add_exchange(f);
    add_matrices(f);
    add_copies(f);
    add_mbarriers(f);
    add_tiles(f);
    add_warpgroups(f);
    return f;
  }();
  return known;
}

namespace {

std::vector<std::string_view> split(std::string_view text) {
  std::vector<std::string_view> parts;
  for (std::size_t at = 0; at <= text.size();) {
    const std::size_t dot = std::min(text.find('.', at), text.size());
    parts.push_back(text.substr(at, dot - at));
    at = dot + 1;
  }
  return parts;
}

class Decoder {
 public:
  Decoder(const Module& module, std::string_view name, const Addresses& globals)
      : module_(module), function_(module.function(name)), globals_(globals) {
    program_.name = function_.name;
    program_.module = &module;
    program_.max_threads = function_.max_threads;
    lay_out();
  }

  Program decode() {
    widths_ = function_.registers;
    for (const Statement& s : function_.statements) {
      statement_ = &s;
      one();
    }
    if (program_.code.empty() || program_.code.back().kind != Kind::leave) {
      Instruction end;
      end.kind = Kind::leave;
      end.line = function_.statements.empty() ? 0 : function_.statements.back().line;
      add(end, program_.operands.size());
    }
    place_registers(program_, widths_, uses_);
    for (std::size_t n = 0; n < program_.code.size(); ++n) {
      program_.code[n].o = program_.operands.data() + first_operand_[n];
      if (const auto guard = guards_.find(n); guard != guards_.end())
        program_.code[n].guard = program_.operands[guard->second];
    }
    return std::move(program_);
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw Error("PTX line " + std::to_string(statement_->line) + ": " + what + ": " +
                module_.line(statement_->line));
  }

  /// Offsets of parameters, and addresses of variables in shared and local memory.
  void lay_out() {
    const auto place = [](std::size_t& end, const Variable& v) {
      const auto align = static_cast<std::size_t>(v.align);
      const std::size_t at = (end + align - 1) / align * align;
      end = at + static_cast<std::size_t>(v.bytes);
      return at;
    };
    for (std::size_t n = 0; n < function_.params.size(); ++n) {
      const std::size_t at = place(program_.param_bytes, function_.params[n]);
      program_.param_offsets.push_back(at);
      program_.param_sizes.push_back(static_cast<std::size_t>(function_.params[n].bytes));
      addresses_[function_.param_names[n]] = at;
    }
    for (const auto* variables : {&function_.variables, &module_.variables()})
      for (const auto& [name, v] : *variables) {
        if (v.space == Space::local) addresses_[name] = place(program_.local_bytes, v);
        if (v.space == Space::shared && v.bytes > 0) addresses_[name] = place(program_.shared_bytes, v);
      }
    for (const auto& [name, v] : module_.variables())
      if (v.space == Space::shared && v.bytes == 0) addresses_[name] = place(program_.shared_bytes, v);
    program_.local_bytes = (program_.local_bytes + 15) / 16 * 16;
  }

  void add(Instruction& i, std::size_t first) {
    first_operand_.push_back(first);
    program_.code.push_back(i);
  }

  void one() {
    const Statement& s = *statement_;
    Instruction i;
    i.line = s.line;
    const std::size_t first = program_.operands.size();
    if (s.opcode == "bra" || s.opcode == "bra.uni") {
      i.kind = Kind::branch;
      i.target = label(s.operands.at(0).text);
    } else if (s.opcode == "ret" || s.opcode == "exit") {
      i.kind = Kind::leave;
    } else {
      compute(i);
    }
    if (s.guard.kind != Operand::Kind::none) {
      i.guard_negated = s.guard.negated;
      guards_[program_.code.size()] = program_.operands.size();
      use(s.guard, false);
      i.guard = 0;
    }
    add(i, first);
  }

  std::uint32_t label(std::string_view name) const {
    for (int scope = statement_->scope; scope >= 0;
         scope = function_.scope_parents[static_cast<std::size_t>(scope)])
      if (const auto found = function_.labels.find({scope, std::string(name)});
          found != function_.labels.end())
        return static_cast<std::uint32_t>(found->second);
    fail("no such label");
  }

  void compute(Instruction& i) {
    const Statement& s = *statement_;
    std::vector<const Operand*> flat;
    for (const Operand& x : s.operands) flatten(x, flat);
    const std::vector<std::string_view> parts = split(s.opcode);
    std::string operands;
    if (parts[0] == "ld" || parts[0] == "st" || parts[0] == "atom" || parts[0] == "red") {
      const Operand& value = parts[0] == "st" ? *flat.back() : *flat.front();
      const bool is_register = value.kind == Operand::Kind::register_name;
      const bool wide = is_register ? is_wide(value) : parts.back().substr(1) == "64";
      if (!decode_access(parts, wide, i, operands)) fail("unknown form of an access");
    } else {
      const Form& form = known(s, flat);
      i.run = form.run;
      i.kind = form.kind;
      i.extra = form.extra;
      operands = form.operands;
      if (is_special(s)) flat.resize(1);
      i.count = static_cast<std::uint8_t>(std::count(operands.begin(), operands.end(), 'z'));
    }
    if (operands.size() != flat.size()) fail("an unexpected number of operands");
    for (std::size_t n = 0; n < flat.size(); ++n) operand(i, *flat[n], operands[n]);
  }

  static void flatten(const Operand& x, std::vector<const Operand*>& flat) {
    switch (x.kind) {
      case Operand::Kind::vector:
      case Operand::Kind::pair:
        for (const Operand& part : x.parts) flatten(part, flat);
        break;
      case Operand::Kind::address:
        flat.push_back(&x);
        for (std::size_t n = 1; n < x.parts.size(); ++n) flatten(x.parts[n], flat);
        break;
      default:
        flat.push_back(&x);
    }
  }

  bool is_wide(const Operand& x) const {
    return x.kind == Operand::Kind::register_name && function_.registers[x.index] == Width::bits64;
  }

  static bool is_special(const Statement& s) {
    return s.operands.size() == 2 && s.operands[1].kind == Operand::Kind::name &&
           s.operands[1].text[0] == '%';
  }

  /// Forms that differ in their operands have more than the opcode in their names.
  const Form& known(const Statement& s, const std::vector<const Operand*>& flat) const {
    std::string name(s.opcode);
    if (s.opcode.starts_with("bar.") && s.opcode != "bar.warp.sync")
      name += " " + std::to_string(flat.size());
    if (s.opcode.starts_with("mov.") && s.operands.size() == 2) {
      if (s.operands[0].kind == Operand::Kind::vector) name += " unpack" + std::to_string(flat.size() - 1);
      if (s.operands[1].kind == Operand::Kind::vector) name += " pack" + std::to_string(flat.size() - 1);
      if (is_special(s)) name += " " + std::string(s.operands[1].text);
    }
    if (s.opcode.starts_with("wgmma.mma") && s.operands.size() > 1 &&
        s.operands[1].kind == Operand::Kind::vector)
      name += " registers";
    if (s.opcode.starts_with("cvt.") && !s.opcode.ends_with("64") && is_wide(*flat.back()))
      name += " of wide";
    const auto found = forms().find(name);
    if (found == forms().end()) fail("unknown instruction");
    return found->second;
  }

  void operand(Instruction& i, const Operand& x, char letter) {
    if (x.negated) fail("negated operands are not known");
    if (letter != 'a' && letter != 'x' && letter != 'y') {
      value(x, letter);
      return;
    }
    if (x.kind != Operand::Kind::address) fail("an address was expected");
    const Operand& base = x.parts[0];
    if (letter == 'a') {
      i.wide_address =
          base.kind != Operand::Kind::register_name || function_.registers[base.index] == Width::bits64;
      i.offset = x.offset;
      value(base, i.wide_address ? 'd' : 'w');
    } else {
      if (x.offset != 0) fail("an offset is not known here");
      value(base, letter == 'x' ? 'w' : 'd');
    }
  }

  void value(const Operand& x, char letter) {
    if (letter == 'z') {  // both
      value(x, 'w');
      uses_.push_back(uses_.back());
      uses_.back().written = true;
      return;
    }
    const bool written = letter >= 'A' && letter <= 'Z';
    const char kind = written ? static_cast<char>(letter - 'A' + 'a') : letter;
    if (x.kind == Operand::Kind::register_name) {
      const Width width = function_.registers[x.index];
      const char its = width == Width::predicate ? 'p' : width == Width::bits64 ? 'd' : 'w';
      if (its != kind) fail("the register " + std::string(x.text) + " has another width");
      use(x, written);
    } else if (written) {
      if (x.text != "_") fail("a register was expected");
      Operand sink;
      sink.index = static_cast<std::uint32_t>(widths_.size());
      widths_.push_back(kind == 'p' ? Width::predicate : kind == 'd' ? Width::bits64 : Width::bits32);
      use(sink, true);
    } else {
      program_.operands.push_back(constant(x, kind));
    }
  }

  void use(const Operand& x, bool written) {
    uses_.push_back({program_.operands.size(), program_.code.size(), x.index, written});
    program_.operands.push_back(0);
  }

  std::uint32_t constant(const Operand& x, char kind) {
    std::uint64_t bits = 0;
    if (x.kind == Operand::Kind::number) {
      bits = number(x.text, kind);
      if (kind == 'p' && bits != 0) bits = all;  // true, in every lane
    } else if (const auto own = addresses_.find(x.text); own != addresses_.end()) {
      bits = own->second;
    } else if (const auto global = globals_.find(x.text); global != globals_.end()) {
      bits = global->second;
    } else {
      fail("unknown name " + std::string(x.text));
    }
    const auto [known, fresh] = constants_.try_emplace({bits, kind}, 0);
    if (fresh) {
      known->second = static_cast<std::uint32_t>(program_.constants.size() * 8) | 1;
      const std::uint64_t both = kind == 'd' ? bits : (bits & 0xffffffffu) << 32 | (bits & 0xffffffffu);
      program_.constants.insert(program_.constants.end(), kind == 'd' ? lanes : lanes / 2, both);
    }
    return known->second;
  }

  std::uint64_t number(std::string_view text, char kind) const {
    const std::string_view head = text.substr(0, 2);
    if (head == "0f" || head == "0F" || head == "0d" || head == "0D") {
      if ((head[1] == 'd' || head[1] == 'D') != (kind == 'd')) fail("a number of another width");
      return std::stoull(std::string(text.substr(2)), nullptr, 16);
    }
    return text[0] == '-' ? static_cast<std::uint64_t>(std::stoll(std::string(text), nullptr, 0))
                          : std::stoull(std::string(text), nullptr, 0);
  }

  const Module& module_;
  const Function function_;
  const Addresses& globals_;
  const Statement* statement_ = nullptr;
  Program program_;
  Addresses addresses_;
  std::vector<Width> widths_;
  std::vector<RegisterUse> uses_;
  std::vector<std::size_t> first_operand_;
  std::map<std::size_t, std::size_t> guards_;  ///< an instruction's guard among the operands
  std::map<std::pair<std::uint64_t, char>, std::uint32_t> constants_;
};

}  // namespace

Program decode(const Module& module, std::string_view function, const Addresses& globals) {
  return Decoder(module, function, globals).decode();
}

}  // namespace cottention::ptx
