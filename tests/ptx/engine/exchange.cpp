// Among the lanes of a warp and the warps of a block.
#include <algorithm>

#include "forms.hpp"

namespace cottention::ptx {
namespace {

enum class Shuffle { index, up, down, xor_mask };

/// shfl.sync d|p, a, b, c, members. PTX ISA, "shfl.sync".
template <Shuffle kind>
void shuffle(Warp& w, const Instruction& i) {
  std::uint32_t* const d = w.at<std::uint32_t>(i.o[0]);
  std::uint32_t* const p = w.at<std::uint32_t>(i.o[1]);
  const std::uint32_t *const a = w.at<std::uint32_t>(i.o[2]), *const b = w.at<std::uint32_t>(i.o[3]),
                             *const c = w.at<std::uint32_t>(i.o[4]);
  std::uint32_t result[lanes] = {}, inside = 0;
  for (int l = 0; l < lanes; ++l) {
    if ((w.mask >> l & 1) == 0) continue;
    const int bound = static_cast<int>(c[l] & 0x1f), segment = static_cast<int>(c[l] >> 8 & 0x1f);
    const int most = (l & segment) | (bound & ~segment), least = l & segment,
              by = static_cast<int>(b[l] & 0x1f);
    int from = kind == Shuffle::up         ? l - by
               : kind == Shuffle::down     ? l + by
               : kind == Shuffle::xor_mask ? l ^ by
                                           : least | (by & ~segment);
    const bool is_inside = kind == Shuffle::up ? from >= most : from <= most;
    if (!is_inside) from = l;
    if ((w.mask >> from & 1) == 0)
      w.fail(i, l, "it reads lane " + std::to_string(from) + ", which does not take part");
    result[l] = a[from];
    inside |= static_cast<std::uint32_t>(is_inside) << l;
  }
  each_lane(w.mask, [&](int l) { d[l] = result[l]; });
  *p = (*p & ~w.mask) | (inside & w.mask);
}

enum class Vote { ballot, any, every };

template <Vote kind>
void vote(Warp& w, const Instruction& i) {
  const std::uint32_t votes = *w.at<std::uint32_t>(i.o[1]) & w.mask;
  std::uint32_t* const d = w.at<std::uint32_t>(i.o[0]);
  if (kind == Vote::ballot)
    each_lane(w.mask, [=](int l) { d[l] = votes; });
  else
    *d = (*d & ~w.mask) | ((kind == Vote::any ? votes != 0 : votes == w.mask) ? w.mask : 0);
}

template <class T, class F>
void reduce(Warp& w, const Instruction& i) {
  const std::uint32_t* const a = w.at<std::uint32_t>(i.o[1]);
  std::uint32_t* const d = w.at<std::uint32_t>(i.o[0]);
  T sum = static_cast<T>(a[std::countr_zero(w.mask)]);
  for (std::uint32_t rest = w.mask & (w.mask - 1); rest != 0; rest &= rest - 1)
    sum = F{}(sum, static_cast<T>(a[std::countr_zero(rest)]));
  each_lane(w.mask, [=](int l) { d[l] = static_cast<std::uint32_t>(sum); });
}
struct Add {
  template <class T>
  T operator()(T a, T b) const {
    return a + b;
  }
};
struct Least {
  template <class T>
  T operator()(T a, T b) const {
    return std::min(a, b);
  }
};
struct Most {
  template <class T>
  T operator()(T a, T b) const {
    return std::max(a, b);
  }
};

void nothing(Warp&, const Instruction&) {}

std::uint32_t uniform(Warp& w, const Instruction& i, int operand, const char* what) {
  const std::uint32_t* const values = w.at<std::uint32_t>(i.o[operand]);
  const int first = std::countr_zero(w.mask);
  each_lane(w.mask, [&](int l) {
    if (values[l] != values[first]) w.fail(i, l, std::string("the lanes of the warp name different ") + what);
  });
  return values[first];
}

/// All threads of the block, or as many as are named.
template <bool waits, bool counted>
void barrier(Warp& w, const Instruction& i) {
  const auto number = static_cast<int>(uniform(w, i, 0, "barriers"));
  const Size shape = w.block.shape;
  const std::uint32_t everyone = (shape.x * shape.y * shape.z + lanes - 1) / lanes * lanes;
  const std::uint32_t threads = counted ? uniform(w, i, 1, "numbers of threads") : everyone;
  w.block.arrive(w, i, number, threads, waits);
}

/// bar.red.or.pred d, barrier, threads, a.
void any_at_barrier(Warp& w, const Instruction& i) {
  const auto number = static_cast<int>(uniform(w, i, 1, "barriers"));
  const std::uint32_t threads = uniform(w, i, 2, "numbers of threads");
  w.block.arrive(w, i, number, threads, true, w.at<std::uint32_t>(i.o[0]),
                 *w.at<std::uint32_t>(i.o[3]) & w.mask);
}

enum Special : std::uint16_t {
  tid_x,
  tid_y,
  tid_z,
  ntid_x,
  ntid_y,
  ntid_z,
  ctaid_x,
  ctaid_y,
  ctaid_z,
  nctaid_x,
  nctaid_y,
  nctaid_z,
  lane_id,
  mask_lt,
  mask_le,
  mask_gt,
  mask_ge,
  mask_eq
};

void special(Warp& w, const Instruction& i) {
  std::uint32_t* const d = w.at<std::uint32_t>(i.o[0]);
  const Block& b = w.block;
  each_lane(w.mask, [&](int l) {
    const auto thread = static_cast<std::uint32_t>(w.index * lanes + l);
    const std::uint32_t values[] = {thread % b.shape.x,
                                    thread / b.shape.x % b.shape.y,
                                    thread / b.shape.x / b.shape.y,
                                    b.shape.x,
                                    b.shape.y,
                                    b.shape.z,
                                    b.index.x,
                                    b.index.y,
                                    b.index.z,
                                    b.grid.x,
                                    b.grid.y,
                                    b.grid.z,
                                    static_cast<std::uint32_t>(l),
                                    (1u << l) - 1,
                                    (2u << l) - 1,
                                    ~((2u << l) - 1),
                                    ~((1u << l) - 1),
                                    1u << l};
    d[l] = values[i.extra];
  });
}

template <std::uint64_t window>
void to_generic(Warp& w, const Instruction& i) {
  std::uint64_t* const d = w.at<std::uint64_t>(i.o[0]);
  const std::uint64_t* const a = w.at<std::uint64_t>(i.o[1]);
  each_lane(w.mask, [=](int l) { d[l] = a[l] + window; });
}
template <std::uint64_t window>
void from_generic(Warp& w, const Instruction& i) {
  std::uint64_t* const d = w.at<std::uint64_t>(i.o[0]);
  const std::uint64_t* const a = w.at<std::uint64_t>(i.o[1]);
  each_lane(w.mask, [=](int l) { d[l] = a[l] - window; });
}

void trap(Warp& w, const Instruction& i) { w.fail(i, std::countr_zero(w.mask), "trap"); }

}  // namespace

void add_exchange(Forms& f) {
  f["shfl.sync.idx.b32"] = {shuffle<Shuffle::index>, "WPwwww", Kind::member_lanes, 5};
  f["shfl.sync.up.b32"] = {shuffle<Shuffle::up>, "WPwwww", Kind::member_lanes, 5};
  f["shfl.sync.down.b32"] = {shuffle<Shuffle::down>, "WPwwww", Kind::member_lanes, 5};
  f["shfl.sync.bfly.b32"] = {shuffle<Shuffle::xor_mask>, "WPwwww", Kind::member_lanes, 5};
  f["vote.sync.ballot.b32"] = {vote<Vote::ballot>, "Wpw", Kind::member_lanes, 2};
  f["vote.sync.any.pred"] = {vote<Vote::any>, "Ppw", Kind::member_lanes, 2};
  f["vote.sync.all.pred"] = {vote<Vote::every>, "Ppw", Kind::member_lanes, 2};
  f["redux.sync.add.s32"] =
      f["redux.sync.add.u32"] = {reduce<std::uint32_t, Add>, "Www", Kind::member_lanes, 2};
  f["redux.sync.min.s32"] = {reduce<std::int32_t, Least>, "Www", Kind::member_lanes, 2};
  f["redux.sync.max.s32"] = {reduce<std::int32_t, Most>, "Www", Kind::member_lanes, 2};
  f["redux.sync.min.u32"] = {reduce<std::uint32_t, Least>, "Www", Kind::member_lanes, 2};
  f["redux.sync.max.u32"] = {reduce<std::uint32_t, Most>, "Www", Kind::member_lanes, 2};
  f["bar.warp.sync"] = {nothing, "w", Kind::member_lanes, 0};
  f["bar.sync 1"] = {barrier<true, false>, "w", Kind::block_barrier};
  f["bar.sync 2"] = {barrier<true, true>, "ww", Kind::block_barrier};
  f["bar.red.or.pred 4"] = {any_at_barrier, "Pwwp", Kind::block_barrier};
  f["bar.arrive 2"] = {barrier<false, true>, "ww", Kind::block_barrier};
  const char* const specials[] = {
      "%tid.x",   "%tid.y",       "%tid.z",       "%ntid.x",      "%ntid.y",      "%ntid.z",
      "%ctaid.x", "%ctaid.y",     "%ctaid.z",     "%nctaid.x",    "%nctaid.y",    "%nctaid.z",
      "%laneid",  "%lanemask_lt", "%lanemask_le", "%lanemask_gt", "%lanemask_ge", "%lanemask_eq"};
  for (std::uint16_t n = tid_x; n <= mask_eq; ++n)
    f[std::string("mov.u32 ") + specials[n]] = {special, "W", Kind::plain, n};
  f["cvta.shared.u64"] = {to_generic<shared_window>, "Dd"};
  f["cvta.local.u64"] = {to_generic<local_window>, "Dd"};
  f["cvta.param.u64"] = {to_generic<param_window>, "Dd"};
  f["cvta.to.shared.u64"] = {from_generic<shared_window>, "Dd"};
  f["cvta.to.local.u64"] = {from_generic<local_window>, "Dd"};
  f["trap"] = {trap, ""};
  // Memory is in the order of the program here.
  for (const char* const name :
       {"membar.gl", "membar.cta", "fence.acq_rel.gpu", "fence.sc.gpu", "fence.acq_rel.cta",
        "fence.mbarrier_init.release.cluster", "fence.proxy.async.shared::cta", "fence.proxy.async"})
    f[name] = {nothing, ""};
}

}  // namespace cottention::ptx
