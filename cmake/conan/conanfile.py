"""Builds a package from the clone that this file lies in: conan create cmake/conan

Programs find it through its own cottentionConfig.cmake, which brings OpenMP where their compiler has it.
"""
import pathlib
import re

from conan import ConanFile
from conan.tools.build import check_min_cppstd
from conan.tools.cmake import CMake, CMakeToolchain
from conan.tools.files import copy


class Cottention(ConanFile):
    name = "cottention"
    license = "MIT"
    description = "Cosine attention in linear time, header-only C++20 and CUDA"
    topics = ("attention", "linear-attention", "header-only", "cuda")
    package_type = "header-library"
    settings = "os", "arch", "compiler", "build_type"
    no_copy_source = True

    def set_version(self):
        header = self._clone / "include/cottention/version.hpp"
        numbers = re.findall(r"define COTTENTION_VERSION_[A-Z]+ (\d+)$", header.read_text(encoding="utf-8"), re.MULTILINE)
        self.version = ".".join(numbers)

    @property
    def _clone(self):
        return pathlib.Path(self.recipe_folder).parent.parent

    def export_sources(self):
        for pattern in ("CMakeLists.txt", "LICENSE", "cmake/*.cmake", "cmake/*.in", "include/*"):
            copy(self, pattern, self._clone, self.export_sources_folder)

    def validate(self):
        if self.settings.get_safe("compiler.cppstd"):
            check_min_cppstd(self, 20)

    def generate(self):
        toolchain = CMakeToolchain(self)
        for part in ("TESTS", "BENCH", "EXAMPLES"):
            toolchain.cache_variables[f"COTTENTION_BUILD_{part}"] = False
        toolchain.user_presets_path = False
        toolchain.generate()

    def build(self):
        CMake(self).configure()

    def package(self):
        CMake(self).install()

    def package_id(self):
        self.info.clear()

    def package_info(self):
        self.cpp_info.bindirs = []
        self.cpp_info.libdirs = []
        self.cpp_info.builddirs = ["share/cmake/cottention"]
        self.cpp_info.set_property("cmake_find_mode", "none")
