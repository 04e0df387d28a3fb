// From an element type, head dimensions, a mask and a scale known only at run time to a Problem that was
// compiled for them.
//
//     using Compiled = ProblemProduct<Elements<half, bfloat16>, HeadDims<HeadDim{64, 64}, HeadDim{128, 128}>,
//                                     Masks<Mask::causal>, Scales<Scale::none, Scale::by_key>>;
//
//     CallStatus status = dispatch<Compiled>(wanted, [&]<class P>() {
//       StepArguments<typename P::element> args = ...;
//       return step<P>(args, workspace, stream);
//     });
//
// Serves every backend. CUDA calls need fixed head dimensions, because their kernels are compiled for them.
// CPU calls compute in loops whose bounds are those of the arguments whatever the Problem says, so there a
// HeadDim only has them checked, and one Problem with any_head_dim serves all of them at the same speed.
#pragma once

#include <cottention/requirements.hpp>

#include <cottention/host_only.hpp>

#include <algorithm>
#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string_view>

#include <cottention/problem.hpp>
#include <cottention/status.hpp>

namespace cottention {

/// Problems to choose from. Where several fit, the first does.
template <AnyProblem... P>
struct ProblemSet {};

template <Element... T>
struct Elements {};
template <HeadDim... D>
struct HeadDims {};
template <Mask... M>
struct Masks {};
template <Scale... S>
struct Scales {};

enum class ElementType { fp64, fp32, fp16, bf16 };

template <Element T>
inline constexpr ElementType element_type = std::same_as<T, double>  ? ElementType::fp64
                                            : std::same_as<T, float> ? ElementType::fp32
                                            : std::same_as<T, half>  ? ElementType::fp16
                                                                     : ElementType::bf16;

/// The element type that `name` stands for, in upper or lower case, with or without a module before it, as in
/// "torch.bfloat16":
///
///     fp64   fp64, float64, double, f64         fp16   fp16, float16, half, f16
///     fp32   fp32, float32, float, f32          bf16   bf16, bfloat16
///
/// Anything else is refused by a reason that lists them, and `element` stays as it was.
[[nodiscard]] inline CallStatus parse_element(std::string_view name, ElementType& element) {
  struct Name {
    std::string_view text;
    ElementType element;
  };
  using enum ElementType;
  static constexpr Name names[] = {{"fp64", fp64}, {"float64", fp64}, {"double", fp64}, {"f64", fp64},
                                   {"fp32", fp32}, {"float32", fp32}, {"float", fp32},  {"f32", fp32},
                                   {"fp16", fp16}, {"float16", fp16}, {"half", fp16},   {"f16", fp16},
                                   {"bf16", bf16}, {"bfloat16", bf16}};
  const auto same = [](char a, char b) { return (a >= 'A' && a <= 'Z' ? a - 'A' + 'a' : a) == b; };
  const std::string_view bare = name.substr(name.rfind('.') + 1);  // all of it where there is no dot
  for (const Name& known : names)
    if (std::equal(bare.begin(), bare.end(), known.text.begin(), known.text.end(), same)) {
      element = known.element;
      return {};
    }
  return CallStatus::failure(
      StatusCode::bad_option,
      "element = %.*s: must be one of fp64 float64 double f64, fp32 float32 float f32, "
      "fp16 float16 half f16, bf16 bfloat16",
      static_cast<int>((std::min)(name.size(), std::size_t{32})), name.data());
}

/// A Problem as values.
struct RuntimeProblem {
  ElementType element = ElementType::fp32;
  std::int64_t dim_qk = 0;
  std::int64_t dim_v = 0;
  Mask mask = Mask::causal;
  Scale scale = Scale::none;
  friend constexpr bool operator==(const RuntimeProblem&, const RuntimeProblem&) = default;
};

template <AnyProblem P>
inline constexpr RuntimeProblem runtime_problem{.element = element_type<typename P::element>,
                                                .dim_qk = P::head_dim.qk,
                                                .dim_v = P::head_dim.v,
                                                .mask = P::mask,
                                                .scale = P::scale};

namespace detail {

template <AnyProblem... A, AnyProblem... B>
ProblemSet<A..., B...> operator+(ProblemSet<A...>, ProblemSet<B...>);
template <class... Sets>
auto over_sets(Sets... sets) -> decltype((ProblemSet<>{} + ... + sets));

template <Element T, HeadDim D, Mask M, Scale... S>
ProblemSet<Problem<T, D, M, S>...> over_scales(Scales<S...>);
template <Element T, HeadDim D, Mask... M, class S>
auto over_masks(Masks<M...>, S s) -> decltype((ProblemSet<>{} + ... + over_scales<T, D, M>(s)));
template <Element T, HeadDim... D, class M, class S>
auto over_head_dims(HeadDims<D...>, M m, S s) -> decltype((ProblemSet<>{} + ... + over_masks<T, D>(m, s)));
template <Element... T, class D, class M, class S>
auto over_elements(Elements<T...>, D d, M m, S s)
    -> decltype((ProblemSet<>{} + ... + over_head_dims<T>(d, m, s)));

constexpr bool any_head_dims(const RuntimeProblem& p) {
  return p.dim_qk == any_head_dim.qk && p.dim_v == any_head_dim.v;
}

/// In how many of element, head dimensions, mask and scale `compiled` serves `wanted`.
constexpr int agreement(const RuntimeProblem& compiled, const RuntimeProblem& wanted) {
  const bool dims =
      any_head_dims(compiled) || (compiled.dim_qk == wanted.dim_qk && compiled.dim_v == wanted.dim_v);
  return (compiled.element == wanted.element) + dims + (compiled.mask == wanted.mask) +
         (compiled.scale == wanted.scale);
}
inline constexpr int full_agreement = 4;

/// One Problem in words.
struct ProblemText {
  char text[72] = {};

