// The language model of examples/char_lm with its attention on the emulated device, against the same model on
// the CPU.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <cottention/reference.hpp>
#include <emulation.hpp>

#include "char_lm/device_attention.hpp"
#include "char_lm/generate.hpp"
#include "char_lm/model.hpp"
#include "char_lm/options.hpp"
#include "char_lm/qkv.hpp"
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

DeviceAttention device_attention(const Options& options) {
  const Config& config = options.model;
  return make_device_attention(config.layers,
                               {options.batch, options.context, config.heads, config.head_dim()});
}

/// Attention and its gradients by the definition in double.
class ReferenceAttention final : public Attention<float> {
 public:
  void forward(const AttentionShape& shape, std::int64_t, const float* qkv, const float* scale_logit,
               float* o) override {
    const auto out =
        cottention::reference::recurrence<P>(forward_arguments<float>(shape, qkv, scale_logit, o));
    std::copy(out.o.begin(), out.o.end(), o);
  }
  void backward(const AttentionShape& shape, std::int64_t, const float* qkv, const float* scale_logit,
                const float*, const float* dout, float* dqkv, float* dscale_logit) override {
    const auto out = cottention::reference::backward<P>({.shape = extents(shape),
                                                         .q = part(qkv, 0, shape),
                                                         .k = part(qkv, 1, shape),
                                                         .v = part(qkv, 2, shape),
                                                         .dout = {dout},
                                                         .scale_logit = scale_logit});
    const std::int64_t row = shape.heads * shape.head_dim;
    for (std::int64_t i = 0; i < shape.batch * shape.seq; ++i) {
      std::copy_n(out.dq.begin() + i * row, row, dqkv + 3 * i * row);
      std::copy_n(out.dk.begin() + i * row, row, dqkv + (3 * i + 1) * row);
      std::copy_n(out.dv.begin() + i * row, row, dqkv + (3 * i + 2) * row);
    }
    std::copy(out.dscale_logit.begin(), out.dscale_logit.end(), dscale_logit);
  }
  void start(std::int64_t) override { throw std::logic_error("no steps"); }
  void step(std::int64_t, const float*, const float*, float*) override { throw std::logic_error("no steps"); }

 private:
  using P = cottention::Problem<float, cottention::any_head_dim, cottention::Mask::causal,
                                cottention::Scale::by_key>;
};

/// One model twice, with parameters from one seed.
struct Twins {
  explicit Twins(const Options& options)
      : team(options.threads), text(CHAR_LM_TEXT, options.context), on_cpu(model(options, nullptr)) {
    DeviceAttention attention = device_attention(options);
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

TEST_CASE(
    "A model trained on the device learns and writes what it does on the CPU and by the definition in "
    "double") {
  const Options options = small_model(16);
  INFO("seed " << options.seed);
  Twins twins(options);
  const Training expected = train(options, twins.text, twins.team, *twins.on_cpu);
  const Training training = train(options, twins.text, twins.team, *twins.on_device);
  CHECK(training.last_loss < training.first_loss);
  CHECK(std::abs(training.first_loss - expected.first_loss) <= agreement_bound * expected.first_loss);
  CHECK(std::abs(training.last_loss - expected.last_loss) <= agreement_bound * expected.last_loss);
  const auto by_definition = twins.model(options, std::make_unique<ReferenceAttention>());
  const Training defined = train(options, twins.text, twins.team, *by_definition);
  CHECK(std::abs(training.first_loss - defined.first_loss) <= agreement_bound * defined.first_loss);
  CHECK(std::abs(training.last_loss - defined.last_loss) <= agreement_bound * defined.last_loss);

  const std::string prompt = twins.text.prompt(), text = generate(options, prompt, *twins.on_device).text;
  CHECK(text.size() == prompt.size() + static_cast<std::size_t>(options.generate));
  CHECK(text == generate(options, prompt, *twins.on_cpu).text);
  const auto held_out = twins.text.held_out().first(static_cast<std::size_t>(options.context));
  CHECK(compare(held_out, *twins.on_device).relative <= agreement_bound);
}

TEST_CASE("What the device cannot run is refused with the reason, and no memory stays behind") {
  using cottention::emulation::allocated_bytes;
  CHECK(device_attention(small_model(16)).attention != nullptr);
  CHECK(allocated_bytes() == 0);

  const DeviceAttention without_kernels = device_attention(small_model(12));
  CHECK(without_kernels.attention == nullptr);
  CHECK(without_kernels.description.find("fp32 12x12 causal by_key: must be one of") != std::string::npos);

  struct Restored {
    cottention::emulation::Options before = cottention::emulation::options();
    ~Restored() { cottention::emulation::options() = before; }
  } restored;
  cottention::emulation::options().shared_bytes_per_block = 1024;
  const DeviceAttention without_room = device_attention(small_model(16));
  CHECK(without_room.attention == nullptr);
  CHECK(without_room.description.find("has 1024 bytes of shared memory") != std::string::npos);
  CHECK(allocated_bytes() == 0);
}
