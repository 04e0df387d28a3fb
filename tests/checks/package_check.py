#!/usr/bin/env python3
"""What packages the library: pkg-config, vcpkg, conan, and the version that all of them name.

usage: package_check.py versions ROOT
       package_check.py pkg-config PREFIX COMPILER FOLDER      PREFIX: an installation
       package_check.py vcpkg ROOT CMAKE FOLDER
       package_check.py conan ROOT CMAKE FOLDER                by the conan of PYTHONPATH or else of the PATH
       package_check.py architectures ROOT CMAKE NVCC PREFIX FOLDER

FOLDER is emptied first. Exit status 77 where the program that it takes is not there.
"""
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

ABSENT = 77
# Finds the package, and says which.
FIND = """cmake_minimum_required(VERSION 3.22)
project(consumer LANGUAGES CXX)
find_package(cottention {version} CONFIG REQUIRED)
get_target_property(include cottention::cottention INTERFACE_INCLUDE_DIRECTORIES)
if(NOT EXISTS ${{include}}/cottention/cpu.hpp OR NOT cottention_VERSION VERSION_EQUAL {version})
  message(FATAL_ERROR "${{include}} is not that of cottention {version}")
endif()
message(STATUS "found: ${{cottention_DIR}}")
"""
# Finds the package twice, or has it as a subfolder, with CUDA or without a language.
FIND_TWICE = """cmake_minimum_required(VERSION 3.22)
project(consumer LANGUAGES ${LANGUAGES})
if(SOURCE)
  add_subdirectory(${SOURCE} cottention)
else()
  add_subdirectory(first)
  add_subdirectory(second)
endif()
"""
# What CMAKE_CUDA_ARCHITECTURES is, and what a project is told to write instead; "": it is told nothing.
ARCHITECTURES = [("80;90", "80;90a"), ("90-real", "90a-real"), ("all-major", "80;90a;100, or what else is wanted with 90a"),
                 ("90;90a", ""), ("80", ""), ("100", "")]


def run(*command, **options):
    print(" ".join(map(str, command)), flush=True)
    return subprocess.run(list(map(str, command)), check=True, **options)


def version_of(root):
    text = (root / "include/cottention/version.hpp").read_text(encoding="utf-8")
    return ".".join(re.findall(r"define COTTENTION_VERSION_(?:MAJOR|MINOR|PATCH) (\d+)$", text, re.MULTILINE))


