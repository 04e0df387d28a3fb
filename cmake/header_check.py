#!/usr/bin/env python3
"""Compiles each header alone, included twice.

usage: header_check.py INCLUDE_DIR COMPILER [FLAG...]
"""
import pathlib
import subprocess
import sys


def main():
    include_dir, *compiler = sys.argv[1:]
    headers = sorted(p.relative_to(include_dir) for p in pathlib.Path(include_dir).rglob("*.hpp"))
    failed = []
    for header in headers:
        source = f"#include <{header}>\n#include <{header}>\n"
        command = [*compiler, "-std=c++20", "-fsyntax-only", "-I", include_dir, "-x", "c++", "-"]
        result = subprocess.run(command, input=source, text=True, capture_output=True)
        if result.returncode != 0:
            failed.append(str(header))
            print(f"{header} does not compile alone:\n{result.stderr}")
    print(f"{len(headers) - len(failed)} of {len(headers)} headers compile alone")
    sys.exit(1 if failed or not headers else 0)


main()
