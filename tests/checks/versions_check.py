#!/usr/bin/env python3
"""README, run, what it takes from PyPI, CMakeLists.txt and requirements.hpp name the same oldest compilers.

usage: versions_check.py ROOT
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(sys.argv[1])
# What is named, and where: each pattern finds its version.
NAMED = {
    "GCC": {"README.md": r"GCC (\d+) and newer", "run": r"^oldest_gxx=(\d+)", "include/cottention/requirements.hpp": r"__GNUC__ < (\d+)"},
    "Clang": {"README.md": r"Clang (\d+) and newer", "run": r"clang\+\+ (\d+) or newer",
              "include/cottention/requirements.hpp": r"__clang_major__ < (\d+)"},
    "nvcc": {"README.md": r"nvcc (\d+\.\d+)", "tests/run/pypi.py": r"^OLDEST_NVCC = \"(\d+\.\d+)\"", "include/cottention/requirements.hpp": r"needs nvcc (\d+\.\d+)"},
    "CMake": {"README.md": r"CMake (\d+\.\d+) and newer", "run": r"^oldest_cmake=(\d+\.\d+)",
              "CMakeLists.txt": r"cmake_minimum_required\(VERSION (\d+\.\d+)"},
}
failed = []
for what, places in NAMED.items():
    found = {}
    for file, pattern in places.items():
        match = re.search(pattern, (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)
        found[file] = match.group(1) if match else "none"
    if len(set(found.values())) != 1 or "none" in found.values():
        failed.append(f"{what}: {found}")
print("\n".join(failed) if failed else f"the oldest {', '.join(NAMED)} are the same everywhere")
sys.exit(1 if failed else 0)
