// The PTX that nvcc puts into a program.
#pragma once

#include <string>
#include <vector>

namespace cottention::ptx {

/// The texts of PTX in a fat binary, as __cudaRegisterFatBinary gets it. Throws Error where one is
/// compressed.
std::vector<std::string> ptx_images(const void* wrapper);

/// 80 for a text with .target sm_80.
int target_of(const std::string& ptx);

}  // namespace cottention::ptx
