// Words that the lanes of a warp execute together, and barriers.
#include <array>

#include "block.hpp"

namespace cottention::emulation {

void sync_warp(Where where) {
  const Entry entry(where);
  Block& b = block();
  int nothing = 0;
  b.together("bar.warp.sync", 0, nothing, where, [&](auto&) { b.order_warp(); });
}

std::uint64_t shuffle(std::uint64_t value, int source, Where where) {
  struct Argument {
    std::uint64_t mine, theirs;
    std::size_t source;
  } argument{value, 0, static_cast<std::size_t>(source) % warp_size};
  const Entry entry(where);
  Block& b = block();
  b.together("shfl.sync", 0, argument, where, [](const auto& lanes) {
    for (Argument* lane : lanes) lane->theirs = lanes[lane->source]->mine;
  });
  return argument.theirs;
}

std::uint32_t vote(bool predicate, Vote kind, Where where) {
  struct Argument {
    bool predicate;
    std::uint32_t all;
  } argument{predicate, 0};
  const Entry entry(where);
  Block& b = block();
  b.together(kind == Vote::ballot ? "vote.sync.ballot" : "vote.sync.any", 0, argument, where,
             [](const auto& lanes) {
               std::uint32_t all = 0;
               for (std::size_t i = 0; i < lanes.size(); ++i) all |= std::uint32_t{lanes[i]->predicate} << i;
               for (Argument* lane : lanes) lane->all = all;
             });
  return argument.all;
}

void sync_block(Where where) {
  const Entry entry(where);
  Block& b = block();
  b.barrier("bar.sync", 0, b.thread_count(), Block::Arrival::wait, where);
}

void bar_sync(int id, int threads, Where where) {
  const Entry entry(where);
  Block& b = block();
  b.barrier("bar.sync", id, threads, Block::Arrival::wait, where);
}

void bar_arrive(int id, int threads, Where where) {
  const Entry entry(where);
  Block& b = block();
  b.barrier("bar.arrive", id, threads, Block::Arrival::pass, where);
}

bool bar_red_or(int id, int threads, bool predicate, Where where) {
  const Entry entry(where);
  block().barrier("bar.red.or", id, threads, Block::Arrival::wait, where, &predicate);
  return predicate;
}

}  // namespace cottention::emulation
