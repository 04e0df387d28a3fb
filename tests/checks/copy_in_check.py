#!/usr/bin/env python3
"""The library as a folder that was copied: one compiler command, no CMake, and the program runs.

usage: copy_in_check.py INCLUDE_DIR CONSUMER_DIR COMPILER
"""
import pathlib
import shutil
import subprocess
import sys
import tempfile


def main():
    include_dir, consumer_dir, compiler = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder)
        shutil.copytree(include_dir, copy / "include")
        for source in pathlib.Path(consumer_dir).glob("*.[ch]pp"):
            shutil.copy(source, copy)
        command = [compiler, "-std=c++20", "-O1", "-Iinclude", *sorted(p.name for p in copy.glob("*.cpp")), "-o", "consumer"]
        print(" ".join(command), flush=True)
        subprocess.run(command, cwd=copy, check=True)
        subprocess.run([copy / "consumer"], check=True)


try:
    main()
except subprocess.CalledProcessError as error:
    sys.exit(str(error))
