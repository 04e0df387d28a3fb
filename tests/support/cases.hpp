// The cases that forward and backward are both tested with, by topic.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <vector>

#include "support/problem_generator.hpp"

namespace support::cases {

using cottention::Mask, cottention::Scale;

/// Every case with every mask and scale. Those with cross-attention only bidirectional.
inline std::vector<Case> of_every_kind(const std::vector<Case>& some) {
  std::vector<Case> all;
  for (Case c : some)
    for (const Mask mask : {Mask::causal, Mask::bidirectional})
      for (const Scale scale : {Scale::none, Scale::by_key, Scale::by_query}) {
        const bool cross = c.shape.seq_q != c.shape.seq_k || !c.lengths_k.empty();
        if (mask == Mask::causal && cross) continue;
        c.mask = mask;
        c.scale = scale;
        all.push_back(c);
      }
  return all;
}

/// Every case with both masks, and the scales in turn: for what does not meet the weights of positions.
inline std::vector<Case> of_every_mask(const std::vector<Case>& some) {
  constexpr Scale scales[] = {Scale::by_key, Scale::by_query, Scale::none};
  std::vector<Case> all;
  std::size_t turn = 0;
  for (Case c : of_every_kind(some)) {
    if (c.scale != Scale::none) continue;  // one of each mask
    c.scale = scales[(turn / 2 + turn % 2) % 3];
    ++turn;
    all.push_back(c);
  }
  return all;
}

/// Around the edges of chunks of 16, 32 and 64, and several chunks with a ragged tail.
inline std::vector<Case> lengths() {
  std::vector<Case> some;
  for (const std::int64_t n : {0, 1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 129, 200})
    some.push_back({.shape = {2, n, n, 2, 2, 24, 40}});
  some.push_back({.shape = {1, 1000, 1000, 2, 1, 32, 32}});
  return of_every_kind(some);
}

/// Powers of two, multiples of 16 and anything else, dim_qk and dim_v apart.
inline std::vector<Case> head_dims() {
  std::vector<Case> some;
  constexpr std::int64_t dims[][2] = {{2, 1},    {1, 24},    {3, 5},     {5, 3},     {24, 1},    {24, 40},
                                      {40, 24},  {80, 100},  {100, 80},  {129, 3},   {3, 129},   {16, 16},
                                      {32, 32},  {48, 48},   {64, 64},   {96, 112},  {128, 128}, {64, 128},
                                      {160, 64}, {192, 208}, {256, 256}, {129, 129}, {17, 31},   {8, 8}};
  for (const auto& [dim_qk, dim_v] : dims) some.push_back({.shape = {1, 70, 70, 2, 1, dim_qk, dim_v}});
  return of_every_mask(some);
}

inline std::vector<Case> wide_head_dims() {
  return {{.shape = {1, 40, 40, 1, 1, 512, 512}},
          {.mask = Mask::bidirectional, .shape = {1, 40, 40, 1, 1, 512, 512}},
          {.shape = {1, 33, 33, 1, 1, 1024, 1024}},
          {.shape = {1, 9, 9, 1, 1, 16'384, 16}, .initial_state = Presence::present},
          {.shape = {1, 9, 9, 1, 1, 16, 16'384}, .initial_state = Presence::present},
          {.shape = {1, 5, 5, 1, 1, 65'536, 8}, .initial_state = Presence::present},
          {.shape = {1, 140, 140, 1, 1, 16'384, 64}, .initial_state = Presence::present},
          {.mask = Mask::bidirectional,
           .shape = {1, 9, 9, 1, 1, 16'384, 16},
           .rows = Rows::equal,
           .initial_state = Presence::present}};
}

inline std::vector<Case> paddings() {
  std::vector<Case> some;
  for (const Padding padding : {Padding::left, Padding::right, Padding::middle, Padding::unrelated})
    for (const std::int64_t n : {1, 33, 150})
      some.push_back(
          {.shape = {5, n, n, 2, 2, 24, 16}, .padding = padding, .initial_state = Presence::present});
  return of_every_kind(some);
}

inline std::vector<Case> packed() {
  std::vector<Case> some;
  for (const OffsetType type : {OffsetType::int64, OffsetType::int32}) {
    some.push_back({.shape = {.heads_q = 2, .heads_kv = 1, .dim_qk = 24, .dim_v = 40},
                    .lengths_q = {33, 0, 1, 64, 100, 2, 0},
                    .offset_type = type,
                    .initial_state = Presence::present});
    some.push_back({.shape = {.heads_q = 2, .heads_kv = 2, .dim_qk = 16, .dim_v = 16},
                    .lengths_q = {0, 70, 1, 1, 31},
                    .offset_type = type,
                    .padding = Padding::middle,
                    .layout = Layout::gaps});
    some.push_back({.shape = {.heads_q = 2, .heads_kv = 1, .dim_qk = 24, .dim_v = 16},
                    .lengths_q = {0, 35, 2, 0},
                    .trailing_q = 37,
                    .trailing_k = 37,
                    .offset_type = type,
                    .padding = type == OffsetType::int32 ? Padding::middle : Padding::none,
                    .layout = Layout::bhsd});
  }
  some.push_back({.shape = {.heads_q = 2, .heads_kv = 1, .dim_qk = 16, .dim_v = 24},
                  .lengths_q = {5, 40},
                  .lengths_k = {33, 0},
                  .trailing_q = 3,
                  .trailing_k = 70,
                  .initial_state = Presence::present});
  some.push_back({.shape = {.heads_q = 1, .heads_kv = 1, .dim_qk = 8, .dim_v = 8},
                  .lengths_q = {0, 0},
                  .trailing_q = 4,
                  .trailing_k = 4});
  some.push_back({.shape = {.heads_q = 2, .heads_kv = 1, .dim_qk = 16, .dim_v = 24},
                  .lengths_q = {0, 5, 40, 3, 0},
                  .lengths_k = {7, 0, 70, 33, 0},
                  .layout = Layout::bhsd,
                  .initial_state = Presence::present});
  some.push_back({.shape = {.heads_q = 1, .heads_kv = 1, .dim_qk = 8, .dim_v = 8}, .lengths_q = {0, 0}});
  return of_every_kind(some);
}

inline std::vector<Case> layouts() {
  std::vector<Case> some;
  for (const Layout layout : {Layout::bhsd, Layout::gaps})
    some.push_back({.shape = {3, 40, 40, 4, 2, 24, 17}, .layout = layout});
  return of_every_kind(some);
}

inline std::vector<Case> groups() {
  std::vector<Case> some;
  constexpr std::int64_t heads[][2] = {{3, 3}, {8, 1}, {6, 2}, {6, 3}};
  for (const auto& [heads_q, heads_kv] : heads)
    some.push_back({.shape = {2, 50, 50, heads_q, heads_kv, 16, 24}, .initial_state = Presence::present});
  return of_every_kind(some);
}

inline std::vector<Case> states() {
  std::vector<Case> some;
  for (const std::int64_t n : {0, 1, 40, 129})
    some.push_back({.shape = {3, n, n, 4, 2, 40, 24}, .initial_state = Presence::present});
  return of_every_kind(some);
}

/// Sequences of one chunk and of several, on either side of the lengths where that changes (cpu/form.hpp): 54
/// and 109 tokens at dimensions (64, 48), 160 and 320 at 160.
inline std::vector<Case> forms() {
  std::vector<Case> some;
  for (const std::int64_t n : {33, 54, 55, 109, 110})
    some.push_back({.shape = {2, n, n, 4, 2, 64, 48}, .padding = n == 54 ? Padding::middle : Padding::none});
  some.push_back({.shape = {1, 40, 70, 2, 1, 64, 64}});
  some.push_back({.shape = {.heads_q = 2, .heads_kv = 1, .dim_qk = 64, .dim_v = 96},
                  .lengths_q = {76, 20, 0, 77, 153, 154},
                  .padding = Padding::middle});
  std::vector<Case> all = of_every_kind(some), wide;  // weights do not meet dimensions
  for (const std::int64_t n : {160, 161, 320, 321}) wide.push_back({.shape = {1, n, n, 1, 1, 160, 160}});
  wide = of_every_mask(wide);
  all.insert(all.end(), wide.begin(), wide.end());
  return all;
}

/// Batches that share a pool of states: sequences and tokens that are there, and some that are not.
inline std::vector<Case> pools() {
  return of_every_kind({{.shape = {3, 70, 70, 4, 2, 24, 40}, .padding = Padding::middle},
                        {.shape = {.heads_q = 2, .heads_kv = 2, .dim_qk = 16, .dim_v = 24},
                         .lengths_q = {0, 130, 1, 0, 33},
                         .trailing_q = 3,
                         .trailing_k = 3,
                         .offset_type = OffsetType::int32},
                        {.shape = {4, 0, 0, 1, 1, 8, 8}}});
}

/// Batches with checkpoints every 128 tokens or more: sequences that end on one, short of the first, and
/// empty ones.
inline std::vector<Case> checkpoints() {
  return {{.scale = cottention::Scale::by_query,
           .shape = {2, 1300, 1300, 2, 1, 24, 40},
           .padding = Padding::middle},
          {.shape = {.heads_q = 2, .heads_kv = 2, .dim_qk = 24, .dim_v = 40},
           .lengths_q = {700, 0, 256, 33},
           .trailing_q = 5,
           .trailing_k = 5}};
}

inline std::vector<Case> cross_attention() {
  std::vector<Case> some;
  constexpr std::int64_t lengths[][2] = {{1, 70}, {70, 1}, {33, 100}, {200, 64}, {0, 40}, {40, 0}};
  for (const auto& [seq_q, seq_k] : lengths)
    for (const Padding padding : {Padding::none, Padding::right})
      some.push_back(
          {.shape = {2, seq_q, seq_k, 4, 2, 24, 40}, .padding = padding, .initial_state = Presence::present});
  return of_every_kind(some);
}

inline std::vector<Case> magnitudes() {
  std::vector<Case> some;
  for (const Rows rows : {Rows::correlated, Rows::small, Rows::tiny, Rows::huge, Rows::mixed})
    for (const Padding padding : {Padding::none, Padding::middle})
      some.push_back({.shape = {2, 70, 70, 2, 1, 40, 24}, .padding = padding, .rows = rows});
  return of_every_kind(some);
}

/// Long enough to be cut into pieces when heads are fewer than threads.
inline std::vector<Case> pieces() {
  std::vector<Case> some;
  some.push_back({.shape = {1, 9001, 9001, 1, 1, 16, 16}, .initial_state = Presence::present});
  some.push_back({.shape = {1, 4200, 4200, 6, 3, 8, 8}, .padding = Padding::middle});
  some.push_back({.shape = {.heads_q = 1, .heads_kv = 1, .dim_qk = 16, .dim_v = 8},
                  .lengths_q = {4200, 3, 0, 6000},
                  .padding = Padding::middle});
  some.push_back({.shape = {1, 5000, 9000, 1, 1, 16, 16}, .padding = Padding::right});
#ifdef __SANITIZE_THREAD__  // looks at threads, which the weights have no part in
  return of_every_mask(some);
#else
  return of_every_kind(some);
#endif
}

/// 131,072 tokens of one head; the state keeps growing where rows share a direction.
inline std::vector<Case> longest(std::int64_t dim) {
  constexpr std::int64_t n = 131'072;
  std::vector<Case> some;
  for (const Mask mask : {Mask::causal, Mask::bidirectional})
    for (const Rows rows : {Rows::normal, Rows::correlated})
      some.push_back({.mask = mask, .shape = {1, n, n, 1, 1, dim, dim}, .rows = rows});
  return some;
}

/// The cases in which NaN or infinity is put into a row, and the positions where.
struct Spoiled {
  Case description;
  std::vector<std::int64_t> positions;
};

inline std::vector<Spoiled> spoiled() {
  std::vector<Spoiled> all;
  const auto add = [&](const Case& some, const std::vector<std::int64_t>& positions) {
    for (const Case& c : of_every_kind({some}))
      if (c.scale != Scale::none) all.push_back({c, positions});
  };
  add({.shape = {2, 100, 100, 4, 2, 24, 8}}, {0, 31, 32, 45, 99});
  add({.shape = {2, 70, 70, 2, 2, 8, 24}, .padding = Padding::right}, {0, 31, 32, 45});
  add({.shape = {.heads_q = 2, .heads_kv = 1, .dim_qk = 16, .dim_v = 16}, .lengths_q = {40, 1, 40}},
      {0, 39, 40, 41});
  add({.shape = {1, 5000, 5000, 1, 1, 8, 8}}, {3001});  // in the middle of pieces
  return all;
}

/// A problem with everything drawn at random; some are long enough to be cut into pieces.
inline Case random(std::uint64_t seed) {
  Random draw(seed);
  const auto between = [&](std::int64_t low, std::int64_t high) { return low + draw.below(high - low + 1); };
  const auto some = [&]<class E>(std::initializer_list<E> values) {
    return values.begin()[draw.below(static_cast<std::int64_t>(values.size()))];
  };
  Case c{.mask = some({Mask::causal, Mask::bidirectional}),
         .scale = some({Scale::none, Scale::by_key, Scale::by_query}),
         .seed = seed};
  Extents& s = c.shape;
  s.heads_kv = between(1, 3);
  s.heads_q = s.heads_kv * between(1, 3);
  s.dim_qk = between(2, 40);
  s.dim_v = between(1, 40);
  s.batch = between(1, 4);
  const std::int64_t longest = some({20, 100, 300});
  s.seq_q = s.seq_k = between(0, longest);
  const bool cross = c.mask == Mask::bidirectional && draw.uniform() < 0.5;
  if (cross) s.seq_k = between(0, longest);
  if (draw.uniform() < 0.5)
    for (std::int64_t b = 0; b < s.batch; ++b) {
      c.lengths_q.push_back(between(0, longest));
      if (cross) c.lengths_k.push_back(between(0, longest));
    }
  c.offset_type = some({OffsetType::int32, OffsetType::int64});
  c.padding = some({Padding::none, Padding::left, Padding::right, Padding::middle, Padding::unrelated});
  c.layout = some({Layout::bshd, Layout::bhsd, Layout::gaps});
  c.initial_state = some({Presence::absent, Presence::present});
  return c;
}

/// Batches of long and short sequences, padded and packed.
inline std::vector<Case> batches() {
  return of_every_kind(
      {{.shape = {3, 100, 100, 4, 2, 24, 40}, .padding = Padding::middle, .initial_state = Presence::present},
       {.shape = {3, 5000, 5000, 1, 1, 16, 8}, .padding = Padding::right},
       {.shape = {1, 1100, 1100, 3, 3, 16, 8}},
       {.shape = {.heads_q = 2, .heads_kv = 1, .dim_qk = 8, .dim_v = 16},
        .lengths_q = {70, 9001, 0, 1, 5000},
        .initial_state = Presence::present}});
}

}  // namespace support::cases
