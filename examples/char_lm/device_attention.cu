#include "device_attention.hpp"

#include <cstddef>
#include <span>
#include <stdexcept>
#include <utility>
#include <vector>

#include <cottention/owned_workspace.cuh>

#include "../device_support.hpp"
#include "qkv.hpp"

namespace char_lm {
namespace {

using cottention::HeadDim, cottention::CallStatus;

/// The head dimensions that there are kernels for.
using Compiled = cottention::ProblemProduct<
    cottention::Elements<float>,
    cottention::HeadDims<HeadDim{16, 16}, HeadDim{32, 32}, HeadDim{64, 64}, HeadDim{128, 128}>,
    cottention::Masks<cottention::Mask::causal>, cottention::Scales<cottention::Scale::by_key>>;

void check(const CallStatus& status) {
  if (!status) throw std::runtime_error(status.reason);
}

/// q, k and v are uploaded for every call and its outputs fetched; only the states that steps go on from
/// stay.
template <cottention::AnyProblem P>
class OnDevice final : public Attention<float> {
 public:
  OnDevice(std::int64_t layers, const AttentionShape& largest) : heads_(largest.heads) {
    check(stream_.create());
    check(h_.reserve(static_cast<std::size_t>(layers * state())));
    check(count_.reserve(static_cast<std::size_t>(layers)));
  }

  void forward(const AttentionShape& shape, std::int64_t, const float* qkv, const float* scale_logit,
               float* o) override {
    const std::int64_t rows = shape.batch * shape.seq;
    upload(rows, qkv, scale_logit);
    const auto arguments = forward_arguments<float>(shape, qkv_.data(), scale_logit_.data(), o_.data());
    check(cottention::forward<P>(arguments, workspace_, stream_.get()));
    download(rows, o);
  }

  void backward(const AttentionShape& shape, std::int64_t, const float* qkv, const float* scale_logit,
                const float*, const float* dout, float* dqkv, float* dscale_logit) override {
    const std::int64_t rows = shape.batch * shape.seq;
    upload(rows, qkv, scale_logit);
    check(dout_.upload({dout, elements(rows)}, stream_));
    check(dqkv_.reserve(3 * elements(rows)));
    check(dscale_logit_.reserve(static_cast<std::size_t>(heads_)));
    const cottention::BackwardArguments<float> arguments{.shape = extents(shape),
                                                         .q = part<const float>(qkv_.data(), 0, shape),
                                                         .k = part<const float>(qkv_.data(), 1, shape),
                                                         .v = part<const float>(qkv_.data(), 2, shape),
                                                         .dout = {dout_.data()},
                                                         .dq = part(dqkv_.data(), 0, shape),
                                                         .dk = part(dqkv_.data(), 1, shape),
                                                         .dv = part(dqkv_.data(), 2, shape),
                                                         .scale_logit = scale_logit_.data(),
                                                         .dscale_logit = dscale_logit_.data()};
    check(cottention::backward<P>(arguments, workspace_, stream_.get()));
    check(dqkv_.download({dqkv, 3 * elements(rows)}, stream_));
    check(dscale_logit_.download({dscale_logit, static_cast<std::size_t>(heads_)}, stream_));
    check(stream_.wait());
  }

  void start(std::int64_t) override {
    check(h_.clear(stream_));
    check(count_.clear(stream_));
  }

  void step(std::int64_t layer, const float* qkv, const float* scale_logit, float* o) override {
    upload(1, qkv, scale_logit);
    const auto arguments =
        step_arguments<float>(heads_, head_dim, qkv_.data(), scale_logit_.data(), o_.data(),
                              {h_.data() + layer * state(), count_.data() + layer});
    check(cottention::step<P>(arguments, {}, stream_.get()));
    download(1, o);
  }

 private:
  static constexpr std::int64_t head_dim = P::head_dim.v;

  std::int64_t state() const { return heads_ * head_dim * head_dim; }
  std::size_t elements(std::int64_t rows) const { return static_cast<std::size_t>(rows * heads_ * head_dim); }

  void upload(std::int64_t rows, const float* qkv, const float* scale_logit) {
    check(qkv_.upload({qkv, 3 * elements(rows)}, stream_));
    check(scale_logit_.upload({scale_logit, static_cast<std::size_t>(heads_)}, stream_));
    check(o_.reserve(elements(rows)));
  }
  void download(std::int64_t rows, float* o) {
    check(o_.download({o, elements(rows)}, stream_));
    check(stream_.wait());
  }

  std::int64_t heads_;
  Stream stream_;
  DeviceArray<float> qkv_, scale_logit_, o_, dout_, dqkv_, dscale_logit_;
  DeviceArray<float> h_;             // (layers, heads, head_dim, head_dim)
  DeviceArray<std::int64_t> count_;  // (layers)
  cottention::DeviceWorkspace workspace_;
};

/// Calls everything once: that finds out whether the device can, and takes the memory of the largest shape.
void try_out(Attention<float>& attention, const AttentionShape& largest) {
  const auto row = static_cast<std::size_t>(largest.heads * largest.head_dim);
  const auto rows = static_cast<std::size_t>(largest.batch * largest.seq);
  const std::vector<float> qkv(rows * 3 * row), scale_logit(static_cast<std::size_t>(largest.heads));
  std::vector<float> o(rows * row), dqkv(qkv), dscale_logit(scale_logit);
  attention.forward(largest, 0, qkv.data(), scale_logit.data(), o.data());
  attention.backward(largest, 0, qkv.data(), scale_logit.data(), o.data(), o.data(), dqkv.data(),
                     dscale_logit.data());
  attention.start(1);
  attention.step(0, qkv.data(), scale_logit.data(), o.data());
}

std::string describe_device() {
  cottention::device::Properties device;
  check(cottention::device::current_device(device));
  return "sm_" + std::to_string(device.compute_capability) + ", " + std::to_string(device.multiprocessors) +
         " multiprocessors";
}

}  // namespace

DeviceAttention make_device_attention(std::int64_t layers, const AttentionShape& largest) {
  std::unique_ptr<Attention<float>> attention;
  const cottention::RuntimeProblem wanted{.element = cottention::ElementType::fp32,
                                          .dim_qk = largest.head_dim,
                                          .dim_v = largest.head_dim,
                                          .mask = cottention::Mask::causal,
                                          .scale = cottention::Scale::by_key};
  try {
    check(find_device());
    check(cottention::dispatch<Compiled>(wanted, [&]<class P>() {
      attention = std::make_unique<OnDevice<P>>(layers, largest);
      return CallStatus{};
    }));
    try_out(*attention, largest);
    return {std::move(attention), describe_device()};
  } catch (const std::runtime_error& error) {
    return {nullptr, error.what()};
  }
}

}  // namespace char_lm
