// What a CUDA call asks of the runtime, and how it is refused where kernels do not run. The device is the
// emulator's.
#pragma once

#include <string>

#include <cottention/status.hpp>
#include <emulation.hpp>

#include "support/catch.hpp"

namespace support {

/// The emulator's options as they were, when it goes.
struct RestoreOptions {
  cottention::emulation::Options before = cottention::emulation::options();
  ~RestoreOptions() { cottention::emulation::options() = before; }
};

/// `run()` makes one call and returns its CallStatus.
template <class Run>
void check_refused_without_code(Run run) {
  namespace emulation = cottention::emulation;
  const auto check = [&run](int capability, int compiled_for, const std::string& reason) {
    const RestoreOptions restore;
    emulation::options().compute_capability = capability;
    emulation::options().compiled_for = compiled_for;
    emulation::clear_statistics();
    const cottention::CallStatus status = run();
    CHECK(status.code == cottention::StatusCode::unsupported);
    CHECK(std::string(status.reason) == reason);
    CHECK(emulation::launches().empty());
  };
  check(75, 75, "device: has compute capability 7.5: must be at least 8.0");
  check(
      90, 75,
      "device: has compute capability 9.0, and no code for 8.0 or above that it runs is compiled in. Remedy: "
      "CMAKE_CUDA_ARCHITECTURES 90a, or nvcc -arch=sm_90a, whose default is less");
  check(121, 75,
        "device: has compute capability 12.1, and no code for 8.0 or above that it runs is compiled in. "
        "Remedy: CMAKE_CUDA_ARCHITECTURES 121, or nvcc -arch=sm_121, whose default is less");
}

/// A second call asks for the current device alone; in another context kernels are prepared again.
template <class Run>
void check_asks_once(Run run) {
  namespace emulation = cottention::emulation;
  const RestoreOptions restore;
  const auto check = [&run](int queries_at_least, int queries_at_most) {
    const emulation::RuntimeCalls before = emulation::runtime_calls();
    const cottention::CallStatus status = run();
    INFO(status.reason);
    CHECK(status.ok());
    const emulation::RuntimeCalls after = emulation::runtime_calls();
    CHECK(after.current_device - before.current_device == 1);
    CHECK(after.device_attributes == before.device_attributes);
    CHECK(after.function_attributes - before.function_attributes >= queries_at_least);
    CHECK(after.function_attributes - before.function_attributes <= queries_at_most);
  };
  (void)run();
  check(0, 0);
  emulation::options().context = 2;
  check(1, 1000);
  check(0, 0);
  emulation::options().context = 1;
  check(0, 0);
  emulation::options().context = 0;  // a thread that has called nothing yet: the call makes the context 1
  check(0, 1000);
  check(0, 0);
}

}  // namespace support
