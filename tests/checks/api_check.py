#!/usr/bin/env python3
"""Holds docs/api.md to the headers, either way.

usage: api_check.py ROOT | --self-test

What the public headers declare outside of the namespaces detail and host must be on the page, and nothing else:

- structs and enums: a heading with the name in backquotes, and below it a table whose first columns are field, type and default, or
  the enumerator;
- functions: as they are declared, in a block of cpp after <!-- declarations: NAMESPACE -->;
- constants, aliases, concepts, macros and public members of classes: named somewhere;
- messages: a row with its code and with an example for each format that CallStatus::failure is given.

A word in backquotes that looks like a name must be in some header.
"""
import dataclasses
import pathlib
import re
import sys
import tempfile

# The headers whose names users may rely on, and in order those of the page.
PUBLIC = ["element.hpp", "problem.hpp", "tensor.hpp", "arguments.hpp", "status.hpp", "validation.hpp", "tiling.hpp", "version.hpp",
          "cpu/execution.hpp", "cpu/targets.hpp", "cpu/forward.hpp", "cpu/backward.hpp", "cpu/step.hpp", "owned_workspace.hpp",
          "sequence_parallel/communicator.hpp", "sequence_parallel.hpp", "mpi.hpp", "forward.cuh", "backward.cuh",
          "step.cuh", "choice.hpp", "owned_workspace.cuh", "sequence_parallel.cuh", "nccl.cuh", "mpi.cuh", "dispatch.hpp"]
PRIVATE = {"detail", "host", "sequence_parallel"}
FAILURE = re.compile(r'CallStatus::failure\(\s*StatusCode::(\w+),\s*((?:"(?:[^"\\]|\\.)*"\s*)+)')
FORMATS = {"%.*s": r".*", "%lld": r"-?\d+", "%d": r"-?\d+", "%zu": r"\d+", "%p": r"0x[0-9a-f]+", "%s": r".*"}


@dataclasses.dataclass
class Item:
    kind: str  # struct, class, enum, function or name
    name: str
    namespace: str
    text: str
    body: str = ""


def without_comments(text):
    text = re.sub(r"/\*.*?\*/", " ", text, flags=re.DOTALL)
    text = re.sub(r'"(?:[^"\\\n]|\\.)*"', '""', text)  # whose braces are none
    return re.sub(r"^\s*#(?:[^\n\\]|\\\n)*$", "", re.sub(r"//[^\n]*", "", text), flags=re.MULTILINE)


def closing(text, at):
    """The index behind the brace that closes the one at `at`."""
    depth = 0
    for i in range(at, len(text)):
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if depth == 0:
            return i + 1
    raise ValueError(f"no end of {text[at:at + 60]}")


def items(text, namespace=""):
    """What a text without comments declares outside of the private namespaces."""
    at = 0
    while at < len(text):
        found = re.compile(r"\s*namespace ([\w:]+) \{").match(text, at)
        if found:
            end = closing(text, found.end() - 1)
            inner = re.sub(r"::COTTENTION_\w+", "", f"{namespace}::{found[1]}".lstrip(":"))  # of a target, seen from around it
            if not PRIVATE & set(inner.split("::")):
                yield from items(text[found.end():end - 1], inner)
            at = end
            continue
        end = re.compile(r"[;{]").search(text, at)
        if end is None:
            return
        head, body, stop = text[at:end.start()].strip(), "", end.end()
        if end[0] == "{" and re.match(r"[^(]* = ", without_templates(head)):  # braces of an expression
            while text[stop - 1] != ";":
                stop = closing(text, stop - 1) if text[stop - 1] == "{" else stop + 1
            head = text[at:stop - 1]
        elif end[0] == "{":
            stop = closing(text, end.start())
            body = text[end.start() + 1:stop - 1]
            # A default argument {} or a brace after = belongs to what follows.
            while re.search(r"(?:=|\w)\s*$", head) and not body.strip() and re.match(r"\s*[,)]", text[stop:]):
                head += "{}"
                more = re.compile(r"[;{]").search(text, stop)
                head += text[stop:more.start()]
                stop = more.end() if more[0] == ";" else closing(text, more.start())
                body = "" if more[0] == ";" else text[more.start() + 1:stop - 1]
                if more[0] == ";":
                    break
            rest = re.compile(r"\s*;").match(text, stop)
            stop = rest.end() if rest else stop
        at = stop
        head = " ".join(head.split())
        if head and not head.startswith("static_assert"):
            yield classify(head, body, namespace)


