// The command line.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "config.hpp"

namespace char_lm {

/// Something the user gave cannot be used; the message says what and why.
struct BadInput : std::runtime_error {
  using std::runtime_error::runtime_error;
};

enum class Action { train, self_test, help };

/// Where attention runs. `automatic`: on a GPU if that can be.
enum class Device { cpu, gpu, automatic };

struct Options {
  Action action = Action::train;
  std::string file;  // empty: the text that ships with the project
  Config model{};
  Device device = Device::automatic;
  std::int64_t steps = 2400;
  std::int64_t context = 256;
  std::int64_t batch = 4;
  std::string prompt;  // empty: from the held-out text
  std::int64_t generate = 1000;
  double temperature = 0.7;
  double top_p = 0.95;
  std::uint64_t seed = 1;
  int threads = 0;
  std::string save_loss;  // empty: no file
};

/// Throws BadInput.
Options parse_options(int argc, char** argv);

std::string usage(const std::string& program);

}  // namespace char_lm
