// dispatch.hpp: from values and names to Problems.
#include <cottention/dispatch.hpp>

#include <concepts>
#include <cstring>
#include <string>

#include "support/catch.hpp"

namespace cottention::test {
namespace {

using Small = Problem<float, HeadDim{64, 64}, Mask::causal, Scale::by_key>;
using Large = Problem<float, HeadDim{128, 128}, Mask::causal, Scale::by_key>;
using Brief = Problem<half, HeadDim{64, 64}, Mask::causal, Scale::by_key>;
using Both = Problem<float, HeadDim{64, 64}, Mask::bidirectional, Scale::by_key>;
using Plain = Problem<float, HeadDim{64, 64}, Mask::causal, Scale::none>;
using Any = Problem<float, any_head_dim, Mask::causal, Scale::by_key>;

/// What `dispatch` calls for `wanted`, and how often.
template <class Compiled>
std::string called(const RuntimeProblem& wanted) {
  std::string text;
  const CallStatus status = dispatch<Compiled>(wanted, [&]<class P>() -> CallStatus {
    const RuntimeProblem& p = runtime_problem<P>;
    text += std::string(element_name<typename P::element>) + ' ' + std::to_string(p.dim_qk) + ' ' +
            std::to_string(p.dim_v) + ' ' + std::to_string(static_cast<int>(p.mask)) +
            std::to_string(static_cast<int>(p.scale)) + ';';
    return {};
  });
  return status.ok() ? text : std::string(status.reason);
}

TEST_CASE("Dispatch calls the one Problem that was asked for") {
  using Compiled = ProblemSet<Small, Large, Brief, Both, Plain>;
  CHECK(called<Compiled>(runtime_problem<Small>) == "fp32 64 64 01;");
  CHECK(called<Compiled>(runtime_problem<Large>) == "fp32 128 128 01;");
  CHECK(called<Compiled>(runtime_problem<Brief>) == "fp16 64 64 01;");
  CHECK(called<Compiled>(runtime_problem<Both>) == "fp32 64 64 11;");
  CHECK(called<Compiled>(runtime_problem<Plain>) == "fp32 64 64 00;");
  CHECK(called<Compiled>({ElementType::fp32, 128, 128, Mask::causal, Scale::by_key}) == "fp32 128 128 01;");
}

TEST_CASE("Dispatch returns the status of the call") {
  const CallStatus status = dispatch<ProblemSet<Small>>(runtime_problem<Small>, [&]<class P>() {
    return CallStatus::failure(StatusCode::bad_slot, "as it was");
  });
  CHECK(status.code == StatusCode::bad_slot);
  CHECK(std::string(status.reason) == "as it was");
}

TEST_CASE("Dispatch takes the first of several that fit, and any head dimensions where they are open") {
  CHECK(called<ProblemSet<Small, Any>>(runtime_problem<Small>) == "fp32 64 64 01;");
  CHECK(called<ProblemSet<Any, Small>>(runtime_problem<Small>) == "fp32 0 0 01;");
  CHECK(called<ProblemSet<Small, Any>>({ElementType::fp32, 3, 1000, Mask::causal, Scale::by_key}) ==
        "fp32 0 0 01;");
}

TEST_CASE("Dispatch refuses what is not compiled, and names it and what is") {
  int calls = 0;
  const auto refusal = [&]<class Compiled>(Compiled, const RuntimeProblem& wanted) {
    const CallStatus status = dispatch<Compiled>(wanted, [&]<class P>() -> CallStatus {
      ++calls;
      return {};
    });
    CHECK(status.code == StatusCode::unsupported);
    return std::string(status.reason);
  };
  CHECK(refusal(ProblemSet<Small, Brief>{}, runtime_problem<Large>) ==
        "problem = fp32 128x128 causal by_key: must be one of the 2 compiled in: fp32 64x64 causal by_key, "
        "fp16 64x64 causal by_key");
  CHECK(
      refusal(ProblemSet<Brief, Any>{}, runtime_problem<Both>) ==
      "problem = fp32 64x64 bidirectional by_key: must be one of the 2 compiled in: fp32 any causal by_key, "
      "fp16 64x64 causal by_key");
  CHECK(refusal(ProblemSet<>{}, runtime_problem<Small>) ==
        "problem = fp32 64x64 causal by_key: must be one of the 0 compiled in");
  CHECK(calls == 0);
}

TEST_CASE("Dispatch's refusal fits its status however much is compiled, the likest first") {
  using Compiled =
      ProblemProduct<Elements<double, float, half, bfloat16>,
                     HeadDims<HeadDim{1024, 1024}, HeadDim{512, 1024}, HeadDim{128, 128}>,
                     Masks<Mask::bidirectional, Mask::causal>, Scales<Scale::by_query, Scale::by_key>>;
  const CallStatus status = dispatch<Compiled>(
      {ElementType::bf16, std::int64_t{1} << 62, -1, Mask::bidirectional, static_cast<Scale>(7)},
      [&]<class P>() { return CallStatus{}; });
  CHECK(std::string(status.reason) ==
        "problem = bf16 4611686018427387904x-1 bidirectional unknown: must be one of the 48 compiled in: "
        "bf16 1024x1024 bidirectional by_query, and 47 more");
}

TEST_CASE("Names of elements are those of NumPy, PyTorch, C and safetensors, in either case") {
  const auto parsed = [](const char* name) {
    ElementType element = ElementType::fp64;
    const CallStatus status = parse_element(name, element);
    return status.ok() ? std::to_string(static_cast<int>(element)) : std::string(status.reason);
  };
  for (const char* name : {"fp64", "float64", "double", "F64", "torch.float64", "torch.double"})
    CHECK(parsed(name) == "0");
  for (const char* name : {"fp32", "float32", "float", "F32", "torch.float32", "numpy.float32"})
    CHECK(parsed(name) == "1");
  for (const char* name : {"fp16", "float16", "half", "F16", "torch.float16", "torch.half", "Half"})
    CHECK(parsed(name) == "2");
  for (const char* name : {"bf16", "bfloat16", "BF16", "torch.bfloat16", "jnp.bfloat16"})
    CHECK(parsed(name) == "3");
  const std::string rule =
      ": must be one of fp64 float64 double f64, fp32 float32 float f32, fp16 float16 half f16, bf16 "
      "bfloat16";
  for (const char* name : {"", "int8", "fp3", "fp322", "torch.", "torch", "float32.", "float8_e4m3fn"})
    CHECK(parsed(name) == "element = " + std::string(name) + rule);
  const std::string lengthy(1000, 'x');
  CHECK(parsed(lengthy.c_str()) == "element = " + lengthy.substr(0, 32) + rule);
  ElementType element = ElementType::bf16;
  CHECK(parse_element("int8", element).code == StatusCode::bad_option);
  CHECK(element == ElementType::bf16);
}

TEST_CASE("Products of lists hold every combination, unions all members") {
  using Expected = ProblemSet<Problem<half, HeadDim{64, 64}, Mask::causal, Scale::none>,
                              Problem<half, HeadDim{64, 64}, Mask::causal, Scale::by_key>,
                              Problem<half, HeadDim{64, 128}, Mask::causal, Scale::none>,
                              Problem<half, HeadDim{64, 128}, Mask::causal, Scale::by_key>,
                              Problem<bfloat16, HeadDim{64, 64}, Mask::causal, Scale::none>,
                              Problem<bfloat16, HeadDim{64, 64}, Mask::causal, Scale::by_key>,
                              Problem<bfloat16, HeadDim{64, 128}, Mask::causal, Scale::none>,
                              Problem<bfloat16, HeadDim{64, 128}, Mask::causal, Scale::by_key>>;
  using Made = ProblemProduct<Elements<half, bfloat16>, HeadDims<HeadDim{64, 64}, HeadDim{64, 128}>,
                              Masks<Mask::causal>, Scales<Scale::none, Scale::by_key>>;
  STATIC_REQUIRE(std::same_as<Made, Expected>);
  STATIC_REQUIRE(std::same_as<ProblemUnion<ProblemSet<Small>, ProblemSet<>, ProblemSet<Large, Brief>>,
                              ProblemSet<Small, Large, Brief>>);
}

}  // namespace
}  // namespace cottention::test
