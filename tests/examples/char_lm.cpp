// The language model of examples/char_lm with its attention on the emulated device, against the same model on
// the CPU.
#include <cmath>
#include <cstdint>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <emulation.hpp>

#include "char_lm/cosine_attention.hpp"
#include "char_lm/device_attention.hpp"
#include "char_lm/generate.hpp"
#include "char_lm/model.hpp"
#include "char_lm/options.hpp"
#include "char_lm/team.hpp"
#include "char_lm/text.hpp"
#include "char_lm/train.hpp"
#include "support/catch.hpp"

using namespace char_lm;

namespace {

Options small_model(std::int64_t head_dim) {
  Options options;
  options.model = {.attention = AttentionKind::cosine, .layers = 2, .dim = 2 * head_dim, .heads = 2};
  options.steps = 10;
  options.context = 70;
  options.batch = 2;
  options.generate = 100;
  options.threads = 1;
  return options;
}

DeviceAttention device_attention(const Options& options, Team& team) {
  const Config& config = options.model;
  return make_device_attention(
      config.layers, {options.batch, options.context, config.heads, config.head_dim()},
      std::make_unique<CosineAttention<float>>(team, config.layers, config.heads, config.head_dim()));
}

/// One model twice, with parameters from one seed.
struct Twins {
  explicit Twins(const Options& options)
      : team(options.threads), text(CHAR_LM_TEXT, options.context), on_cpu(model(options, nullptr)) {
    DeviceAttention attention = device_attention(options, team);
    INFO(attention.description);
    REQUIRE(attention.attention != nullptr);
    on_device = model(options, std::move(attention.attention));
  }

  std::unique_ptr<Model<float>> model(const Options& options, std::unique_ptr<Attention<float>> attention) {
    auto made = std::make_unique<Model<float>>(options.model, team, options.batch, options.context,
                                               std::move(attention));
    made->parameters.initialise(options.seed);
    // Heads of their own m: all begin with the same.
    for (const LayerParameters<float>& layer : made->parameters.layers)
      for (std::int64_t h = 0; h < options.model.heads; ++h)
        layer.scale_logit[h] = static_cast<float>(h) - 0.5f;
    return made;
  }

  Team team;
  Text text;
  std::unique_ptr<Model<float>> on_cpu, on_device;
};

double relative_difference(std::span<const float> x, std::span<const float> expected) {
  REQUIRE(x.size() == expected.size());
  double difference = 0, size = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    difference += std::pow(static_cast<double>(x[i]) - static_cast<double>(expected[i]), 2);
    size += std::pow(static_cast<double>(expected[i]), 2);
  }
  return std::sqrt(difference / size);
}

}  // namespace

TEST_CASE("Logits and gradients with attention on the device are the CPU's within rounding") {
  for (const std::int64_t head_dim : {16, 32, 64, 128}) {
    const Options options = small_model(head_dim);
    INFO("head_dim " << head_dim << ", seed " << options.seed);
    Twins twins(options);
    Batch batch(options.batch, options.context);
    std::mt19937_64 random(options.seed);
    twins.text.sample(random, batch);
    const auto compute = [&](Model<float>& model) {
      const auto view = model.forward(options.batch, options.context, batch.bytes.data());
      std::vector<float> logits(view.begin(), view.end());
      model.loss(batch.bytes.data(), batch.targets.data(), Model<float>::Want::gradients);
      return logits;
    };
    const std::vector<float> expected = compute(*twins.on_cpu), logits = compute(*twins.on_device);
    CHECK(relative_difference(logits, expected) <= agreement_bound);
    CHECK(relative_difference(twins.on_device->gradients.values, twins.on_cpu->gradients.values) <=
          agreement_bound);
  }
}

TEST_CASE("A model trained on the device learns and writes what it does on the CPU") {
  const Options options = small_model(16);
  INFO("seed " << options.seed);
  Twins twins(options);
  const Training expected = train(options, twins.text, twins.team, *twins.on_cpu);
  const Training training = train(options, twins.text, twins.team, *twins.on_device);
  CHECK(training.last_loss < training.first_loss);
  CHECK(std::abs(training.first_loss - expected.first_loss) <= agreement_bound * expected.first_loss);
  CHECK(std::abs(training.last_loss - expected.last_loss) <= agreement_bound * expected.last_loss);

  const std::string prompt = twins.text.prompt(), text = generate(options, prompt, *twins.on_device).text;
  CHECK(text.size() == prompt.size() + static_cast<std::size_t>(options.generate));
  CHECK(text == generate(options, prompt, *twins.on_cpu).text);
  const auto held_out = twins.text.held_out().first(static_cast<std::size_t>(options.context));
  CHECK(compare(held_out, *twins.on_device).relative <= agreement_bound);
}

TEST_CASE("What the device cannot run is refused with the reason, and no memory stays behind") {
  using cottention::emulation::allocated_bytes;
  Team team(1);
  CHECK(device_attention(small_model(16), team).attention != nullptr);
  CHECK(allocated_bytes() == 0);

  const DeviceAttention without_kernels = device_attention(small_model(12), team);
  CHECK(without_kernels.attention == nullptr);
  CHECK(without_kernels.description.find("fp32 12x12 causal by_key: must be one of") != std::string::npos);

  struct Restored {
    cottention::emulation::Options before = cottention::emulation::options();
    ~Restored() { cottention::emulation::options() = before; }
  } restored;
  cottention::emulation::options().shared_bytes_per_block = 1024;
  const DeviceAttention without_room = device_attention(small_model(16), team);
  CHECK(without_room.attention == nullptr);
  CHECK(without_room.description.find("has 1024 bytes of shared memory") != std::string::npos);
  CHECK(allocated_bytes() == 0);
}
