// How far outputs are from the definition, computed in fp64 from the very inputs of the call by explicit
// sums: a few rows of a few heads, each over everything that it sees. docs/math.md has the equations.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "support.hpp"

namespace bench {

/// Positions [first, first + length) of the token axis that attend to one another.
struct Span {
  std::int64_t first, length;
};

/// Relative RMS error over the rows that were added.
class Error {
 public:
  template <class T>
  void add(const std::vector<double>& exact, const T* row) {
    for (std::size_t e = 0; e < exact.size(); ++e) {
      const double off = cottention::to_double(row[e]) - exact[e];
      difference_ += off * off;
      magnitude_ += exact[e] * exact[e];
    }
  }
  double relative() const { return std::sqrt(difference_ / magnitude_); }

 private:
  double difference_ = 0.0, magnitude_ = 0.0;
};

/// Rows of one head of a tensor [token, heads, dim].
template <class T>
struct Rows {
  const Buffer<T>* tensor;
  std::int64_t heads, dim, head;

  const T* operator()(std::int64_t token) const { return tensor->data() + (token * heads + head) * dim; }
  void read(std::int64_t token, std::vector<double>& row) const {
    row.resize(static_cast<std::size_t>(dim));
    const T* const from = (*this)(token);
    for (std::size_t e = 0; e < row.size(); ++e) row[e] = cottention::to_double(from[e]);
  }
};

inline double dot(const std::vector<double>& x, const std::vector<double>& y) {
  double sum = 0.0;
  for (std::size_t e = 0; e < x.size(); ++e) sum += x[e] * y[e];
  return sum;
}

/// Makes x a row of unit length; its length before.
inline double normalise(std::vector<double>& x) {
  const double length = std::max(std::sqrt(dot(x, x)), 1e-12);
  for (double& value : x) value /= length;
  return length;
}

/// The gradient with respect to x, from the one with respect to x / |x|.
template <class T>
std::vector<double> through_norm(std::vector<double> gradient, const Rows<T>& x, std::int64_t token) {
  std::vector<double> unit;
  x.read(token, unit);
  const double length = normalise(unit);
  const double along = dot(gradient, unit);
  for (std::size_t e = 0; e < unit.size(); ++e) gradient[e] = (gradient[e] - along * unit[e]) / length;
  return gradient;
}

/// Which rows of a walk enter with unit length: those that are q or k.
enum class Unit { a_and_b, c };

/// sum over j in [begin, end) of (a . b_j) weight(j) c_j: every pass is such walks with roles exchanged.
template <class T, class Weight>
std::vector<double> walk_row(const Rows<T>& a, std::int64_t token, const Rows<T>& b, const Rows<T>& c,
                             Unit unit, std::int64_t begin, std::int64_t end, Weight weight) {
  std::vector<double> fixed, left, right, sum(static_cast<std::size_t>(c.dim));
  a.read(token, fixed);
  if (unit == Unit::a_and_b) normalise(fixed);
  for (std::int64_t j = begin; j < end; ++j) {
    b.read(j, left);
    c.read(j, right);
    normalise(unit == Unit::a_and_b ? left : right);
    const double factor = dot(fixed, left) * weight(j);
    for (std::size_t e = 0; e < sum.size(); ++e) sum[e] += factor * right[e];
  }
  return sum;
}

inline std::vector<std::int64_t> some_of(std::int64_t count) {
  std::vector<std::int64_t> chosen;
  for (const std::int64_t i : {std::int64_t{0}, std::int64_t{1}, count / 3, count / 2, count - 2, count - 1})
    if (i >= 0 && i < count && std::find(chosen.begin(), chosen.end(), i) == chosen.end())
      chosen.push_back(i);
  return chosen;
}

/// Calls visit(head, span, position in the span) for the rows that are compared: of the first two heads and
/// the last, some positions.
template <class Visit>
void for_some_rows(std::int64_t heads, const std::vector<Span>& spans, Visit visit) {
  for (std::int64_t head = 0; head < heads; ++head)
    if (head < 2 || head == heads - 1)
      for (const Span& span : spans)
        for (const std::int64_t i : some_of(span.length)) visit(head, span, i);
}

/// n_j ^ -sigmoid(m) at position j of a span.
inline auto weights(const Span& span, double m, cottention::Mask mask) {
  const double power = -1.0 / (1.0 + std::exp(-static_cast<double>(m)));
  return [=](std::int64_t token) {
    const std::int64_t n = mask == cottention::Mask::causal ? token - span.first + 1 : span.length;
    return std::pow(static_cast<double>(n), power);
  };
}

/// Of o; `Data` is Attention in attention.hpp.
template <class Data>
double output_error(const Data& data, const std::vector<Span>& spans, cottention::Mask mask) {
  const NamedShape& s = data.shape;
  Error error;
  for_some_rows(s.heads, spans, [&](std::int64_t head, const Span& span, std::int64_t i) {
    const auto rows = [&](const auto& tensor) {
      return Rows<typename Data::element>{&tensor, s.heads, s.dim, head};
    };
    const std::int64_t end = mask == cottention::Mask::causal ? i + 1 : span.length;
    error.add(walk_row(rows(data.q), span.first + i, rows(data.k), rows(data.v), Unit::a_and_b, span.first,
                       span.first + end, weights(span, data.m[head], mask)),
              rows(data.o)(span.first + i));
  });
  return error.relative();
}

/// The largest of those of dq, dk and dv; `Slopes` is Gradients in attention.hpp.
template <class Data, class Slopes>
double gradient_error(const Data& data, const Slopes& gradients, const std::vector<Span>& spans,
                      cottention::Mask mask) {
  const NamedShape& s = data.shape;
  Error dq, dk, dv;
  for_some_rows(s.heads, spans, [&](std::int64_t head, const Span& span, std::int64_t i) {
    const auto rows = [&](const auto& tensor) {
      return Rows<typename Data::element>{&tensor, s.heads, s.dim, head};
    };
    const auto q = rows(data.q), k = rows(data.k), v = rows(data.v), g = rows(gradients.dout);
    const auto weight = weights(span, data.m[head], mask);
    const bool causal = mask == cottention::Mask::causal;
    const std::int64_t first = span.first, last = span.first + span.length, at = first + i;
    const std::int64_t seen_until = causal ? at + 1 : last, seen_from = causal ? at : first;
    const auto own_weight = [&](std::int64_t) { return weight(at); };
    dq.add(through_norm(walk_row(g, at, v, k, Unit::c, first, seen_until, weight), q, at),
           rows(gradients.dq)(at));
    dk.add(through_norm(walk_row(v, at, g, q, Unit::c, seen_from, last, own_weight), k, at),
           rows(gradients.dk)(at));
    dv.add(walk_row(k, at, q, g, Unit::a_and_b, seen_from, last, own_weight), rows(gradients.dv)(at));
  });
  return std::max({dq.relative(), dk.relative(), dv.relative()});
}

/// All of a batch: the first sequence and the last, in a tensor [batch * seq, heads, dim].
inline std::vector<Span> first_and_last(const NamedShape& s) {
  std::vector<Span> spans = {{0, s.seq}};
  if (s.batch > 1) spans.push_back({(s.batch - 1) * s.seq, s.seq});
  return spans;
}

/// Sets the counter `error`. A row is measured in several calls, on the same inputs: the first one computes
/// it.
inline void set_error(benchmark::State& state, const std::string& row, const std::function<double()>& error) {
  static std::map<std::string, double> known;
  const auto found = known.find(row);
  state.counters["error"] = found != known.end() ? found->second : known.emplace(row, error()).first->second;
}

}  // namespace bench
