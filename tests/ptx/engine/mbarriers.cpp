// mbarrier. A barrier's 64 bits in shared memory are the machine's own: phases, arrivals and bytes that are
// expected.
#include "mbarriers.hpp"

namespace cottention::ptx {
namespace {

// An mbarrier's bits; what was never initialised is all ones, and no barrier's.
struct Fields {
  std::uint64_t parity : 1, expected : 20, pending : 20, bytes : 22, never : 1;
};
constexpr std::int64_t no_bytes = std::int64_t{1} << 21;  // so that bytes may land before they are expected

class Mbarrier {
 public:
  Mbarrier(Warp& w, const Instruction& i, int lane, std::uint32_t address)
      : warp_(w), at_(w.memory(i, lane, Space::shared, address, 8)) {
    std::memcpy(&fields_, at_, sizeof fields_);
    if (fields_.never != 0) w.fail(i, lane, "the mbarrier has not been initialised");
  }
  bool parity() const { return fields_.parity != 0; }
  bool complete(std::int64_t arrivals, std::int64_t bytes) {
    if (arrivals > static_cast<std::int64_t>(fields_.pending)) return false;
    fields_.pending = (fields_.pending - static_cast<std::uint64_t>(arrivals)) & 0xfffff;
    fields_.bytes = static_cast<std::uint64_t>(static_cast<std::int64_t>(fields_.bytes) + bytes) & 0x3fffff;
    if (fields_.pending == 0 && fields_.bytes == no_bytes) {
      fields_.parity ^= 1;
      fields_.pending = fields_.expected;
    }
    std::memcpy(at_, &fields_, sizeof fields_);
    ++warp_.block.progress;
    return true;
  }

 private:
  Warp& warp_;
  std::uint8_t* at_;
  Fields fields_;
};

void init(Warp& w, const Instruction& i) {
  const std::uint32_t *at = w.at<std::uint32_t>(i.o[0]), *count = w.at<std::uint32_t>(i.o[1]);
  each_lane(w.mask, [&](int l) {
    const Fields fields{0, count[l] & 0xfffff, count[l] & 0xfffff, no_bytes, 0};
    std::memcpy(w.memory(i, l, Space::shared, at[l], 8), &fields, sizeof fields);
  });
}

/// mbarrier.arrive _, [at], and with bytes that are expected.
template <bool expects>
void arrive(Warp& w, const Instruction& i) {
  const std::uint32_t *at = w.at<std::uint32_t>(i.o[1]), *bytes = expects ? w.at<std::uint32_t>(i.o[2]) : at;
  each_lane(w.mask, [&](int l) {
    if (!Mbarrier(w, i, l, at[l]).complete(1, expects ? bytes[l] : 0))
      w.fail(i, l, "more arrivals than the mbarrier's phase has");
  });
}

/// mbarrier.try_wait.parity p, [at], parity: whether the phase of that parity has ended. Where it has not,
/// other warps get their turn.
void try_wait(Warp& w, const Instruction& i) {
  const std::uint32_t *at = w.at<std::uint32_t>(i.o[1]), *parity = w.at<std::uint32_t>(i.o[2]);
  std::uint32_t ended = 0;
  for (std::uint32_t rest = w.mask; rest != 0; rest &= rest - 1) {
    const int l = std::countr_zero(rest);
    if (Mbarrier(w, i, l, at[l]).parity() != ((parity[l] & 1) != 0)) ended |= 1u << l;
  }
  std::uint32_t* const p = w.at<std::uint32_t>(i.o[0]);
  *p = (*p & ~w.mask) | ended;
  w.retries = ended != w.mask;
  if (w.retries) w.state = Warp::State::spinning;
}

}  // namespace

void land_bytes(Warp& w, const Instruction& i, int lane, std::uint32_t mbarrier, std::int64_t bytes) {
  Mbarrier(w, i, lane, mbarrier).complete(0, -bytes);
}

void add_mbarriers(Forms& f) {
  f["mbarrier.init.shared::cta.b64"] = {init, "xw"};
  f["mbarrier.arrive.release.cta.shared::cta.b64"] = {arrive<false>, "Dx"};
  f["mbarrier.arrive.expect_tx.release.cta.shared::cta.b64"] = {arrive<true>, "Dxw"};
  f["mbarrier.try_wait.parity.shared::cta.b64"] = {try_wait, "Pxw"};
}

}  // namespace cottention::ptx