def without_templates(head):
    """A declaration without the template <...> before it."""
    while head.startswith("template <"):
        depth, i = 0, head.index("<")
        for i in range(head.index("<"), len(head)):
            depth += {"<": 1, ">": -1}.get(head[i], 0)
            if depth == 0:
                break
        head = head[i + 1:].strip()
    return head


def classify(head, body, namespace):
    bare = without_templates(head)
    kind = re.match(r"(struct|class|enum class) (?:__attribute__\(\(\w+\)\) )?(\w+)", bare)
    if kind:
        return Item({"enum class": "enum"}.get(kind[1], kind[1]), kind[2], namespace, head, body)
    if re.match(r"(using|concept)\b", bare) or "=" in bare.partition("(")[0] or "(" not in bare:
        name = re.match(r"(?:using|concept) (\w+)", bare) or re.search(r"(\w+)(?:<.*>)?(?: =.*)?$", bare.partition(" = ")[0])
        if name is None:
            raise ValueError(f"cannot read {head}")
        return Item("name", name[1], namespace, head)
    return Item("function", re.search(r"(\w+|operator\W+)\(", bare)[1], namespace, head)


def fields(body):
    """(name, type, default) of the data members of a struct."""
    flat, at = [], 0
    while at < len(body):  # cut at semicolons outside of braces; bodies of functions end a member too
        end = re.compile(r"[;{]").search(body, at)
        if end is None:
            break
        if end[0] == "{":
            stop = closing(body, end.start())
            member = body[at:end.start()]
            if "(" in member or not re.match(r"\s*;", body[stop:]):
                at = stop
                continue
            flat.append(member + body[end.start():stop])
            at = body.index(";", stop) + 1
        else:
            flat.append(body[at:end.start()])
            at = end.end()
    for member in (" ".join(member.split()) for member in flat):
        if not member or re.match(r"friend|static|using|explicit|\[\[", member):
            continue
        pointer = re.match(r"(.*?\(\*)(\w+)(\)\(.*\))(?: = (.*))?$", member)
        if pointer:
            yield pointer[2], pointer[1] + pointer[3], pointer[4] or ""
            continue
        if "(" in member.partition("=")[0]:
            continue
        declared = re.match(r"(.*?)((?:\w+, )*\w+)(\[\w+\])?(?:\{(.*)\}| = (.*))?$", member)
        if declared is None:
            raise ValueError(f"cannot read {member}")
        for name in declared[2].split(", "):
            kind = declared[1].strip() + (declared[3] or "")
            yield name, kind, declared[5] or ("{}" if declared[4] is not None else "")


def methods(body):
    """Names of the public member functions of a class, but for constructors and operators."""
    public, count = re.split(r"\bprivate:", body)[0], 1
    while count:  # bodies go, the innermost first
        public, count = re.subn(r"\{[^{}]*\}", ";", public)
    public = re.sub(r"\) (?:noexcept )?: [^;]*;|(?<=[;\n])\s*~?[A-Z]\w*\([^;]*;", ";", public)
    return set(re.findall(r"\b([a-z]\w*[a-z\d])\(", public))


def normal(text):
    text = re.sub(r"\[\[nodiscard\]\]|\b(inline|constexpr)\b", "", text)
    return re.sub(r"\s*([(){}<>,&*=;:])\s*", r"\1", " ".join(text.split())).rstrip(";").strip()