  explicit ProblemText(const RuntimeProblem& p) {
    constexpr const char* elements[] = {"fp64", "fp32", "fp16", "bf16"};
    constexpr const char* masks[] = {"causal", "bidirectional"};
    constexpr const char* scales[] = {"none", "by_key", "by_query"};
    char dims[40] = "any";
    if (!any_head_dims(p))
      std::snprintf(dims, sizeof dims, "%lldx%lld", static_cast<long long>(p.dim_qk),
                    static_cast<long long>(p.dim_v));
    std::snprintf(text, sizeof text, "%s %s %s %s", name(elements, p.element), dims, name(masks, p.mask),
                  name(scales, p.scale));
  }

 private:
  /// Values from outside may be no enumerators.
  template <std::size_t n, class E>
  static const char* name(const char* const (&names)[n], E value) {
    const auto i = static_cast<std::size_t>(value);
    return i < n ? names[i] : "unknown";
  }
};

/// Names what was asked for and as much of what is compiled as there is room for, the likest first.
inline CallStatus not_compiled(const RuntimeProblem& wanted, const RuntimeProblem* compiled,
                               std::size_t count) {
  CallStatus status =
      CallStatus::failure(StatusCode::unsupported, "problem = %s: must be one of the %zu compiled in",
                          ProblemText(wanted).text, count);
  constexpr std::size_t room_for_rest = sizeof ", and 18446744073709551615 more";
  std::size_t length = 0, listed = 0;
  while (status.reason[length] != '\0') ++length;
  for (int alike = full_agreement - 1; alike >= 0; --alike)
    for (std::size_t i = 0; i < count; ++i) {
      if (agreement(compiled[i], wanted) != alike) continue;
      const ProblemText text(compiled[i]);
      char entry[sizeof text.text + 2];
      const int bytes = std::snprintf(entry, sizeof entry, "%s%s", listed == 0 ? ": " : ", ", text.text);
      if (length + static_cast<std::size_t>(bytes) + room_for_rest > sizeof status.reason) continue;
      length += static_cast<std::size_t>(
          std::snprintf(status.reason + length, sizeof status.reason - length, "%s", entry));
      ++listed;
    }
  if (0 < listed && listed < count)
    std::snprintf(status.reason + length, sizeof status.reason - length, ", and %zu more", count - listed);
  return status;
}

template <AnyProblem... P, class Call>
CallStatus dispatch(ProblemSet<P...>, const RuntimeProblem& wanted, Call& call) {
  CallStatus status;
  const bool found = ((agreement(runtime_problem<P>, wanted) == full_agreement &&
                       (status = call.template operator()<P>(), true)) ||
                      ...);
  if (found) return status;
  constexpr std::array<RuntimeProblem, sizeof...(P)> compiled{runtime_problem<P>...};
  return not_compiled(wanted, compiled.data(), compiled.size());
}

}  // namespace detail

/// Every combination of the lists' members.
template <class Elements, class HeadDims, class Masks, class Scales>
using ProblemProduct = decltype(detail::over_elements(Elements{}, HeadDims{}, Masks{}, Scales{}));

/// The members of several sets, in order.
template <class... Sets>
using ProblemUnion = decltype(detail::over_sets(Sets{}...));

/// Returns what `call.operator()<P>()` does, P being the first Problem of the ProblemSet `Compiled` that is
/// the wanted one; one with `any_head_dim` serves all head dimensions. Calls nothing if there is none: then
/// the status is `unsupported` and names what was wanted and what is compiled.
template <class Compiled, class Call>
CallStatus dispatch(const RuntimeProblem& wanted, Call&& call) {
  return detail::dispatch(Compiled{}, wanted, call);
}

}  // namespace cottention
