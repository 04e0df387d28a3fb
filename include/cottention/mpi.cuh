// Ranks that are processes of an MPI that takes device memory, for calls on parts of sequences on GPUs
// (sequence_parallel.cuh). An optional header, as is mpi.hpp.
#pragma once

#include <cottention/requirements.hpp>

#include <cottention/host_only.hpp>

#include <cstddef>

#include <cuda_runtime.h>

#include <cottention/device/runtime.cuh>
#include <cottention/mpi.hpp>

namespace cottention {

/// The processes of a communicator of MPI, each with a GPU, for calls on a stream:
///
///     MpiCommunicator processes(MPI_COMM_WORLD);
///     MpiDeviceCommunicator ranks(processes, stream);
///     CallStatus status = agree<P>(arguments, {}, ranks, workspace, agreement);
///     if (status) status = forward<P>(arguments, {}, agreement, ranks, workspace, stream);
///
/// The MPI must take device memory ("CUDA-aware"), which MPI itself has no question for. MPI knows no
/// streams, so before each gather the host waits for `stream`, and after it for the other processes: calls do
/// wait with these ranks, and cannot be captured in a graph.
class MpiDeviceCommunicator {
 public:
  MpiDeviceCommunicator(MpiCommunicator& processes, cudaStream_t stream)
      : processes_(processes), stream_(stream) {}

  int rank() const { return processes_.rank(); }
  int size() const { return processes_.size(); }

  CallStatus exchange(const void* send, std::size_t bytes, const void*& received) {
    return processes_.exchange(send, bytes, received);
  }
  CallStatus start_all_gather(const void* send, void* all, std::size_t bytes) {
    const CallStatus status = device::take_error(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
    const CallStatus started = processes_.start_all_gather(send, all, bytes);
    if (status || !started) return status ? started : status;
    (void)finish_all_gather();  // the other processes wait for this one, whatever it has to send
    return status;
  }
  CallStatus finish_all_gather() { return processes_.finish_all_gather(); }

 private:
  MpiCommunicator& processes_;
  cudaStream_t stream_;
};
static_assert(Communicator<MpiDeviceCommunicator>);

}  // namespace cottention