def emptied(folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def find(cmake, folder, version, inside, *options):
    """Configures a project that finds the package, which must lie below the folder `inside`."""
    emptied(folder / "consumer")
    (folder / "consumer/CMakeLists.txt").write_text(FIND.format(version=version), encoding="utf-8")
    said = run(cmake, "-S", folder / "consumer", "-B", folder / "consumer/build", *options, text=True, stdout=subprocess.PIPE)
    place = re.search("found: (.*)", said.stdout)[1]
    if not pathlib.Path(place).resolve().is_relative_to(inside.resolve()):
        sys.exit(f"found {place}, not that in {inside}")


def versions(root):
    right = version_of(root)
    minor = right.rpartition(".")[0]
    found = {
        "CITATION.cff": re.findall(r"^version: (.+)$", (root / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE),
        "vcpkg.json": [json.loads((root / "cmake/vcpkg/cottention/vcpkg.json").read_text(encoding="utf-8"))["version"]],
        "CHANGELOG.md": re.findall("^## (.+)$", (root / "docs/CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)[:1],
    }
    wrong = [f"{name} has {value}, version.hpp {right}" for name, value in found.items() if value != [right]]
    for file in [root / "README.md", *sorted((root / "docs").glob("*.md")), *sorted((root / "tests").rglob("CMakeLists.txt"))]:
        for asked in re.findall(r"find_package\(cottention ([\d.]+)", file.read_text(encoding="utf-8")):
            if asked not in (minor, "0.0"):  # 0.0 is what a test has refused
                wrong.append(f"{file.relative_to(root)} asks for {asked}, version.hpp has {right}")
    print("\n".join(wrong) if wrong else f"{right} everywhere")
    return 1 if wrong else 0


def pkg_config(prefix, compiler, folder):
    program = shutil.which("pkg-config")
    if program is None:
        return ABSENT
    moved = emptied(folder) / "moved"
    shutil.copytree(prefix, moved)
    environment = {**os.environ, "PKG_CONFIG_PATH": str(moved / "share/pkgconfig")}

    def ask(*question):
        return run(program, *question, "cottention", env=environment, text=True, stdout=subprocess.PIPE).stdout.split()

    source = folder / "program.cpp"
    source.write_text("#include <cottention/problem.hpp>\n#include <cstdio>\n"
                      'int main() { std::printf("%d.%d.%d\\n", COTTENTION_VERSION_MAJOR, COTTENTION_VERSION_MINOR,\n'
                      "                         COTTENTION_VERSION_PATCH); }\n", encoding="utf-8")
    flags = ask("--cflags", "--libs")
    if not all(pathlib.Path(flag[2:]).resolve().is_relative_to(moved.resolve()) for flag in flags):
        print(f"{flags} lie outside {moved}")
        return 1
    run(compiler, "-std=c++20", *ask("--variable=openmp"), *flags, source, "-o", folder / "program")
    said = run(folder / "program", text=True, stdout=subprocess.PIPE).stdout.split()
    print(f"the program has {said}, the package {ask('--modversion')}")
    return 0 if said == ask("--modversion") else 1


def vcpkg(root, cmake, folder):
    emptied(folder)
    run(cmake, f"-DPORTFILE={root}/cmake/vcpkg/cottention/portfile.cmake", "-DPORT=cottention",
        f"-DCURRENT_PACKAGES_DIR={folder}/packages", f"-DCURRENT_BUILDTREES_DIR={folder}/buildtrees",
        "-P", root / "tests/package/vcpkg/functions.cmake", stdout=subprocess.DEVNULL)
    shutil.move(folder / "packages", folder / "installed")
    find(cmake, folder, version_of(root), folder / "installed", f"-DCMAKE_PREFIX_PATH={folder}/installed")
    return 0


def conan(root, cmake, folder):
    command = [sys.executable, "-m", "conans.conan"]
    if subprocess.run([*command, "--version"], capture_output=True, check=False).returncode != 0:
        command = [shutil.which("conan")]
        if command == [None]:
            return ABSENT
    emptied(folder)
    environment = {**os.environ, "CONAN_HOME": str(folder / "home")}
    version = version_of(root)
    for arguments in (["profile", "detect"], ["create", root / "cmake/conan", "-s", "compiler.cppstd=20"],
                      ["install", f"--requires=cottention/{version}", "-g", "CMakeToolchain", "-g", "CMakeDeps", "-s",
                       "compiler.cppstd=20", "-of", folder / "generated"]):
        run(*command, *arguments, env=environment, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    find(cmake, folder, version, folder / "home", "-DCMAKE_BUILD_TYPE=Release",
         f"-DCMAKE_TOOLCHAIN_FILE={folder}/generated/conan_toolchain.cmake")
    return 0


def architectures(root, cmake, nvcc, prefix, folder):
    emptied(folder)
    (folder / "CMakeLists.txt").write_text(FIND_TWICE, encoding="utf-8")
    for name in ("first", "second"):
        (folder / name).mkdir()
        (folder / name / "CMakeLists.txt").write_text("find_package(cottention CONFIG REQUIRED ${QUIET})\n", encoding="utf-8")

    def wrong(of, told, *options):
        said = run(cmake, "-S", folder, "-B", folder / "build", f"-DCMAKE_CUDA_ARCHITECTURES={of}", *options, text=True,
                   stdout=subprocess.PIPE).stdout
        remedies = re.findall("-- cottention: .* wgmma. Remedy: CMAKE_CUDA_ARCHITECTURES=(.*)", said)
        return [] if remedies == [told] * bool(told) else [f"{of} {options}: {remedies}, not {told}\n{said}"]

    # Of one build folder, where the compiler is looked at once.
    failed = wrong("90", "", "-DLANGUAGES=NONE", f"-DCMAKE_PREFIX_PATH={prefix}", "-DCOTTENTION_OPENMP=OFF")
    for of, told in ARCHITECTURES:
        failed += wrong(of, told, "-DLANGUAGES=CUDA", f"-DCMAKE_CUDA_COMPILER={nvcc}")
    failed += wrong("90", "", "-DQUIET=QUIET")
    failed += wrong("90", "90a", f"-DSOURCE={root}")
    print("\n".join(failed))
    return len(failed)


def main():
    kinds = {"versions": versions, "pkg-config": pkg_config, "vcpkg": vcpkg, "conan": conan, "architectures": architectures}
    if len(sys.argv) < 3 or sys.argv[1] not in kinds:
        sys.exit(__doc__)
    try:
        sys.exit(kinds[sys.argv[1]](*map(pathlib.Path, sys.argv[2:])))
    except subprocess.CalledProcessError as error:
        sys.exit(f"{error}\n{error.stdout or ''}")


main()
