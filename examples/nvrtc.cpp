// One kernel for head dimensions that are known only at run time, compiled by NVRTC: g++ alone builds this
// program. Where there is a GPU, a few tokens of several sequences pass through it, one after the other, and
// are compared with the reference.
#include <cuda.h>

#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include <cottention/kernel/step_params.cuh>
#include <cottention/reference.hpp>

#include "nvrtc.hpp"
#include "support.hpp"

namespace cottention::example {

constexpr const char* text = R"(
#include <cottention/device/entry.cuh>
#include <cottention/kernel/step.cuh>
#include <cottention/tuning/step.cuh>
using namespace cottention;
using P = Problem<bfloat16, HeadDim{DIM_QK, DIM_V}, Mask::causal, Scale::by_key>;
using Kernel = kernel::Step<P, tuning::step_tilings<P>.list[0]>;
extern "C" __constant__ int threads = Kernel::threads, shared_bytes = sizeof(Kernel::Storage);
extern "C" __constant__ int param_bytes = sizeof(Kernel::Params), v_tiles = Kernel::v_tiles;
)";
using Attention = Problem<bfloat16, any_head_dim, Mask::causal, Scale::by_key>;  // for the reference

constexpr std::int64_t lanes = 3, tokens = 4, heads_q = 4, heads_kv = 2;
constexpr float scale_logit[heads_kv] = {-1.0f, 0.5f};

/// The driver, and a context on the first GPU.
class Driver {
 public:
  /// Whether there is a GPU.
  bool load() {
    library_ = dlopen("libcuda.so.1", RTLD_NOW);
    if (library_ == nullptr) return false;
    int devices = 0;
    if (COTTENTION_FUNCTION(library_, cuInit)(0) != CUDA_SUCCESS) return false;
    call(COTTENTION_FUNCTION(library_, cuDeviceGetCount)(&devices), "cuDeviceGetCount");
    if (devices == 0) return false;
    CUcontext context{};
    call(COTTENTION_FUNCTION(library_, cuDeviceGet)(&device_, 0), "cuDeviceGet");
    call(COTTENTION_FUNCTION(library_, cuDevicePrimaryCtxRetain)(&context, device_),
         "cuDevicePrimaryCtxRetain");
    call(COTTENTION_FUNCTION(library_, cuCtxSetCurrent)(context), "cuCtxSetCurrent");
    return true;
  }

  std::string architecture() const {
    int major = 0, minor = 0;
    const auto ask = COTTENTION_FUNCTION(library_, cuDeviceGetAttribute);
    call(ask(&major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device_), "cuDeviceGetAttribute");
    call(ask(&minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device_), "cuDeviceGetAttribute");
    return "sm_" + std::to_string(major) + std::to_string(minor);
  }

  CUfunction function(const Kernel& kernel, int shared_bytes) const {
    CUmodule module{};
    CUfunction function{};
    call(COTTENTION_FUNCTION(library_, cuModuleLoadData)(&module, kernel.image.c_str()), "cuModuleLoadData");
    call(COTTENTION_FUNCTION(library_, cuModuleGetFunction)(&function, module, kernel.name.c_str()),
         "cuModuleGetFunction");
    call(COTTENTION_FUNCTION(library_, cuFuncSetAttribute)(
             function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, shared_bytes),
         "cuFuncSetAttribute");
    return function;
  }

  /// A copy in device memory, which stays until the process ends.
  template <class T>
  T* upload(const std::vector<T>& values) const {
    CUdeviceptr memory{};
    const std::size_t bytes = values.size() * sizeof(T);
    call(COTTENTION_FUNCTION(library_, cuMemAlloc)(&memory, bytes), "cuMemAlloc");
    call(COTTENTION_FUNCTION(library_, cuMemcpyHtoD)(memory, values.data(), bytes), "cuMemcpyHtoD");
    return reinterpret_cast<T*>(memory);
  }
  /// Waits for what was launched.
  template <class T>
  void download(std::vector<T>& values, const T* memory) const {
    call(COTTENTION_FUNCTION(library_, cuMemcpyDtoH)(values.data(), reinterpret_cast<CUdeviceptr>(memory),
                                                     values.size() * sizeof(T)),
         "cuMemcpyDtoH");
  }

  template <class Params>
  void launch(CUfunction function, std::int64_t blocks, int threads, int shared_bytes, Params params) const {
    void* arguments[] = {&params};
    call(COTTENTION_FUNCTION(library_, cuLaunchKernel)(
             function, static_cast<unsigned>(blocks), 1, 1, static_cast<unsigned>(threads), 1, 1,
             static_cast<unsigned>(shared_bytes), nullptr, arguments, nullptr),
         "cuLaunchKernel");
  }

 private:
  void call(CUresult result, const char* name) const {
    if (result == CUDA_SUCCESS) return;
    const char* reason = "an unknown error";
    COTTENTION_FUNCTION(library_, cuGetErrorString)(result, &reason);
    fail(std::string(name) + ": " + reason);
  }

  void* library_ = nullptr;
  CUdevice device_{};
};

