// The layers around attention, forward and backward: embedding, normalisation, convolution, activation, loss.
// Rows are tokens. Sums over tokens are split by column, so that no result depends on the number of threads.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "team.hpp"
#include "vector_math.hpp"

namespace char_lm {

/// Columns that one thread takes at least: a cache line of floats.
inline constexpr std::int64_t column_grain = 16;

/// x[i] = embedding[byte[i]]
template <class Real>
void embed(Team& team, std::int64_t rows, std::int64_t dim, const std::uint8_t* bytes, const Real* embedding,
           Real* x) {
  team.split(rows, 1, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t i = begin; i < end; ++i) std::copy_n(embedding + bytes[i] * dim, dim, x + i * dim);
  });
}

/// dembedding[c] = sum of dx[i] over the rows with byte[i] = c
template <class Real>
void embed_backward(Team& team, std::int64_t rows, std::int64_t dim, const std::uint8_t* bytes,
                    const Real* dx, Real* dembedding) {
  team.split(dim, column_grain, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t c = 0; c < 256; ++c)
      std::fill(dembedding + c * dim + begin, dembedding + c * dim + end, Real{0});
    for (std::int64_t i = 0; i < rows; ++i) {
      Real* sum = dembedding + bytes[i] * dim;
      for (std::int64_t j = begin; j < end; ++j) sum[j] += dx[i * dim + j];
    }
  });
}

/// y = x / sqrt(mean(x^2) + epsilon) row by row; keeps that 1 / sqrt.
template <class Real>
void normalise(Team& team, std::int64_t rows, std::int64_t dim, Real epsilon, const Real* x,
               Real* inverse_rms, Real* y) {
  team.split(rows, 1, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t i = begin; i < end; ++i) {
      const Real* row = x + i * dim;
      const Real inverse = 1 / std::sqrt(dot(dim, row, row) / static_cast<Real>(dim) + epsilon);
      inverse_rms[i] = inverse;
      for (std::int64_t j = 0; j < dim; ++j) y[i * dim + j] = row[j] * inverse;
    }
  });
}

/// dx += (dy - y mean(y dy)) / sqrt(mean(x^2) + epsilon)
template <class Real>
void normalise_backward(Team& team, std::int64_t rows, std::int64_t dim, const Real* y,
                        const Real* inverse_rms, const Real* dy, Real* dx) {
  team.split(rows, 1, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t i = begin; i < end; ++i) {
      const Real *y_row = y + i * dim, *dy_row = dy + i * dim;
      const Real mean = dot(dim, y_row, dy_row) / static_cast<Real>(dim);
      for (std::int64_t j = 0; j < dim; ++j)
        dx[i * dim + j] += (dy_row[j] - y_row[j] * mean) * inverse_rms[i];
    }
  });
}

/// Taps of the causal convolution: a token sees itself and the three before it.
inline constexpr std::int64_t taps = 4;

/// y[t] = sum over s < taps of weight[s] * x[t - s], channel by channel, within each sequence.
template <class Real>
void convolve(Team& team, std::int64_t batch, std::int64_t seq, std::int64_t dim, const Real* x,
              const Real* weight, Real* y) {
  team.split(batch * seq, 1, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t seen = std::min(taps, i % seq + 1);
      Real* row = y + i * dim;
      for (std::int64_t j = 0; j < dim; ++j) row[j] = weight[j] * x[i * dim + j];
      for (std::int64_t s = 1; s < seen; ++s)
        for (std::int64_t j = 0; j < dim; ++j) row[j] += weight[s * dim + j] * x[(i - s) * dim + j];
    }
  });
}

template <class Real>
void convolve_backward(Team& team, std::int64_t batch, std::int64_t seq, std::int64_t dim, const Real* x,
                       const Real* weight, const Real* dy, Real* dx, Real* dweight) {
  const std::int64_t rows = batch * seq;
  team.split(rows, 1, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t seen_by = std::min(taps, seq - i % seq);
      Real* row = dx + i * dim;
      for (std::int64_t j = 0; j < dim; ++j) row[j] = weight[j] * dy[i * dim + j];
      for (std::int64_t s = 1; s < seen_by; ++s)
        for (std::int64_t j = 0; j < dim; ++j) row[j] += weight[s * dim + j] * dy[(i + s) * dim + j];
    }
  });
  team.split(dim, column_grain, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t s = 0; s < taps; ++s)
      std::fill(dweight + s * dim + begin, dweight + s * dim + end, Real{0});
    for (std::int64_t i = 0; i < rows; ++i)
      for (std::int64_t s = 0; s < std::min(taps, i % seq + 1); ++s)
        for (std::int64_t j = begin; j < end; ++j)
          dweight[s * dim + j] += dy[i * dim + j] * x[(i - s) * dim + j];
  });
}

/// y = max(x, 0)^2
template <class Real>
void squared_relu(Team& team, std::int64_t count, const Real* x, Real* y) {
  team.split(count, column_grain, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t i = begin; i < end; ++i) {
      const Real positive = std::max(x[i], Real{0});
      y[i] = positive * positive;
    }
  });
}

/// dx = 2 max(x, 0) dy, written over dy
template <class Real>
void squared_relu_backward(Team& team, std::int64_t count, const Real* x, Real* dy) {
  team.split(count, column_grain, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t i = begin; i < end; ++i) dy[i] *= 2 * std::max(x[i], Real{0});
  });
}

/// loss[i] = -ln softmax(logits[i])[target[i]]. Where `scale` is not 0, the logits become scale
/// dloss/dlogits.
template <class Real>
void cross_entropy(Team& team, std::int64_t rows, Real* logits, const std::uint8_t* target, Real scale,
                   Real* loss) {
  team.split(rows, 1, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t i = begin; i < end; ++i) {
      Real* row = logits + i * 256;
      const Real largest = maximum(256, row);
      const Real of_target = row[target[i]] - largest;
      Real e[256];
      for (int c = 0; c < 256; ++c) e[c] = exponential(row[c] - largest);
      const Real all = sum(256, e);
      loss[i] = std::log(all) - of_target;
      if (scale == Real{0}) continue;
      for (int c = 0; c < 256; ++c) row[c] = scale / all * e[c];
      row[target[i]] -= scale;
    }
  });
}

}  // namespace char_lm
