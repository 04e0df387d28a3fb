#include "device.hpp"

#include <cstring>

namespace cottention::ptx {

Device& Device::instance() {
  static Device device;
  return device;
}

Unit* Device::add_unit(const void* fat_binary) {
  const std::lock_guard alone(mutex);
  units_.push_back(std::make_unique<Unit>());
  units_.back()->images = ptx_images(fat_binary);
  if (!has_code_ && !units_.back()->images.empty()) {
    compute_capability_ = target_of(units_.back()->images.front());
    has_code_ = true;
  }
  return units_.back().get();
}

void Device::add_kernel(Unit* unit, const void* host_function, const char* name) {
  const std::lock_guard alone(mutex);
  Kernel& kernel = kernels_[host_function];
  kernel.unit = unit;
  kernel.name = name;
}

Kernel* Device::kernel(const void* host_function) {
  const auto found = kernels_.find(host_function);
  return found == kernels_.end() ? nullptr : &found->second;
}

const Program* Device::program(Kernel& kernel) {
  if (kernel.program) return kernel.program.get();
  Unit& unit = *kernel.unit;
  if (!unit.module) {
    for (std::string& text : unit.images)
      if (target_of(text) == compute_capability_) {
        unit.module = std::make_unique<Module>(std::move(text));
        break;
      }
    if (!unit.module) return nullptr;
    unit.images.clear();
    for (const auto& [name, variable] : unit.module->variables()) {
      if (variable.space != Space::global) continue;
      const std::uint64_t address = global_memory().allocate(static_cast<std::size_t>(variable.bytes));
      std::uint8_t* const bytes =
          global_memory().find(address, static_cast<std::size_t>(variable.bytes))->bytes;
      std::memset(bytes, 0, static_cast<std::size_t>(variable.bytes));
      std::copy(variable.initial.begin(), variable.initial.end(), bytes);
      unit.globals[name] = address;
    }
  }
  if (!unit.module->has_function(kernel.name)) return nullptr;
  kernel.program = std::make_unique<Program>(decode(*unit.module, kernel.name, unit.globals));
  return kernel.program.get();
}

}  // namespace cottention::ptx