/// The error of `tokens` launches, each of one token for every lane.
double launch(const Driver& driver, const Kernel& kernel, std::int64_t dim_qk, std::int64_t dim_v) {
  const int threads = kernel.numbers.at("threads"), shared_bytes = kernel.numbers.at("shared_bytes");
  if (kernel.numbers.at("param_bytes") != sizeof(kernel::StepParams<bfloat16>))
    fail("g++ and NVRTC lay parameters out in two ways");
  std::mt19937 random(1);
  const auto q = random_tensor<bfloat16>(lanes * tokens * heads_q * dim_qk, random);
  const auto k = random_tensor<bfloat16>(lanes * tokens * heads_kv * dim_qk, random);
  const auto v = random_tensor<bfloat16>(lanes * tokens * heads_kv * dim_v, random);
  const std::vector<float> m(scale_logit, scale_logit + heads_kv),
      h(static_cast<std::size_t>(lanes * heads_kv * dim_qk * dim_v));
  const std::vector<std::int64_t> count(lanes);
  std::vector<bfloat16> o(static_cast<std::size_t>(lanes * tokens * heads_q * dim_v));

  const Shape shape{.batch = lanes,
                    .seq_q = tokens,
                    .seq_k = tokens,
                    .heads_q = heads_q,
                    .heads_kv = heads_kv,
                    .dim_qk = dim_qk,
                    .dim_v = dim_v};
  StepArguments<bfloat16> args{.shape = shape};
  args.shape.seq_q = args.shape.seq_k = 1;
  const auto token_of = [](auto* data, std::int64_t row) {
    return Tensor<std::remove_pointer_t<decltype(data)>>{data, {.batch = tokens * row, .seq = row}};
  };
  const bfloat16 *const device_q = driver.upload(q), *const device_k = driver.upload(k),
                        *const device_v = driver.upload(v);
  bfloat16* const device_o = driver.upload(o);
  args.scale_logit = driver.upload(m);
  args.pool = {driver.upload(h), driver.upload(count)}, args.pool_slots = lanes;
  const CUfunction function = driver.function(kernel, shared_bytes);
  for (std::int64_t t = 0; t < tokens; ++t) {
    args.q = token_of(device_q + t * heads_q * dim_qk, heads_q * dim_qk);
    args.k = token_of(device_k + t * heads_kv * dim_qk, heads_kv * dim_qk);
    args.v = token_of(device_v + t * heads_kv * dim_v, heads_kv * dim_v);
    args.o = token_of(device_o + t * heads_q * dim_v, heads_q * dim_v);
    driver.launch(function, lanes * heads_kv * kernel.numbers.at("v_tiles"), threads, shared_bytes,
                  kernel::step_params(args));
  }
  driver.download(o, device_o);

  RelativeError error;
  error.add(
      o, reference::forward<Attention>(
             {.shape = shape, .q = {q.data()}, .k = {k.data()}, .v = {v.data()}, .scale_logit = scale_logit})
             .o);
  return error.value();
}

constexpr const char* usage =
    "usage: nvrtc INCLUDE CUDA DIM_QK DIM_V [ARCHITECTURE]\n"
    "INCLUDE has cottention/, CUDA is a folder such as /usr/local/cuda, and ARCHITECTURE one such as\n"
    "sm_90, or compute_90 for PTX; without it that of the GPU, or sm_90";

int run(int argc, char** argv) {
  if (argc != 5 && argc != 6) fail(usage);
  const std::filesystem::path include = argv[1], cuda = argv[2];
  const int dim_qk = std::atoi(argv[3]), dim_v = std::atoi(argv[4]);
  if (dim_qk < 8 || dim_qk % 8 != 0 || dim_v < 8 || dim_v % 8 != 0)
    fail("DIM_QK and DIM_V must be positive multiples of 8");
  Nvrtc nvrtc;
  if (!nvrtc.load(cuda)) return std::printf("skipped: no NVRTC in %s\n", cuda.c_str()), 77;
  Driver driver;
  const bool has_gpu = driver.load();
  Source source{.text = text,
                .entry = "&cottention::device::entry<Kernel>",
                .numbers = {"threads", "shared_bytes", "param_bytes", "v_tiles"},
                .options = {"-std=c++20", "-default-device", "-I" + (include / "cottention/rtc").string(),
                            "-I" + include.string(), "-I" + (cuda / "include/cccl").string(),
                            "-DDIM_QK=" + std::to_string(dim_qk), "-DDIM_V=" + std::to_string(dim_v)},
                .architecture = argc == 6 ? argv[5]
                                : has_gpu ? driver.architecture()
                                          : "sm_90",
                .read = {include / "cottention", cuda / "include/cccl/cuda/std/__cccl/version.h"}};
  const Kernel kernel = find_or_compile(nvrtc, source);
  std::printf("%scompiled for %s, %zu bytes, kernel %s with %d bytes of shared memory\n",
              has_gpu ? "" : "no GPU here: ", source.architecture.c_str(), kernel.image.size(),
              kernel.name.c_str(), kernel.numbers.at("shared_bytes"));
  if (!has_gpu) return 0;
  const double error = launch(driver, kernel, dim_qk, dim_v);
  std::printf("%lld tokens of %lld sequences: relative RMS error %.1e\n", static_cast<long long>(tokens),
              static_cast<long long>(lanes), error);
  return error <= 3e-3 ? 0 : 1;  // bf16
}

}  // namespace cottention::example

int main(int argc, char** argv) { return cottention::example::run(argc, argv); }
