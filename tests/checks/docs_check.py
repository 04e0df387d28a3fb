#!/usr/bin/env python3
"""Runs the code and the commands of README.md, docs/ and the other pages, each page in an empty folder.

usage: docs_check.py ROOT FOLDER COMPILER [EMULATION_LIBRARY]
       docs_check.py --nvcc NVCC ROOT FOLDER COMPILER     only what the pages compile with nvcc
       docs_check.py --self-test FOLDER COMPILER

In FOLDER/<page> there is at first a clone in `cottention` alone. Blocks then are, in their order:

    ```cpp NAME     a file of that name; likewise ```cmake NAME
    ```cpp          part of a program: after <!-- continues: NAME -->, of the end of main() in that file; after
                    <!-- within: FILE -->, of ROOT/FILE in place of its line `// [here]`, which then must compile, under the
                    emulator where FILE ends in .cu; after <!-- declarations: NAMESPACE -->, of headers: see api_check.py;
                    after <!-- quotes: FILE -->, neighbouring lines of ROOT/FILE, or several such passages with a line ... between
    ```cmake        after <!-- replaces: NAME COMMAND -->, in that file in place of the line that starts with COMMAND; configured
    ```python NAME  a program that tests/python/test_docs.py runs
    ```sh           commands: run, or held to what they name; docs_commands.py says which
    ```text         equations and output; after <!-- output -->, printed by the commands of the last ```sh block. So is an
                    indented block, and neither has commands

Any other block is a fault; so are commands and variables in prose that do not exist, and links that lead nowhere. Without a GPU,
nvcc is the compiler with the emulator's headers, so programs of GPUs run too.
"""
import dataclasses
import os
import pathlib
import re
import shutil
import stat
import subprocess
import sys
import textwrap

from docs_commands import Commands, Unknown, is_command

COMMENT = re.compile(r"^\s*<!-- ([\w ]+?)(?:: (.+?))? -->\s*$")
FENCE = re.compile(r"^( *)```(.*)$")
NVCC = """#!/usr/bin/env bash
arguments=()
for word in "$@"; do
  case $word in
    -arch=* | -O*) ;;
    *.cu) arguments+=(-x c++ "$word" -x none) ;;
    *) arguments+=("$word") ;;
  esac
done
exec {compiler} -Og -ffp-contract=off -Wno-unknown-pragmas -I{overlay} "${{arguments[@]}}" {library}
"""


@dataclasses.dataclass
class Block:
    line: int
    language: str  # "" where the block is indented
    name: str
    comment: tuple  # the words before the block, as (kind, rest)
    text: str


class Fault(Exception):
    pass


def parse(text):
    """The blocks of a page and its prose."""
    blocks, prose, comment = [], [], (None, None)
    lines = iter(enumerate(text.splitlines(), 1))
    before = ""
    for number, line in lines:
        fence, said = FENCE.match(line), COMMENT.match(line)
        if fence:
            body = []
            for _, inner in lines:
                if FENCE.match(inner):
                    break
                body.append(inner)
            language, _, name = fence[2].strip().partition(" ")
            blocks.append(Block(number, language or "none", name, comment, textwrap.dedent("\n".join(body)) + "\n"))
            comment = (None, None)
        elif line.startswith("    ") and not before.strip():
            body = [line[4:]]
            for _, inner in lines:
                if inner.strip() and not inner.startswith("    "):
                    prose.append(inner)
                    line = inner
                    break
                body.append(inner[4:])
            blocks.append(Block(number, "", "", (None, None), "\n".join(body)))
        elif said:
            comment = (said[1], said[2])
        elif line.strip():
            comment = (None, None)
            prose.append(line)
        else:
            prose.append("")
        before = line
    return blocks, "\n".join(prose)


