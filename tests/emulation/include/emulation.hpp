// Runs kernels on the CPU: what a test says to the emulator, and what it can ask of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <emulation/tensor_cores.hpp>

namespace cottention::emulation {

/// What a kernel did that the hardware forbids or leaves undefined. The text starts with
/// "file:line: block (x,y,z) warp w lane l: ".
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Which of the threads that can run does. A thread runs until it must wait for others; `random` may also
/// leave it at a load or a store.
enum class Schedule { forward, reverse, random };

/// When an asynchronous copy or product takes effect: at once, when it is waited for, or one or the other.
enum class Copies { eager, late, random };

/// What fresh shared and global memory holds.
enum class Fresh { nan, zero };

struct Options {
  Schedule schedule = Schedule::forward;
  Copies copies = Copies::late;
  std::uint64_t seed = 1;
  Fresh fresh = Fresh::nan;

  int devices = 1;  ///< or none
  // The device that the runtime reports. Each combination is one of its own, with another number.
  int compute_capability = 90;  ///< 10 major + minor
  int multiprocessors = 132;
  std::size_t shared_bytes_per_block = 227 * 1024;  ///< the most that a block may ask for
  /// What kernels are compiled for, 10 major + minor, as if by `nvcc -arch`; 0: the device's own.
  int compiled_for = 0;
  bool compiled_for_sm90a = true;  ///< where kernels are compiled for 9.0 at all
  /// Which of the device's contexts is current; 0: none yet, and the first call that needs one makes it 1.
  std::uint64_t context = 1;
  TensorCores tensor_cores = tensor_cores_from_environment();
};

/// In force from the next launch on.
Options& options();

/// Schedule, copies and seed in words.
std::string describe(const Options&);

/// Counts of what a launch did.
struct Statistics {
  // Bytes asked for: what a lane reads twice counts twice. Sectors are the distinct aligned 32 bytes that
  // one instruction of a warp touches.
  std::uint64_t global_bytes_read = 0, global_bytes_written = 0;
  std::uint64_t global_sectors_read = 0, global_sectors_written = 0;
  // Passes through the 32 banks of shared memory, and how many of them conflicts caused.
  std::uint64_t shared_bytes_read = 0, shared_bytes_written = 0;
  std::uint64_t shared_wavefronts = 0, shared_conflicts = 0;
  // Instructions of warps (of warpgroups: warpgroup_products).
  std::uint64_t products = 0, warpgroup_products = 0, matrix_loads = 0;
  std::uint64_t barriers = 0;  ///< times that one opened
  std::uint64_t blocks = 0, switches = 0;

  Statistics& operator+=(const Statistics&);
};

/// A place in a kernel that accessed memory.
struct Place {
  std::string file;
  unsigned line = 0;
  std::uint64_t wavefronts = 0, conflicts = 0;
};

struct Launch {
  std::string kernel;
  Statistics statistics;
  std::vector<Place> conflicts;  ///< the places whose accesses to shared memory conflict, the worst first
};

/// Every launch since the last `clear_statistics`, and their sum.
const std::vector<Launch>& launches();
Statistics statistics();
void clear_statistics();

/// Calls of the runtime that ask about devices and kernels.
struct RuntimeCalls {
  int current_device = 0;       ///< cudaGetDevice
  int device_attributes = 0;    ///< cudaDeviceGetAttribute
  int function_attributes = 0;  ///< cudaFuncGetAttributes and cudaFuncSetAttribute
};
/// Since the process started.
RuntimeCalls runtime_calls();

/// Bytes of device memory that are allocated now.
std::size_t allocated_bytes();

/// Whether this build has the race detector: then every race of a launch is an Error, whatever the schedule.
bool detects_races();

/// Puts the options back that were in force.
struct RestoredOptions {
  Options before = options();
  ~RestoredOptions() { options() = before; }
};

/// Calls `body(options)` in every schedule with every time of copies, with those options in force.
template <class Body>
void for_each_schedule(Body&& body) {
  const RestoredOptions restored;
  std::uint64_t seed = 1;
  for (const Schedule schedule : {Schedule::forward, Schedule::reverse, Schedule::random})
    for (const Copies copies : {Copies::late, Copies::eager, Copies::random}) {
      options() = restored.before;
      options().schedule = schedule;
      options().copies = copies;
      options().seed = restored.before.seed + seed++;
      body(std::as_const(options()));
    }
}

/// Calls `body(cores)` with each of the tensor cores that there are in force.
template <class Body>
void for_each_tensor_cores(Body&& body) {
  const RestoredOptions restored;
  for (const TensorCores& cores : {hopper, ampere}) {
    options().tensor_cores = cores;
    body(cores);
  }
}

}  // namespace cottention::emulation
