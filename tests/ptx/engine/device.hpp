// The device that the stand-in of the CUDA runtime has: its kernels and their launches.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "decode.hpp"
#include "images.hpp"
#include "machine.hpp"

namespace cottention::ptx {

/// The PTX of one translation unit.
struct Unit {
  std::vector<std::string> images;
  std::unique_ptr<Module> module;  ///< from the first use on
  Addresses globals;
};

struct Kernel {
  Unit* unit = nullptr;
  std::string name;
  std::size_t most_dynamic_shared_bytes = 48 * 1024;
  std::unique_ptr<Program> program;  ///< from the first use on
};

class Device {
 public:
  static Device& instance();

  Unit* add_unit(const void* fat_binary);
  void add_kernel(Unit* unit, const void* host_function, const char* name);
  /// Null if there is none.
  Kernel* kernel(const void* host_function);
  /// Null where the program has no PTX for the device.
  const Program* program(Kernel& kernel);

  /// That of the first unit's PTX; 80 without any.
  int compute_capability() const { return compute_capability_; }
  /// CUDA C++ Programming Guide, "Technical Specifications per Compute Capability".
  std::size_t shared_bytes_per_block() const { return (compute_capability_ >= 90 ? 227 : 163) * 1024; }

  std::recursive_mutex mutex;  ///< host threads may call at the same time

 private:
  int compute_capability_ = 80;
  bool has_code_ = false;
  std::vector<std::unique_ptr<Unit>> units_;
  std::map<const void*, Kernel> kernels_;
};

}  // namespace cottention::ptx
