// Whether kernels read and write shared memory without bank conflicts.
#pragma once

#include <string>

#include <emulation.hpp>

#include "support/catch.hpp"

namespace support {

/// Of all launches since the last clear_statistics().
inline void check_conflicts() {
  std::string worst;
  for (const auto& launch : cottention::emulation::launches())
    for (const auto& place : launch.conflicts)
      worst += place.file + ':' + std::to_string(place.line) + ' ' + std::to_string(place.conflicts) + '/' +
               std::to_string(place.wavefronts) + '\n';
  INFO(worst);
  const auto counted = cottention::emulation::statistics();
  CHECK(static_cast<double>(counted.shared_conflicts) <=
        0.03 * static_cast<double>(counted.shared_wavefronts));
}

}  // namespace support
