#!/usr/bin/env python3
"""What requirements.hpp refuses: once, in a few lines, by a remedy that helps. What it does not
refuse gives right results.

usage: requirements_check.py TEST_DIR INCLUDE_DIR COMPILER
"""
import pathlib
import subprocess
import sys
import tempfile

MOST_LINES = 12
HEADERS = ["cottention/cpu.hpp", "cottention/cottention.cuh"]  # layer_check.py sees to the others
BREAKING = ["-ffast-math", "-Ofast", "-ffinite-math-only"]
GCC_BREAKING = [
    "-ffast-math -fno-finite-math-only", "-funsafe-math-optimizations", "-fassociative-math -fno-signed-zeros -fno-trapping-math"
]
# By compiler: the flags that may change results, are not refused, and change none.
HARMLESS = {
    "gcc": "-ffast-math -fno-finite-math-only -fno-associative-math",
    "clang": "-ffast-math -fno-finite-math-only -fno-honor-nans",
}
FAST_MATH = "make results wrong"
NO_FAST_MATH = "-fno-fast-math"


def compiled(compiler, include_dir, flags, source, *more):
    command = [*compiler, "-std=c++20", *flags.split(), "-I", str(include_dir), *more, "-x", "c++", "-"]
    return subprocess.run(command, input=source, text=True, capture_output=True)


def refusals(is_clang):
    """(flags, text that the error must have)"""
    for flags in BREAKING + ([] if is_clang else GCC_BREAKING):
        yield flags, FAST_MATH
    yield "-std=c++17", "needs C++20"
    if is_clang:
        yield "-U__clang_major__ -D__clang_major__=13", "needs Clang 14"
    else:
        yield "-U__GNUC__ -D__GNUC__=11", "needs GCC 12"
    yield "-U__GNUC__ -U__clang__", "GCC 12 or Clang 14"
    yield "-D__CUDACC_VER_MAJOR__=12 -D__CUDACC_VER_MINOR__=9", "needs nvcc 13.0"


def main():
    test_dir, include_dir, compiler = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3:]
    macros = subprocess.run([*compiler, "-dM", "-E", "-x", "c++", "/dev/null"], text=True, capture_output=True, check=True).stdout
    is_clang = "__clang__" in macros
    failed = []
    count = 0
    for flags, expected in refusals(is_clang):
        for header in HEADERS:
            count += 1
            result = compiled(compiler, include_dir, flags, f"#include <{header}>\n", "-fsyntax-only")
            lines = result.stderr.splitlines()
            errors = [line for line in lines if "error: " in line and "fatal error: " not in line]
            if result.returncode == 0:
                failed.append(f"{header} is not refused with {flags}")
            elif len(errors) != 1 or expected not in errors[0] or "Remedy: " not in errors[0] or len(lines) > MOST_LINES:
                failed.append(f"{header} with {flags}, {len(lines)} lines:\n{result.stderr[:2000]}")
    for flags in BREAKING + ([] if is_clang else GCC_BREAKING):  # the remedy
        count += 1
        result = compiled(compiler, include_dir, f"{flags} {NO_FAST_MATH}", "#include <cottention/requirements.hpp>\n",
                          "-fsyntax-only")
        if result.returncode != 0:
            failed.append(f"{NO_FAST_MATH} does not help against {flags}:\n{result.stderr}")
    with tempfile.TemporaryDirectory() as folder:
        program = pathlib.Path(folder) / "flags"
        flags = HARMLESS["clang" if is_clang else "gcc"]
        source = (test_dir / "flags.cpp").read_text(encoding="utf-8")
        result = compiled(compiler, include_dir, f"-O2 {flags}", source, "-o", str(program))
        if result.returncode == 0:
            result = subprocess.run([program], text=True, capture_output=True)
        if result.returncode != 0:
            failed.append(f"wrong with {flags}:\n{result.stderr}{result.stdout}")
    print("\n".join(failed) if failed else f"{count} refusals and their remedies hold")
    sys.exit(1 if failed else 0)


main()
