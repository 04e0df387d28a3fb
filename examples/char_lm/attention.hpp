// What the model asks of attention: the parallel form with its gradients for training, the recurrent form for
// generation. q, k and v lie side by side in rows of [3, heads, head_dim].
#pragma once

#include <cstddef>
#include <cstdint>

namespace char_lm {

struct AttentionShape {
  std::int64_t batch, seq, heads, head_dim;
};

template <class Real>
class Attention {
 public:
  virtual ~Attention() = default;

  /// o[batch, seq, heads, head_dim] from qkv[batch, seq, 3, heads, head_dim].
  virtual void forward(const AttentionShape& shape, std::int64_t layer, const Real* qkv,
                       const Real* scale_logit, Real* o) = 0;
  /// dqkv and dscale_logit from dout, for the last forward call of this layer.
  virtual void backward(const AttentionShape& shape, std::int64_t layer, const Real* qkv,
                        const Real* scale_logit, const Real* o, const Real* dout, Real* dqkv,
                        Real* dscale_logit) = 0;

  /// Begins a sequence of at most `tokens` tokens to be stepped through.
  virtual void start(std::int64_t tokens) = 0;
  /// The next token of that sequence: o[heads, head_dim] from qkv[3, heads, head_dim].
  virtual void step(std::int64_t layer, const Real* qkv, const Real* scale_logit, Real* o) = 0;
};

}  // namespace char_lm
