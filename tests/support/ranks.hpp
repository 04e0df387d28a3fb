// Ranks of any kind as one type, and ranks that are threads of this process.
#pragma once

#include <barrier>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

#include <cottention/sequence_parallel/communicator.hpp>

namespace support {

/// A communicator, whatever it is made of, and what it has sent.
class Rank {
 public:
  virtual ~Rank() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;

  cottention::CallStatus exchange(const void* send, std::size_t bytes, const void*& received) {
    count(bytes);
    return do_exchange(send, bytes, received);
  }
  cottention::CallStatus start_all_gather(const void* send, void* all, std::size_t bytes) {
    count(bytes);
    return do_start(send, all, bytes);
  }
  cottention::CallStatus finish_all_gather() { return do_finish(); }

  std::size_t bytes_sent() const { return bytes_sent_; }
  int messages_sent() const { return messages_sent_; }

 private:
  virtual cottention::CallStatus do_exchange(const void* send, std::size_t bytes, const void*& received) = 0;
  virtual cottention::CallStatus do_start(const void* send, void* all, std::size_t bytes) = 0;
  virtual cottention::CallStatus do_finish() = 0;
  void count(std::size_t bytes) {
    bytes_sent_ += bytes;
    ++messages_sent_;
  }

  std::size_t bytes_sent_ = 0;
  int messages_sent_ = 0;
};
static_assert(cottention::Communicator<Rank>);

/// Any other communicator as a Rank.
template <cottention::Communicator C>
class RankOf final : public Rank {
 public:
  explicit RankOf(C& communicator) : communicator_(communicator) {}
  int rank() const override { return communicator_.rank(); }
  int size() const override { return communicator_.size(); }

 private:
  cottention::CallStatus do_exchange(const void* send, std::size_t bytes, const void*& received) override {
    return communicator_.exchange(send, bytes, received);
  }
  cottention::CallStatus do_start(const void* send, void* all, std::size_t bytes) override {
    return communicator_.start_all_gather(send, all, bytes);
  }
  cottention::CallStatus do_finish() override { return communicator_.finish_all_gather(); }

  C& communicator_;
};

/// What threads that are ranks share.
class ThreadRanks {
 public:
  explicit ThreadRanks(int ranks) : sends_(static_cast<std::size_t>(ranks)), all_here_(ranks) {}
  int size() const { return static_cast<int>(sends_.size()); }

  /// Copies `bytes` of every rank to `all`, [size, bytes]. A rank that brings another number of bytes, or
  /// comes to another operation, makes all fail.
  cottention::CallStatus gather(int rank, int operation, const void* send, void* all, std::size_t bytes) {
    sends_[static_cast<std::size_t>(rank)] = {send, bytes, operation};
    all_here_.arrive_and_wait();
    cottention::CallStatus status;
    for (std::size_t r = 0; r < sends_.size(); ++r) {
      if (sends_[r].bytes != sends_[0].bytes || sends_[r].operation != sends_[0].operation)
        status = cottention::CallStatus::failure(cottention::StatusCode::communication_error,
                                                 "rank %d is not where rank 0 is", static_cast<int>(r));
      else if (bytes > 0 && status)
        std::memcpy(static_cast<unsigned char*>(all) + r * bytes, sends_[r].data, bytes);
    }
    all_here_.arrive_and_wait();
    return status;
  }

  /// body(rank) on a thread for each rank.
  template <class Body>
  void run(Body body);

 private:
  struct Send {
    const void* data = nullptr;
    std::size_t bytes = 0;
    int operation = 0;
  };
  std::vector<Send> sends_;
  std::barrier<> all_here_;
};

class ThreadRank final : public Rank {
 public:
  ThreadRank(ThreadRanks& ranks, int rank) : ranks_(ranks), rank_(rank) {}
  int rank() const override { return rank_; }
  int size() const override { return ranks_.size(); }

 private:
  cottention::CallStatus do_exchange(const void* send, std::size_t bytes, const void*& received) override {
    exchanged_.resize(bytes * static_cast<std::size_t>(size()));
    received = exchanged_.data();
    return ranks_.gather(rank_, 0, send, exchanged_.data(), bytes);
  }
  cottention::CallStatus do_start(const void* send, void* all, std::size_t bytes) override {
    send_ = send, all_ = all, bytes_ = bytes;
    return {};
  }
  cottention::CallStatus do_finish() override { return ranks_.gather(rank_, 1, send_, all_, bytes_); }

  ThreadRanks& ranks_;
  int rank_;
  std::vector<unsigned char> exchanged_;
  const void* send_ = nullptr;
  void* all_ = nullptr;
  std::size_t bytes_ = 0;
};

template <class Body>
void ThreadRanks::run(Body body) {
  std::vector<std::thread> threads;
  for (int r = 0; r < size(); ++r)
    threads.emplace_back([this, r, &body] {
      ThreadRank rank(*this, r);
      body(rank);
    });
  for (std::thread& thread : threads) thread.join();
}

}  // namespace support
