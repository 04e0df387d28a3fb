#!/usr/bin/env python3
"""Compiles each header alone, included twice.

usage: header_check.py [--emulation OVERLAY_DIR] INCLUDE_DIR COMPILER [FLAG...]

Without --emulation, the plain C++ headers (.hpp). With it, the CUDA headers (.cuh) with the overlay before INCLUDE_DIR;
those of device/ are then the overlay's. A header for another library is left out where the compiler does not find that one.
"""
import pathlib
import subprocess
import sys


# Headers of other libraries that headers of this one are for.
OTHERS = {"mpi.hpp": "mpi.h", "mpi.cuh": "mpi.h", "nccl.cuh": "nccl.h"}


def main():
    arguments = sys.argv[1:]
    overlay = None
    if arguments[0] == "--emulation":
        overlay = arguments[1]
        arguments = arguments[2:]
    include_dir, *compiler = arguments
    suffix, folders = (".cuh", ["-I", overlay, "-Wno-unknown-pragmas"]) if overlay else (".hpp", [])
    headers = sorted(p.relative_to(include_dir) for p in pathlib.Path(include_dir).rglob("*" + suffix))
    failed, missing = [], []
    for header in headers:
        source = f"#include <{header}>\n#include <{header}>\n"
        if header.name in OTHERS:
            source = f"#if __has_include(<{OTHERS[header.name]}>)\n{source}#else\n#error it is missing\n#endif\n"
        command = [*compiler, "-std=c++20", "-fsyntax-only", *folders, "-I", include_dir, "-x", "c++", "-"]
        result = subprocess.run(command, input=source, text=True, capture_output=True)
        if "#error it is missing" in result.stderr:
            missing.append(header)
        elif result.returncode != 0:
            failed.append(str(header))
            print(f"{header} does not compile alone:\n{result.stderr}")
    print(f"{len(headers) - len(missing) - len(failed)} of {len(headers)} headers compile alone")
    sys.exit(1 if failed or not headers else 0)


main()
