// Adam and the training loop.
#pragma once

#include <cstdint>
#include <string>

#include "model.hpp"
#include "options.hpp"
#include "text.hpp"

namespace char_lm {

struct Training {
  double first_loss, last_loss;  // held out, bits per byte
  double seconds;
  Profile profile;  // of the training steps, evaluation aside
};

/// Trains the model as the options say, showing progress. Throws std::runtime_error if the loss is not
/// finite.
Training train(const Options& options, const Text& text, Team& team, Model<float>& model);

}  // namespace char_lm
