// Stands in for NCCL's header where GPUs are emulated: ranks are threads of this process, each with a
// communicator of ncclCommInitAll. One rank runs at a time: its thread holds a TurnOfRank, but where
// ncclAllGather waits for the other ranks. What a stream captures is not run, as in cuda_runtime.h.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <mutex>
#include <vector>

#include <cuda_runtime.h>

enum ncclResult_t {
  ncclSuccess = 0,
  ncclUnhandledCudaError = 1,
  ncclInvalidArgument = 4,
  ncclInvalidUsage = 5,
  ncclRemoteError = 6,
};
enum ncclDataType_t { ncclUint8 = 1 };

namespace cottention::emulation {

/// What the ranks of one ncclCommInitAll share.
struct RanksOfNccl {
  struct Send {
    const void* from = nullptr;
    void* to = nullptr;
    std::size_t bytes = 0;
  };
  explicit RanksOfNccl(std::size_t ranks) : sends(ranks) {}

  std::mutex turn;
  std::condition_variable gathered;
  std::vector<Send> sends;
  std::size_t here = 0, gathers = 0, destroyed = 0;
  ncclResult_t result = ncclSuccess;  // of the last gather
  bool is_aborted = false;
};

}  // namespace cottention::emulation

struct ncclComm {
  cottention::emulation::RanksOfNccl* ranks = nullptr;
  int rank = 0;
  std::unique_lock<std::mutex>* turn = nullptr;
  std::size_t bytes_sent = 0;     // in gathers so far
  int gathers = 0;                // of bytes at all
  cudaStream_t stream = nullptr;  // of the last gather
};
typedef ncclComm* ncclComm_t;

inline ncclResult_t ncclCommInitAll(ncclComm_t* communicators, int count, const int*) {
  if (count < 1) return ncclInvalidArgument;
  auto* ranks = new cottention::emulation::RanksOfNccl(static_cast<std::size_t>(count));
  for (int r = 0; r < count; ++r) {
    communicators[r] = new ncclComm;
    communicators[r]->ranks = ranks;
    communicators[r]->rank = r;
  }
  return ncclSuccess;
}
inline ncclResult_t ncclCommDestroy(ncclComm_t communicator) {
  if (++communicator->ranks->destroyed == communicator->ranks->sends.size()) delete communicator->ranks;
  delete communicator;
  return ncclSuccess;
}
/// What waits for a rank that aborts returns ncclRemoteError.
inline ncclResult_t ncclCommAbort(ncclComm_t communicator) {
  communicator->ranks->is_aborted = true;
  communicator->ranks->gathered.notify_all();
  return ncclSuccess;
}
inline ncclResult_t ncclCommGetAsyncError(ncclComm_t communicator, ncclResult_t* error) {
  if (communicator == nullptr) return ncclInvalidArgument;
  *error = communicator->ranks->is_aborted ? ncclRemoteError : ncclSuccess;
  return ncclSuccess;
}
inline ncclResult_t ncclCommCount(ncclComm_t communicator, int* count) {
  if (communicator == nullptr) return ncclInvalidArgument;
  *count = static_cast<int>(communicator->ranks->sends.size());
  return ncclSuccess;
}
inline ncclResult_t ncclCommUserRank(ncclComm_t communicator, int* rank) {
  if (communicator == nullptr) return ncclInvalidArgument;
  *rank = communicator->rank;
  return ncclSuccess;
}
inline const char* ncclGetErrorString(ncclResult_t result) {
  return result == ncclSuccess       ? "no error"
         : result == ncclRemoteError ? "remote process exited or there was a network error"
                                     : "invalid usage";
}

/// The last rank to come copies what all have sent. Ranks that bring different numbers of bytes all fail.
inline ncclResult_t ncclAllGather(const void* send, void* receive, std::size_t count, ncclDataType_t,
                                  ncclComm_t communicator, cudaStream_t stream) {
  auto& ranks = *communicator->ranks;
  if (!cottention::emulation::begin_launch(stream)) return ncclSuccess;
  communicator->bytes_sent += count;
  communicator->gathers += count > 0;
  communicator->stream = stream;
  if (ranks.is_aborted) return ncclRemoteError;
  ranks.sends[static_cast<std::size_t>(communicator->rank)] = {send, receive, count};
  if (++ranks.here < ranks.sends.size()) {
    if (communicator->turn == nullptr) return ncclInvalidUsage;
    const std::size_t mine = ranks.gathers;
    ranks.gathered.wait(*communicator->turn, [&] { return ranks.gathers != mine || ranks.is_aborted; });
    return ranks.is_aborted ? ncclRemoteError : ranks.result;
  }
  ranks.result = ncclSuccess;
  for (const auto& to : ranks.sends)
    for (std::size_t from = 0; from < ranks.sends.size(); ++from) {
      const auto& sent = ranks.sends[from];
      if (sent.bytes != count) ranks.result = ncclInvalidUsage;
      if (ranks.result == ncclSuccess &&
          cudaMemcpy(static_cast<unsigned char*>(to.to) + from * count, sent.from, count,
                     cudaMemcpyDeviceToDevice) != cudaSuccess)
        ranks.result = ncclUnhandledCudaError;
    }
  ranks.here = 0;
  ++ranks.gathers;
  ranks.gathered.notify_all();
  return ranks.result;
}

namespace cottention::emulation {

/// Waits until no other rank runs, and lets none run until it goes.
class TurnOfRank {
 public:
  explicit TurnOfRank(ncclComm_t communicator)
      : communicator_(communicator), held_(communicator->ranks->turn) {
    communicator->turn = &held_;
  }
  ~TurnOfRank() { communicator_->turn = nullptr; }
  TurnOfRank(const TurnOfRank&) = delete;
  TurnOfRank& operator=(const TurnOfRank&) = delete;

 private:
  ncclComm_t communicator_;
  std::unique_lock<std::mutex> held_;
};

}  // namespace cottention::emulation
