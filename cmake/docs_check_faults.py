"""Each fault that docs_check.py is there for, alone on a page of a small tree, must be reported, and no page without one."""
import re
import subprocess

RUN = """#!/usr/bin/env bash
cat <<'TEXT'
  test    runs tests
            --quick  fewer
TEXT
"""
PROGRAM = "```cpp a.cpp\n#include <cstdio>\nint main() {\n  std::puts(\"one\");\n}\n```\n"
RUNS = "```sh\ng++ a.cpp -o a  # compiles; and then\n./a\n```\n"
PROJECT = ("```cmake CMakeLists.txt\ncmake_minimum_required(VERSION 3.22)\nproject(a LANGUAGES NONE)\nmessage(STATUS a)\n```\n"
           "```sh\ncmake -B build\n```\n")

SOUND = [
    PROGRAM + RUNS + "<!-- output -->\n```text\none\n```\n",
    PROGRAM + RUNS + "<!-- continues: a.cpp -->\n```cpp\nstd::puts(\"two\");\n```\n",
    PROJECT + "<!-- replaces: CMakeLists.txt message -->\n```cmake\nmessage(STATUS b)\n```\n",
    "# A heading\n\n    x = y\n\n[there](#a-heading), `./run test --quick`, `COTTENTION_READ=ON`\n",
    "```sh\n./run test --quick  # long\nctest --preset one -R a\nbuild/one/tool\n```\n",
    "<!-- within: part.cpp -->\n```cpp\nint x = y;\n```\n",
    "<!-- quotes: quoted.cpp -->\n```cpp\nint a;  // (rows)\n...\nint c;\nint d;\n```\n",
]
FAULTS = {
    "ended with status 1": PROGRAM.replace("one\");", "one\"") + RUNS,
    "ended with status 3": PROGRAM.replace("  std::puts(\"one\");", "  return 3;") + RUNS,
    "not what was printed": PROGRAM + RUNS + "<!-- output -->\n```text\ntwo\n```\n",
    "no command and no CMakeLists.txt uses a.cpp": PROGRAM,
    "continues b.cpp, which no block before it is": "<!-- continues: b.cpp -->\n```cpp\nint x;\n```\n",
    "was not declared|undeclared identifier": PROGRAM + "<!-- continues: a.cpp -->\n```cpp\ngone();\n```\n" + RUNS,
    r"\bz\b.*was not declared|undeclared identifier 'z'": "<!-- within: part.cpp -->\n```cpp\nint x = z;\n```\n",
    "quoted.cpp has not these lines, in this order: int a;\nint c;": "<!-- quotes: quoted.cpp -->\n```cpp\nint a;\nint c;\n```\n",
    "quoted.cpp has not these lines, in this order: int b;": "<!-- quotes: quoted.cpp -->\n```cpp\nint d;\n...\nint b;\n```\n",
    "a block of `cpp`": "```cpp\nint x;\n```\n",
    "a block of `none`": "```\nint x;\n```\n",
    "a block of `python`": "```python\nx = 1\n```\n",
    "CMake Error": PROJECT + "<!-- replaces: CMakeLists.txt message -->\n```cmake\ngone()\n```\n",
    "0 lines that start with find_package": PROJECT + "<!-- replaces: CMakeLists.txt find_package -->\n```cmake\nx()\n```\n",
    "`./run test` is a command": "text\n\n    ./run test\n",
    "no rule for the command gone": "```sh\ngone --now\n```\n",
    "./run help has no command gone": "```sh\n./run gone\n```\n",
    "./run test has no option --gone": "read `./run test --gone`\n",
    "there is no preset gone": "```sh\nctest --preset gone\n```\n",
    "there is no target gone": "read `cmake --build BUILD --target gone`\n",
    "no build makes gone": "```sh\nbuild/one/gone\n```\n",
    "nothing reads COTTENTION_GONE": "read `COTTENTION_GONE`\n",
    "the link to gone.md leads nowhere": "[there](gone.md)\n",
    "has no heading for #gone": "[there](#gone)\n",
}


def main(Site, folder, compiler):
    root = folder / "tree"
    for name in ("tests", "bench", "examples", "cmake", "include", "docs"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "CMakePresets.json").write_text('{"configurePresets": [{"name": "one"}]}', encoding="utf-8")
    (root / "CMakeLists.txt").write_text("add_executable(tool)\noption(COTTENTION_READ)\n", encoding="utf-8")
    (root / "part.cpp").write_text("int y;\n// [here]\n", encoding="utf-8")
    (root / "quoted.cpp").write_text("int a;  // one\n\nint b;\nint c;\nint d;\n", encoding="utf-8")
    (root / "run").write_text(RUN, encoding="utf-8")
    (root / "run").chmod(0o755)
    subprocess.run(["git", "init", "-q", root], check=True)
    missed = []
    for expected, page in [*(("", text) for text in SOUND), *FAULTS.items()]:
        (root / "README.md").write_text(page, encoding="utf-8")
        site = Site(root, folder / "work", compiler)
        found = list(site.check_page(root / "README.md"))
        if not expected and found:
            missed.append(f"a sound page is refused: {page}\n{found}")
        if expected and not any(re.search(expected, fault) for fault in found):
            missed.append(f"not found: {expected}; reported: {found}")
    print("\n".join(missed) if missed else f"{len(FAULTS)} faults are found")
    return 1 if missed else 0
