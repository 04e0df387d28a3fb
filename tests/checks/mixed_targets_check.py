#!/usr/bin/env python3
"""One program from units compiled for processors of different vector width.

usage: mixed_targets_check.py INCLUDE_DIR CONSUMER_DIR COMPILER

The linker keeps one copy of each inline function that both units define, whichever comes first. So the program is
linked in both orders, and must be right in both. One unit chooses its vectors at run time: outside of the code for wider targets it
must have no instruction that the baseline lacks. For x86-64; elsewhere, and where this processor lacks the wider
vectors, there is nothing to mix and the check is skipped (exit code 77).
"""
import pathlib
import platform
import re
import shutil
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


def wide_functions(unit):
    """The functions of an object file that have instructions of AVX and later, which alone are encoded with VEX or EVEX."""
    listing = subprocess.run(["objdump", "-d", "--no-show-raw-insn", unit], check=True, capture_output=True, text=True).stdout
    functions = re.findall(r"^[0-9a-f]+ <(\S+)>:\n((?: .*\n)+)", listing, re.MULTILINE)
    return {name for name, code in functions if re.search(r"\tv[a-z]", code)}


def main():
    include_dir, consumer_dir, compiler = sys.argv[1:]
    wide = widest_target()
    if wide is None:
        print("no wider vectors here than the baseline's")
        sys.exit(SKIPPED)
    with tempfile.TemporaryDirectory() as folder:
        def compile_unit(name, march, *flags):
            output = str(pathlib.Path(folder) / f"{name}.{march}.o")
            source = str(pathlib.Path(consumer_dir) / f"{name}.cpp")
            subprocess.run([compiler, "-std=c++20", "-O1", f"-march={march}", *flags, "-I", include_dir, "-c", source, "-o", output],
                           check=True)
            return output

        main_unit = compile_unit("consumer", "x86-64")
        forward_unit = compile_unit("forward_unit", "x86-64", "-DCOTTENTION_CPU_DISPATCH")
        if shutil.which("objdump"):
            wide_code = wide_functions(forward_unit)
            leaked = [name for name in wide_code if "run_time_avx" not in name]
            if leaked or not wide_code:
                sys.exit(f"functions of the baseline with instructions of wider targets: {leaked or 'none of either'}")
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
