// A small byte-level language model with cosine attention: trains on a text, then generates from it in
// constant memory. `--attention softmax` trains the same model with ordinary attention. See --help.
#include <cinttypes>
#include <cstdio>
#include <exception>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <utility>

#include "device_attention.hpp"
#include "generate.hpp"
#include "model.hpp"
#include "options.hpp"
#include "self_test.hpp"
#include "team.hpp"
#include "text.hpp"
#include "train.hpp"

#ifndef CHAR_LM_TEXT
#define CHAR_LM_TEXT "examples/char_lm/text/persuasion.txt"
#endif

namespace char_lm {
namespace {

/// 1234567 as 1,234,567.
std::string grouped(std::int64_t value) {
  const std::string digits = std::to_string(value);
  std::string text;
  for (std::size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) text += ',';
    text += digits[i];
  }
  return text;
}

void print_training(const Options& options, const Training& t) {
  const double bytes = static_cast<double>(options.steps * options.batch * options.context);
  std::printf("\nheld-out loss      %.3f bits per byte, from %.3f before training\n", t.last_loss,
              t.first_loss);
  std::printf("training           %.1f s, %s bytes per second\n", t.seconds,
              grouped(static_cast<std::int64_t>(bytes / t.seconds)).c_str());
  std::printf("                   matrix products %.1f s (%.0f GFLOP/s), attention %.1f s, the rest %.1f s\n",
              t.profile.multiply_seconds, t.profile.multiply_flop / t.profile.multiply_seconds * 1e-9,
              t.profile.attention_seconds,
              t.seconds - t.profile.multiply_seconds - t.profile.attention_seconds);
}

void print_memory(const Config& config, const Generation& g) {
  const std::int64_t state = cosine_state_bytes(config), per_byte = softmax_cache_bytes(config, 1);
  std::printf("generation         %s bytes per second, one at a time\n",
              grouped(static_cast<std::int64_t>(g.bytes_per_second)).c_str());
  const bool cosine = config.attention == AttentionKind::cosine;
  std::printf("%s cosine state     %s bytes at any length (fp32, all blocks)\n", cosine ? "*" : " ",
              grouped(state).c_str());
  std::printf("%s softmax KV cache %s bytes at this length of %s (fp32, all blocks)\n", cosine ? " " : "*",
              grouped(per_byte * g.bytes).c_str(), grouped(g.bytes).c_str());
  std::printf("                   the cache is the larger from %s bytes of text on\n",
              grouped(state / per_byte + 1).c_str());
  std::printf("                   the convolutions remember %s bytes besides, with either\n",
              grouped(convolution_bytes(config)).c_str());
}

/// The attention that --device asks for: none where it is the CPU's.
DeviceAttention choose_attention(const Options& options) {
  const Config& config = options.model;
  if (options.device == Device::cpu) return {nullptr, "--device cpu"};
  DeviceAttention chosen{nullptr, "only cosine attention has kernels for GPUs"};
  if (config.attention == AttentionKind::cosine)
    chosen = make_device_attention(config.layers,
                                   {options.batch, options.context, config.heads, config.head_dim()});
  if (options.device == Device::gpu && chosen.attention == nullptr)
    throw BadInput("--device = 'gpu': " + chosen.description);
  return chosen;
}

int run(const Options& options) {
  double seconds = 0;
  std::optional<Stopwatch> stopwatch(seconds);
  const Text text(options.file.empty() ? CHAR_LM_TEXT : options.file, options.context);
  Team team(options.threads);
  DeviceAttention on_device = choose_attention(options);
  const bool on_gpu = on_device.attention != nullptr;
  Model<float> model(options.model, team, options.batch, options.context, std::move(on_device.attention));
  model.parameters.initialise(options.seed);
  const Config& config = options.model;
  std::printf("text               %s bytes to train on, %s held out\n",
              grouped(static_cast<std::int64_t>(text.training().size())).c_str(),
              grouped(static_cast<std::int64_t>(text.held_out().size())).c_str());
  std::printf("model              %s attention, %" PRId64 " blocks, dim %" PRId64 ", %" PRId64
              " heads of %" PRId64 ", %s parameters\n",
              to_string(config.attention), config.layers, config.dim, config.heads, config.head_dim(),
              grouped(static_cast<std::int64_t>(model.parameters.values.size())).c_str());
  std::printf("device             %s (%s)%s\n", on_gpu ? "GPU for attention" : "CPU",
              on_device.description.c_str(), on_gpu ? ", CPU for all else" : "");
  std::printf("training           %" PRId64 " steps of %" PRId64 " x %" PRId64 " bytes, %d threads\n\n",
              options.steps, options.batch, options.context, team.threads());

  const Training training = train(options, text, team, model);
  std::printf("\n");
  const Generation generation =
      generate(options, options.prompt.empty() ? text.prompt() : options.prompt, model);
  const Agreement agreement =
      compare(text.held_out().first(static_cast<std::size_t>(options.context)), model);

  print_training(options, training);
  print_memory(config, generation);
  const bool agree = agreement.relative <= agreement_bound;  // false for NaN
  std::printf(
      "parallel = steps   over %s bytes: logits differ by %.1e relative RMS (bound %.0e), %.1e at most: %s\n",
      grouped(agreement.bytes).c_str(), agreement.relative, agreement_bound, agreement.largest,
      agree ? "ok" : "WRONG");
  stopwatch.reset();
  std::printf("in all             %.1f s\n", seconds);
  const bool fell = training.last_loss < training.first_loss;
  if (!fell) std::fprintf(stderr, "char_lm: the held-out loss did not fall\n");
  return agree && fell ? 0 : 1;
}

}  // namespace
}  // namespace char_lm

int main(int argc, char** argv) {
  using namespace char_lm;
  try {
    const Options options = parse_options(argc, argv);
    switch (options.action) {
      case Action::help:
        std::printf("%s", usage(argv[0]).c_str());
        return 0;
      case Action::self_test:
        return self_test(options.model.attention, options.threads) ? 0 : 1;
      case Action::train:
        return run(options);
    }
  } catch (const BadInput& error) {
    std::fprintf(stderr, "char_lm: %s\nTry --help.\n", error.what());
    return 2;
  } catch (const std::bad_alloc&) {
    std::fprintf(stderr, "char_lm: not enough memory for these options\n");
    return 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "char_lm: %s\n", error.what());
    return 1;
  }
}
