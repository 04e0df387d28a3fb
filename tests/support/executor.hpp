// Caller's thread pools for Execution::run, in every order that it allows.
#pragma once

#include <thread>
#include <vector>

#include <cottention/cpu.hpp>

namespace support {

enum class Order { sequential, reversed, concurrent };

inline void run_in_order(void*, int threads, void (*body)(void*, int), void* data) {
  for (int t = 0; t < threads; ++t) body(data, t);
}

inline void run_reversed(void*, int threads, void (*body)(void*, int), void* data) {
  for (int t = threads - 1; t >= 0; --t) body(data, t);
}

inline void run_at_once(void*, int threads, void (*body)(void*, int), void* data) {
  std::vector<std::thread> others;
  for (int t = 1; t < threads; ++t) others.emplace_back(body, data, t);
  if (threads > 0) body(data, 0);
  for (std::thread& other : others) other.join();
}

inline cottention::cpu::Execution executor(int threads, Order order = Order::concurrent) {
  return {.threads = threads,
          .run = order == Order::sequential ? run_in_order
                 : order == Order::reversed ? run_reversed
                                            : run_at_once};
}

/// The library's own threads, those of a caller, and one alone, of which ThreadSanitizer has nothing to say.
inline std::vector<cottention::cpu::Execution> executions() {
  std::vector<cottention::cpu::Execution> all{{}, executor(2)};
#ifndef __SANITIZE_THREAD__
  all.push_back({.threads = 1});
#endif
  return all;
}

}  // namespace support
