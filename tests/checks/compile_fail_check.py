#!/usr/bin/env python3
"""Sources that must be refused, each with a message that its first line quotes.

usage: compile_fail_check.py FOLDER INCLUDE_DIR COMPILER

FOLDER/*.cpp start with `// expect: text`, and the text must be among the compiler's errors.
"""
import pathlib
import subprocess
import sys


def main():
    folder, include_dir, compiler = sys.argv[1:]
    sources = sorted(pathlib.Path(folder).glob("*.cpp"))
    failed = [] if sources else [f"no sources in {folder}"]
    for source in sources:
        first = source.read_text(encoding="utf-8").partition("\n")[0]
        if not first.startswith("// expect: "):
            failed.append(f"{source.name}: the first line is not `// expect: text`")
            continue
        expected = first.removeprefix("// expect: ").strip()
        command = [compiler, "-std=c++20", "-fsyntax-only", "-I", include_dir, str(source)]
        result = subprocess.run(command, text=True, capture_output=True)
        if result.returncode == 0:
            failed.append(f"{source.name}: compiles, but should be refused")
        elif expected not in result.stderr:
            failed.append(f"{source.name}: refused without saying `{expected}`:\n{result.stderr}")
    print("\n".join(failed) if failed else f"{len(sources)} sources are refused, each for its reason")
    sys.exit(1 if failed else 0)


main()
