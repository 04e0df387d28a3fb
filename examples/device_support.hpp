// What the examples for GPUs share: memory of the device and a stream, given back at the end of their scope.
#pragma once

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <span>
#include <utility>

#include <cuda_runtime.h>

#include <cottention/device/runtime.cuh>
#include <cottention/status.hpp>

/// Whether there is a GPU, or what CUDA says instead.
inline cottention::CallStatus find_device() {
  int devices = 0;
  return cottention::device::status_of(cudaGetDeviceCount(&devices), "cudaGetDeviceCount");
}

/// Ends the program, with the exit code by which ctest knows that it was skipped, where there is no GPU.
inline void skip_without_device() {
  const cottention::CallStatus found = find_device();
  if (found.ok()) return;
  std::printf("skipped: %s\n", found.reason);
  std::exit(77);
}

class Stream {
 public:
  Stream() = default;
  ~Stream() {
    if (stream_ != nullptr) (void)cudaStreamDestroy(stream_);
  }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  cottention::CallStatus create() {
    return cottention::device::status_of(cudaStreamCreate(&stream_), "cudaStreamCreate");
  }
  cottention::CallStatus wait() const {
    return cottention::device::status_of(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
  }
  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

/// Values in device memory. Copies are enqueued: the host's values must stay until the stream is past them.
template <class T>
class DeviceArray {
 public:
  DeviceArray() = default;
  ~DeviceArray() { (void)cudaFree(data_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;

  T* data() const { return data_; }

  /// Makes room for `count` values. Where there was too little, what was there is lost.
  cottention::CallStatus reserve(std::size_t count) {
    if (count <= count_) return {};
    (void)cudaFree(std::exchange(data_, nullptr));
    const cudaError_t error = cudaMalloc(&data_, count * sizeof(T));
    count_ = error == cudaSuccess ? count : 0;
    return cottention::device::status_of(error, "cudaMalloc");
  }
  cottention::CallStatus upload(std::span<const T> host, const Stream& stream) {
    if (cottention::CallStatus status = reserve(host.size()); !status) return status;
    return cottention::device::status_of(
        cudaMemcpyAsync(data_, host.data(), host.size_bytes(), cudaMemcpyHostToDevice, stream.get()),
        "cudaMemcpyAsync to the device");
  }
  cottention::CallStatus download(std::span<T> host, const Stream& stream) const {
    return cottention::device::status_of(
        cudaMemcpyAsync(host.data(), data_, host.size_bytes(), cudaMemcpyDeviceToHost, stream.get()),
        "cudaMemcpyAsync from the device");
  }
  /// Makes values first, ..., first + count - 1 zero.
  cottention::CallStatus clear(const Stream& stream, std::size_t first, std::size_t count) {
    return cottention::device::status_of(cudaMemsetAsync(data_ + first, 0, count * sizeof(T), stream.get()),
                                         "cudaMemsetAsync");
  }
  cottention::CallStatus clear(const Stream& stream) { return clear(stream, 0, count_); }

 private:
  T* data_ = nullptr;
  std::size_t count_ = 0;
};
