#!/usr/bin/env python3
"""One program from units compiled for processors of different vector width.

usage: mixed_targets_check.py INCLUDE_DIR CONSUMER_DIR COMPILER

The linker keeps one copy of each inline function that both units define, whichever comes first. So the program is
linked in both orders, and must be right in both. For x86-64; elsewhere, and where this processor lacks the wider
vectors, there is nothing to mix and the check is skipped (exit code 77).
"""
import pathlib
import platform
import subprocess
import sys
import tempfile

SKIPPED = 77


def widest_target():
    """The -march of the widest vectors that this processor runs beyond the baseline; None if there are none."""
    if platform.machine() != "x86_64":
        return None
    flags = set()
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("flags"):
            flags = set(line.split())
            break
    if {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"} <= flags:
        return "x86-64-v4"
    return "x86-64-v3" if {"avx2", "fma", "bmi2", "f16c", "movbe"} <= flags else None


def main():
    include_dir, consumer_dir, compiler = sys.argv[1:]
    wide = widest_target()
    if wide is None:
        print("no wider vectors here than the baseline's")
        sys.exit(SKIPPED)
    with tempfile.TemporaryDirectory() as folder:
        def compile_unit(name, march):
            output = str(pathlib.Path(folder) / f"{name}.{march}.o")
            source = str(pathlib.Path(consumer_dir) / f"{name}.cpp")
            subprocess.run([compiler, "-std=c++20", "-O1", f"-march={march}", "-I", include_dir, "-c", source, "-o", output],
                           check=True)
            return output

        main_unit = compile_unit("consumer", "x86-64")
        forward_unit = compile_unit("forward_unit", "x86-64")
        step_unit = compile_unit("step_unit", wide)
        program = str(pathlib.Path(folder) / "consumer")
        for units in ([forward_unit, step_unit], [step_unit, forward_unit]):
            subprocess.run([compiler, main_unit, *units, "-o", program], check=True)
            subprocess.run([program], check=True)
    print(f"x86-64 and {wide} in one program, in both orders")


try:
    main()
except subprocess.CalledProcessError as error:
    sys.exit(str(error))
