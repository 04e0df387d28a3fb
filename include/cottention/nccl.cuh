// Ranks that are GPUs of NCCL, for calls on parts of sequences (sequence_parallel.cuh). An optional header;
// `find_package(cottention COMPONENTS nccl)` finds an NCCL.
#pragma once

#include <cottention/requirements.hpp>

#include <cottention/host_only.hpp>

#include <cstddef>
#include <new>
#include <thread>

#include <cuda_runtime.h>
#include <nccl.h>

#include <cottention/device/runtime.cuh>
#include <cottention/sequence_parallel/communicator.hpp>

namespace cottention {

/// The GPUs of a communicator of NCCL, for calls on a stream:
///
///     NcclCommunicator ranks(communicator, stream);
///     CallStatus status = agree<P>(arguments, {}, ranks, workspace, agreement);
///     if (status) status = forward<P>(arguments, {}, agreement, ranks, workspace, stream);
///
/// Made, used and destroyed with the communicator's device current, and on one thread at a time; the
/// communicator is one that blocks, as NCCL makes them unless told otherwise, and outlives it. Nothing else
/// may be started on the communicator during a call.
///
/// Gathers run on a stream of its own, beside what the calls compute meanwhile, and are ordered with the
/// calls' stream by events; neither the host nor that stream waits longer than for what is gathered. They may
/// be captured with the calls. `exchange` alone waits on the host, for that other stream. Allocates once, in
/// the constructor: max_exchange_bytes for each rank on the device and on the host, a stream and two events.
///
/// An error of NCCL is communication_error. What goes wrong later, as where a rank has died or CUDA has
/// failed on one, NCCL tells by ncclCommGetAsyncError, which `exchange` asks while it waits; ncclCommAbort
/// then ends what waits on GPUs. Ranks should compare `status` before the first call: where the constructor
/// has failed on one, the others wait for it. Where threads of one process have a GPU each,
/// CUDA_MODULE_LOADING=EAGER keeps kernels from being loaded while a gather of another thread waits.
class NcclCommunicator {
 public:
  NcclCommunicator(ncclComm_t communicator, cudaStream_t stream)
      : communicator_(communicator), stream_(stream) {
    status_ = of_nccl(ncclCommUserRank(communicator, &rank_), "ncclCommUserRank");
    if (status_) status_ = of_nccl(ncclCommCount(communicator, &size_), "ncclCommCount");
    const std::size_t bytes = max_exchange_bytes * static_cast<std::size_t>(size_);
    if (status_) status_ = device::take_error(cudaMalloc(&staged_, bytes), "cudaMalloc");
    if (status_)
      status_ = device::take_error(cudaStreamCreateWithFlags(&gathers_, cudaStreamNonBlocking),
                                   "cudaStreamCreateWithFlags");
    for (cudaEvent_t* const event : {&computed_, &gathered_})
      if (status_)
        status_ = device::take_error(cudaEventCreateWithFlags(event, cudaEventDisableTiming),
                                     "cudaEventCreateWithFlags");
    if (!status_) return;
    exchanged_ =
        static_cast<std::byte*>(::operator new (bytes, std::align_val_t{workspace_alignment}, std::nothrow));
    if (exchanged_ == nullptr)
      status_ = CallStatus::failure(StatusCode::communication_error,
                                    "the constructor of NcclCommunicator: no memory for %zu bytes", bytes);
  }
  ~NcclCommunicator() {
    ::operator delete (exchanged_, std::align_val_t{workspace_alignment});
    for (const cudaEvent_t event : {computed_, gathered_})
      if (event != nullptr) (void)cudaEventDestroy(event);
    if (gathers_ != nullptr) (void)cudaStreamDestroy(gathers_);
    (void)cudaFree(staged_);
  }
  NcclCommunicator(const NcclCommunicator&) = delete;
  NcclCommunicator& operator=(const NcclCommunicator&) = delete;

  /// What went wrong in the constructor.
  [[nodiscard]] CallStatus status() const { return status_; }

  int rank() const { return rank_; }
  int size() const { return size_; }

  CallStatus exchange(const void* send, std::size_t bytes, const void*& received) {
    received = exchanged_;
    if (!status_) return status_;
    std::byte* const own = static_cast<std::byte*>(staged_) + static_cast<std::size_t>(rank_) * bytes;
    CallStatus status = device::take_error(
        cudaMemcpyAsync(own, send, bytes, cudaMemcpyHostToDevice, gathers_), "cudaMemcpyAsync");
    if (status) status = gather(own, staged_, bytes);
    if (status)
      status =
          device::take_error(cudaMemcpyAsync(exchanged_, staged_, bytes * static_cast<std::size_t>(size_),
                                             cudaMemcpyDeviceToHost, gathers_),
                             "cudaMemcpyAsync");
    return status ? wait() : status;
  }

  CallStatus start_all_gather(const void* send, void* all, std::size_t bytes) {
    if (!status_) return status_;
    CallStatus status = device::take_error(cudaEventRecord(computed_, stream_), "cudaEventRecord");
    if (status)
      status = device::take_error(cudaStreamWaitEvent(gathers_, computed_, 0), "cudaStreamWaitEvent");
    if (status) status = gather(send, all, bytes);
    if (status) status = device::take_error(cudaEventRecord(gathered_, gathers_), "cudaEventRecord");
    return status;
  }
  CallStatus finish_all_gather() {
    return device::take_error(cudaStreamWaitEvent(stream_, gathered_, 0), "cudaStreamWaitEvent");
  }

 private:
  /// Waits on the host for what has been gathered, or for an error of NCCL.
  CallStatus wait() const {
    for (;;) {
      const cudaError_t done = cudaStreamQuery(gathers_);
      if (done != cudaErrorNotReady) return device::take_error(done, "cudaStreamQuery");
      (void)cudaGetLastError();
      ncclResult_t error = ncclSuccess;
      CallStatus status = of_nccl(ncclCommGetAsyncError(communicator_, &error), "ncclCommGetAsyncError");
      if (status) status = of_nccl(error, "ncclAllGather");
      if (!status) return status;
      std::this_thread::yield();
    }
  }
  CallStatus gather(const void* send, void* all, std::size_t bytes) const {
    return of_nccl(ncclAllGather(send, all, bytes, ncclUint8, communicator_, gathers_), "ncclAllGather");
  }
  static CallStatus of_nccl(ncclResult_t result, const char* call) {
    if (result == ncclSuccess) return {};
    return CallStatus::failure(StatusCode::communication_error, "%s: error %d of NCCL: %s", call,
                               static_cast<int>(result), ncclGetErrorString(result));
  }

  ncclComm_t communicator_;
  cudaStream_t stream_, gathers_ = nullptr;
  cudaEvent_t computed_ = nullptr, gathered_ = nullptr;
  void* staged_ = nullptr;
  std::byte* exchanged_ = nullptr;
  int rank_ = 0, size_ = 1;
  CallStatus status_;
};
static_assert(Communicator<NcclCommunicator>);

}  // namespace cottention