def sections(page):
    """The text below each heading that is or begins with a name in backquotes."""
    parts = re.split(r"^#+ (.*)$", page, flags=re.MULTILINE)
    return {re.match(r"`(\w+)", title)[1]: text for title, text in zip(parts[1::2], parts[2::2]) if title.startswith("`")}


def table(text):
    """The rows of a table, cell by cell, without its head, backquotes away."""
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]
            for line in text.split("\n") if line.startswith("|")]
    return [[re.sub(r"^`(.*)`$", r"\1", cell).replace("\\|", "|") for cell in row] for row in rows[2:]]


def check_table(item, section):
    if section is None:
        yield f"`{item.name}` has no heading of its own"
        return
    rows = table(re.search(r"(?:^\|.*\n)*^\|.*$|\Z", section, re.MULTILINE)[0])  # the first one
    if item.kind == "enum":
        right = re.findall(r"\w+", re.sub(r"= [^,]+", "", item.body))
        shown = [row[0] for row in rows]
    else:
        right = [[name, kind, default] for name, kind, default in fields(item.body)]
        shown = [row[:3] for row in rows]
    for missing in (entry for entry in right if entry not in shown):
        yield f"`{item.name}` has {missing}, which its table lacks"
    for extra in (entry for entry in shown if entry not in right):
        yield f"the table of `{item.name}` has {extra}, which the header lacks"


def messages(include):
    for file in sorted(include.rglob("*")):
        if file.is_file():
            for code, literals in FAILURE.findall(file.read_text(encoding="utf-8")):
                text = "".join(re.findall(r'"((?:[^"\\]|\\.)*)"', literals)).replace("%%", "%")
                pattern = re.escape(text)
                for spec, meaning in FORMATS.items():
                    pattern = pattern.replace(re.escape(spec), meaning)
                yield code, text, pattern


def check_messages(include, page):
    rows = [row for row in table(page) if len(row) >= 2 and re.match(r"^(bad_|null_|unsup|cuda_|communication_)\w+$", row[0])]
    rows = [row for row in rows if ":" in row[1]]
    known = list(messages(include))
    for code, text, pattern in known:
        if not any(row[0] == code and re.fullmatch(pattern, row[1]) for row in rows):
            yield f"no row has an example of {code}: {text}"
    for row in rows:
        if not any(row[0] == code and re.fullmatch(pattern, row[1]) for code, _, pattern in known):
            yield f"no header says {row[0]}: {row[1]}"


def check(root):
    include = root / "include/cottention"
    page = (root / "docs/api.md").read_text(encoding="utf-8")
    shown = sections(page)
    declared = {(namespace, normal(line)) for namespace, block in
                re.findall(r"<!-- declarations: (\S+) -->\n+```cpp\n(.*?)```", page, re.DOTALL)
                for line in re.sub(r"//[^\n]*", "", block).split(";") if line.strip()}
    prose = re.sub(r"^```.*?^```", "", page, flags=re.MULTILINE | re.DOTALL)
    in_headers = set()
    for name in PUBLIC:
        raw = (include / name).read_text(encoding="utf-8")
        for item in items(without_comments(raw)):
            if item.kind == "function":
                if item.name.startswith("operator"):
                    continue
                in_headers.add((item.namespace, normal(item.text)))
                if (item.namespace, normal(item.text)) not in declared:
                    yield f"{name}: not declared on the page as in {item.namespace}: {normal(item.text)}"
            elif item.kind == "enum" or item.kind == "struct" and any(fields(item.body)):
                yield from check_table(item, shown.get(item.name))
            elif not re.search(rf"\b{item.name}\b", page):
                yield f"{name}: `{item.name}` is not on the page"
            if item.kind == "class":
                for method in sorted(methods(item.body)):
                    if not re.search(rf"\b{method}\b", page):
                        yield f"{name}: `{method}` of {item.name} is not on the page"
        for macro in re.findall(r"^#define (\w+)", raw, re.MULTILINE):
            if macro not in page and f"#undef {macro}\n" not in raw:
                yield f"{name}: `{macro}` is not on the page"
    for namespace, text in sorted(declared - in_headers):
        yield f"declared on the page but in no header of {namespace}: {text}"
    words = set()
    for file in include.rglob("*"):
        if file.is_file():
            words |= set(re.findall(r"\w+", file.read_text(encoding="utf-8")))
    for span in re.findall(r"`([^`\n]+)`", prose):
        if re.fullmatch(r"[a-zA-Z_]\w*(?:(?:::|\.)\w+)*", span) and "/" not in span:
            for word in re.split(r"::|\.", span):
                if word not in words and not re.search(r"\.(hpp|cuh|md)$", span):
                    yield f"`{span}`: no header has {word}"
    yield from check_messages(include, page)