def anchors(text):
    """Of the headings of a page, as GitHub makes them."""
    names = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", re.sub(r"`|\[|\]\(.*?\)", "", name).lower()).replace(" ", "-") for name in names}


def check_links(page, text, root):
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if re.match(r"^[a-z]+:", target):
            continue
        file = (page.parent / path) if path else page
        if not file.resolve().is_relative_to(root.resolve()) or not file.exists():
            yield f"{page.relative_to(root)}: the link to {target} leads nowhere"
        elif anchor and anchor not in anchors(file.read_text(encoding="utf-8")):
            yield f"{page.relative_to(root)}: {path or page.name} has no heading for #{anchor}"


def with_parts(block, parts):
    """The text of a file with what continues its main() at the end of that."""
    lines = block.text.rstrip("\n").split("\n")
    end = max(i for i, line in enumerate(lines) if line == "}")
    if re.match(r"\s*return 0;", lines[end - 1]):
        end -= 1
    return "\n".join(lines[:end] + [part.text for part in parts] + lines[end:]) + "\n"


def check_quotes(block, file):
    """Space at the beginning and the end of lines does not count, nor do comments at their end."""
    def bare(text):
        return [line for line in (line.partition("//")[0].strip() for line in text.split("\n")) if line]

    source = bare(file.read_text(encoding="utf-8")) if file.is_file() else []
    at = 0
    for passage in re.split(r"^ *\.\.\. *$", block.text, flags=re.MULTILINE):
        lines = bare(passage)
        here = [i for i in range(at, len(source)) if source[i:i + len(lines)] == lines]
        if not lines or not here:
            raise Fault(f"{file.name} has not these lines, in this order: {passage.strip()}")
        at = here[0] + len(lines)


class Site:
    """The folder in which pages are run."""

    def __init__(self, root, folder, compiler, library=None, nvcc=None):
        self.root, self.folder, self.nvcc = root, folder, nvcc
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "bin").mkdir(parents=True)
        self.overlay = root / "tests/emulation/include"
        self.compiler, self.library = compiler, library
        # The compiler in use by the name that pages have for it, so that commands stay as they are written.
        if "clang" not in pathlib.Path(compiler).name or shutil.which("g++") is None:
            (folder / "bin/g++").symlink_to(shutil.which(compiler))
        if nvcc or library:
            program = folder / "bin/nvcc"
            emulated = NVCC.format(compiler=compiler, overlay=self.overlay, library=library)
            program.write_text(f'#!/bin/sh\nexec {nvcc} "$@"\n' if nvcc else emulated, encoding="utf-8")
            program.chmod(program.stat().st_mode | stat.S_IXUSR)
        (folder / ".gitconfig").write_text("[safe]\ndirectory = *\n[user]\nname = docs\nemail = docs\n", encoding="utf-8")
        self.environment = {**os.environ, "HOME": str(folder), "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
                            "CXX": compiler, "OMP_WAIT_POLICY": "passive"}
        self.commands = Commands(root)

    def run(self, command, where):
        result = subprocess.run(command, cwd=where, env=self.environment, text=True, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, check=False)
        if result.returncode != 0:
            shown = command[-1] if command[0] == "bash" else " ".join(map(str, command))
            raise Fault(f"{shown}\nended with status {result.returncode}:\n{result.stdout[-4000:]}")
        return result.stdout

    def clone(self, where):
        """A clone whose branch main is the tree as it is, changes that are not committed included."""
        self.run(["git", "clone", "-q", self.root, where], self.folder)
        self.run(["git", "checkout", "-q", "-B", "main"], where)
        changed = self.run(["git", "ls-files", "-z", "-m", "-o", "-d", "--exclude-standard"], self.root)
        for name in set(changed.split("\0")) - {""}:
            (where / name).unlink(missing_ok=True)
            if (self.root / name).is_file():
                (where / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(self.root / name, where / name)
        if changed:
            self.run(["git", "add", "-A"], where)
            self.run(["git", "commit", "-q", "-m", "the tree as it is"], where)

    def commands_of(self, block):
        """(what is to be run, of it) of a block of commands, each held to its rule."""
        lines = re.sub(r"\\\n\s*", "", block.text).split("\n")
        return [line for line in lines if line.strip() and not line.strip().startswith("#") and self.commands.check(line)]

    def run_page(self, page, blocks):
        where = self.folder / re.sub(r"\W", "_", str(page.relative_to(self.root)))
        where.mkdir()
        scripts = {}
        for block in blocks:
            if block.language == "sh":
                try:
                    scripts[block.line] = self.commands_of(block)
                except Unknown as fault:
                    yield f"{page.relative_to(self.root)}:{block.line}: {fault}"
                    return
        if self.nvcc:
            scripts = {line: [command for command in script if command.startswith("nvcc ")] for line, script in scripts.items()}
        if any(scripts.values()):
            self.clone(where / "cottention")
        used = "\n".join("\n".join(script) for script in scripts.values()) + "".join(
            block.text for block in blocks if block.language == "cmake")
        files, output = {}, ""
        for block in blocks:
            try:
                output = self.run_block(block, blocks, where, scripts, used, files, output)
            except (Fault, Unknown) as fault:
                yield f"{page.relative_to(self.root)}:{block.line}: {fault}"

    def run_block(self, block, blocks, where, scripts, used, files, output):
        kind, rest = block.comment
        if block.language == "sh":
            script = scripts[block.line]
            return self.run(["bash", "-euo", "pipefail", "-c", "\n".join(script)], where) if script else output
        if block.language in ("text", ""):
            command = next((line for line in block.text.split("\n") if is_command(line)), None)
            if command:
                raise Fault(f"`{command.strip()}` is a command: it belongs in a block of sh")
            if kind == "output" and block.text not in output and not self.nvcc:
                raise Fault(f"not what was printed:\n{output}")
        elif block.language in ("cpp", "cmake") and block.name:
            if block.name not in used and block.name != "CMakeLists.txt":
                raise Fault(f"no command and no CMakeLists.txt uses {block.name}")
            files[block.name] = block.text
            parts = [part for part in blocks if part.comment == ("continues", block.name)]
            (where / block.name).write_text(with_parts(block, parts) if parts else block.text, encoding="utf-8")
        elif block.language == "python" and block.name:
            pass  # tests/python/test_docs.py runs it
        elif block.language == "cpp" and kind == "continues":
            if rest not in files:
                raise Fault(f"continues {rest}, which no block before it is")
        elif block.language == "cpp" and kind == "within":
            self.compile_within(block, self.root / rest, where)
        elif block.language == "cpp" and kind == "declarations":
            pass  # held to the headers by api_check.py
        elif block.language == "cpp" and kind == "quotes":
            check_quotes(block, self.root / rest)
        elif block.language == "cmake" and kind == "replaces":
            self.configure_instead(block, *rest.split(), where, files)
        else:
            raise Fault(f"a block of `{block.language}`{f' after <!-- {kind} -->' if kind else ''}: "
                        "tests/checks/docs_check.py says what may be")
        return output

    def compile_within(self, block, file, where):
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
        if text.count("// [here]\n") != 1:
            raise Fault(f"{file} has not one line `// [here]`")
        (where / file.name).write_text(text.replace("// [here]\n", block.text), encoding="utf-8")
        if self.nvcc:
            return
        overlay = [f"-I{self.overlay}", "-Wno-unknown-pragmas"] if file.suffix == ".cu" else []
        self.run([self.compiler, "-std=c++20", "-fsyntax-only", *overlay, f"-I{self.root}/include", f"-I{self.root}/tests", "-x",
                  "c++", file.name], where)

    def configure_instead(self, block, name, command, where, files):
        lines = files.get(name, "").split("\n")
        at = [i for i, line in enumerate(lines) if line.startswith(command)]
        if len(at) != 1:
            raise Fault(f"{name} has {len(at)} lines that start with {command}")
        if self.nvcc:
            return
        variant = where / f"instead_{block.line}"
        variant.mkdir()
        for file, text in files.items():
            (variant / file).write_text(text, encoding="utf-8")
        (variant / name).write_text("\n".join(lines[:at[0]] + [block.text] + lines[at[0] + 1:]), encoding="utf-8")
        (variant / "cottention").symlink_to(where / "cottention")
        self.run(["cmake", "-B", "build", f"-DCOTTENTION_URL=file://{where}/cottention"], variant)

    def check_page(self, page):
        text = page.read_text(encoding="utf-8")
        blocks, prose = parse(text)
        yield from self.run_page(page, blocks)
        if self.nvcc:
            return
        yield from check_links(page, prose, self.root)
        code = "".join(block.text for block in blocks)
        for span in re.findall(r"`([^`]+)`", prose):
            try:
                self.commands.check_span(" ".join(span.split()), code)
            except Unknown as fault:
                yield f"{page.relative_to(self.root)}: {fault}"


def pages(root):
    return [root / "README.md", *sorted((root / "docs").glob("*.md")), *sorted(root.glob("bench/**/*.md")),
            *sorted(root.glob("examples/*.md")), *sorted(root.glob("tests/*/README.md"))]


def main():
    arguments, nvcc = sys.argv[1:], None
    if arguments[:1] == ["--self-test"]:
        import docs_check_faults
        sys.exit(docs_check_faults.main(Site, *map(pathlib.Path, arguments[1:])))
    if arguments[:1] == ["--nvcc"]:
        nvcc, arguments = arguments[1], arguments[2:]
    root, folder = map(pathlib.Path, arguments[:2])
    if not (root / ".git").exists() or shutil.which("git") is None:
        print(f"pages are run beside a git clone; there is no git or {root} is none")
        sys.exit(77)
    site = Site(root, folder, *arguments[2:], nvcc=nvcc)
    faults = [fault for page in pages(root) for fault in site.check_page(page)]
    print("\n".join(faults) if faults else f"{len(pages(root))} pages are as they say")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
