// Rows that share a direction: their gradients are what the norm backward leaves of sums that are much
// larger.
#pragma once

#include <cstdint>

#include "support/problem_generator.hpp"

namespace support {

/// Adds one direction to q, k, v and dout at positions first, ..., last - 1, whose own rows are multiplied by
/// `spread`.
template <class T>
void share_direction(Inputs<T>& inputs, std::int64_t first, std::int64_t last, double spread) {
  for (TensorBuffer<T>* const x : {&inputs.q(), &inputs.k(), &inputs.v(), &inputs.dout()})
    for (std::int64_t position = first; position < last; ++position)
      for (std::int64_t h = 0; h < x->heads(); ++h)
        for (std::int64_t d = 0; d < x->dim(); ++d) {
          T& element = x->row(position, h)[d];
          const double direction = static_cast<double>(d * 5 % 7 - 3) / 2;
          element = from_double<T>(direction + spread * cottention::to_double(element));
        }
}

/// Multiplies dout at positions first, ..., last - 1 by `size`, so that dq of these rows is most of dq.
template <class T>
void enlarge_dout(Inputs<T>& inputs, std::int64_t first, std::int64_t last, double size) {
  for (std::int64_t position = first; position < last; ++position)
    for (std::int64_t h = 0; h < inputs.dout().heads(); ++h)
      for (std::int64_t d = 0; d < inputs.dout().dim(); ++d) {
        T& element = inputs.dout().row(position, h)[d];
        element = from_double<T>(size * cottention::to_double(element));
      }
}

/// f(spread, first, last) for directions that are shared more and less, by all of `length` positions, by the
/// earlier or by the later half.
template <class F>
void for_each_common_direction(std::int64_t length, F f) {
  for (const double spread : {0.5, 0.1, 0.02}) f(spread, std::int64_t{0}, length);
  f(0.1, std::int64_t{0}, length / 2);
  f(0.1, length / 2, length);
}

}  // namespace support