HEADER = """#pragma once
namespace cottention {
namespace detail { inline int hidden(int x) { return x; } }
/// Text; with { a brace.
struct Pair {
  int first = 1;  ///< text
  const T* second = nullptr;
  int both() const { return first; }
};
enum class Kind { one, two };
inline constexpr int limit = 3;
template <class P>
[[nodiscard]] CallStatus call(const Pair& pair, Pair other = {}) {
  return CallStatus::failure(StatusCode::bad_shape, "first = %d: must be at "
                             "least %d", 1, 2);
}
}
"""
PAGE = """
### `Pair`

| field | type | default | |
|---|---|---|---|
| `first` | `int` | `1` | |
| `second` | `const T*` | `nullptr` | |

### `Kind`

| value | |
|---|---|
| `one` | |
| `two` | |

<!-- declarations: cottention -->
```cpp
template <class P>
CallStatus call(const Pair& pair, Pair other = {});
```

`limit`, and

| code | message |
|---|---|
| `bad_shape` | `first = 0: must be at least 1` |
"""
FAULTS = {
    "has ['second'": ("| `second` | `const T*` | `nullptr` | |\n", ""),
    "which the header lacks": ("| `two` | |\n", "| `two` | |\n| `three` | |\n"),
    "['first', 'int', '1'], which its table lacks": ("| `1` |", "| `2` |"),
    "no heading of its own": ("### `Kind`", "### Kinds"),
    "not declared on the page": ("Pair other = {}", "Pair other"),
    "in no header of cottention": ("CallStatus call(", "int gone();\ntemplate <class P>\nCallStatus call("),
    "`limit` is not on the page": ("`limit`", "`Pair`"),
    "no header has gone": ("`limit`", "`limit`, `gone`"),
    "no row has an example": ("| `bad_shape` | `first = 0: must be at least 1` |\n", ""),
    "no header says bad_shape": ("must be at least 1", "must be at most 1"),
}


def self_test():
    missed = []
    for expected, (old, new) in [("", ("", "")), *FAULTS.items()]:
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            (root / "include/cottention").mkdir(parents=True)
            (root / "docs").mkdir()
            (root / "include/cottention/one.hpp").write_text(HEADER, encoding="utf-8")
            assert old in PAGE, old
            (root / "docs/api.md").write_text(PAGE.replace(old, new, 1) if old else PAGE, encoding="utf-8")
            found = list(check(root))
        if bool(expected) != bool(found) or not any(expected in problem for problem in found or [""]):
            missed.append(f"not found: {expected}; reported: {found}")
    return missed


def main():
    global PUBLIC
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    if sys.argv[1] == "--self-test":
        PUBLIC = ["one.hpp"]
        problems, summary = self_test(), f"{len(FAULTS)} faults are found"
    else:
        problems, summary = list(check(pathlib.Path(sys.argv[1]))), "docs/api.md has what the headers have"
    print("\n".join(problems) if problems else summary)
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
