// Ranks that are processes of MPI, for calls on parts of sequences (sequence_parallel.hpp). An optional
// header, for any MPI-3; `find_package(cottention COMPONENTS mpi)` finds one.
#pragma once

#include <cottention/requirements.hpp>

#include <cottention/host_only.hpp>

#include <algorithm>
#include <climits>
#include <cstddef>
#include <new>

#include <mpi.h>

#include <cottention/sequence_parallel/communicator.hpp>

namespace cottention {

/// The processes of a communicator of MPI:
///
///     MpiCommunicator ranks(MPI_COMM_WORLD);
///     CallStatus status = cpu::forward<P>(arguments, {}, ranks, workspace);
///
/// Uses the communicator that it is given, on which nothing else may be under way during a call; a program
/// that has such traffic gives it a duplicate (MPI_Comm_dup), which it frees itself after MpiCommunicator has
/// gone. All processes make theirs together, and one thread at a time may call. Allocates once,
/// max_exchange_bytes for each process. Memory that it gathers is the host's, or a device's where the MPI
/// takes device memory; work on a device is not waited for.
///
/// An error of MPI is communication_error where the communicator's error handler is MPI_ERRORS_RETURN. Under
/// MPI's own, MPI_ERRORS_ARE_FATAL, it ends all processes, as does mpirun where a process has died.
class MpiCommunicator {
 public:
  explicit MpiCommunicator(MPI_Comm communicator) : communicator_(communicator) {
    if (error_ = MPI_Comm_rank(communicator, &rank_); error_ != MPI_SUCCESS) return;
    if (error_ = MPI_Comm_size(communicator, &size_); error_ != MPI_SUCCESS) return;
    exchanged_ =
        static_cast<std::byte*>(::operator new (max_exchange_bytes* static_cast<std::size_t>(size_),
                                                std::align_val_t{workspace_alignment}, std::nothrow));
    // What one process has no memory for, all refuse: none waits for another.
    error_ = exchanged_ == nullptr ? MPI_ERR_NO_MEM : MPI_SUCCESS;
    const int own = error_;
    if (const int error = MPI_Allreduce(&own, &error_, 1, MPI_INT, MPI_MAX, communicator);
        error != MPI_SUCCESS)
      error_ = error;
  }
  ~MpiCommunicator() { ::operator delete (exchanged_, std::align_val_t{workspace_alignment}); }
  MpiCommunicator(const MpiCommunicator&) = delete;
  MpiCommunicator& operator=(const MpiCommunicator&) = delete;

  /// What went wrong in the constructor.
  [[nodiscard]] CallStatus status() const { return status_of(error_, "the constructor of MpiCommunicator"); }

  int rank() const { return rank_; }
  int size() const { return size_; }

  CallStatus exchange(const void* send, std::size_t bytes, const void*& received) {
    received = exchanged_;
    if (error_ != MPI_SUCCESS) return status();
    const int count = static_cast<int>(bytes);
    return status_of(MPI_Allgather(send, count, MPI_BYTE, exchanged_, count, MPI_BYTE, communicator_),
                     "MPI_Allgather");
  }

  /// More bytes than an int counts go in units of a power of two, at most 64, that divides them.
  CallStatus start_all_gather(const void* send, void* all, std::size_t bytes) {
    if (error_ != MPI_SUCCESS) return status();
    const std::size_t unit = std::min<std::size_t>(bytes & (~bytes + 1), 64);
    MPI_Datatype type = MPI_BYTE;
    std::size_t count = bytes;
    if (bytes > INT_MAX) {
      if (bytes / unit > INT_MAX)
        return CallStatus::failure(
            StatusCode::bad_shape,
            "shape: the states of a rank have %zu bytes: must be less than 2^31 times %zu, for MPI", bytes,
            unit);
      count = bytes / unit;
      if (const int error = MPI_Type_contiguous(static_cast<int>(unit), MPI_BYTE, &type);
          error != MPI_SUCCESS)
        return status_of(error, "MPI_Type_contiguous");
      if (const int error = MPI_Type_commit(&type); error != MPI_SUCCESS)
        return status_of(error, "MPI_Type_commit");
    }
    const int error = MPI_Iallgather(send, static_cast<int>(count), type, all, static_cast<int>(count), type,
                                     communicator_, &request_);
    if (type != MPI_BYTE) (void)MPI_Type_free(&type);
    return status_of(error, "MPI_Iallgather");
  }
  CallStatus finish_all_gather() { return status_of(MPI_Wait(&request_, MPI_STATUS_IGNORE), "MPI_Wait"); }

 private:
  static CallStatus status_of(int error, const char* call) {
    if (error == MPI_SUCCESS) return {};
    char text[MPI_MAX_ERROR_STRING] = {};
    int length = 0;
    if (MPI_Error_string(error, text, &length) != MPI_SUCCESS) length = 0;
    return CallStatus::failure(StatusCode::communication_error, "%s: error %d of MPI: %s", call, error, text);
  }

  MPI_Comm communicator_;
  MPI_Request request_ = MPI_REQUEST_NULL;
  std::byte* exchanged_ = nullptr;
  int rank_ = 0, size_ = 1;
  int error_ = MPI_SUCCESS;
};
static_assert(Communicator<MpiCommunicator>);

}  // namespace cottention
