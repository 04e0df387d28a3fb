// cp.async.bulk.tensor: copies of tiles, which land at once.
#include "mbarriers.hpp"
#include "tensor_map.hpp"

namespace cottention::ptx {
namespace {

TensorMap map_at(Warp& w, const Instruction& i, int lane, std::uint64_t address) {
  TensorMap map;
  const std::uint8_t* const bytes = w.memory(i, lane, Space::generic, address, 64);
  w.memory(i, lane, Space::generic, address + 64, 64);  // it is there as well
  std::memcpy(&map, bytes, sizeof map);
  if (map.magic != TensorMap::known) w.fail(i, lane, "this is no tensor map");
  return map;
}

/// visit(address in shared memory, address in global memory or 0 outside the tensor) for the elements of a
/// tile.
template <class Visit>
void for_each_element(const TensorMap& map, const std::int32_t (&start)[4], std::uint32_t tile, Visit visit) {
  std::uint64_t offset = 0;
  std::int32_t at[4];
  for (at[3] = 0; at[3] < map.box[3]; ++at[3])
    for (at[2] = 0; at[2] < map.box[2]; ++at[2])
      for (at[1] = 0; at[1] < map.box[1]; ++at[1])
        for (at[0] = 0; at[0] < map.box[0]; ++at[0], offset += map.element_bytes) {
          bool inside = true;
          std::uint64_t address = map.address;
          for (int d = 0; d < 4; ++d) {
            const std::int64_t index = std::int64_t{start[d]} + at[d];
            inside = inside && index >= 0 && index < static_cast<std::int64_t>(map.extents[d]);
            address += static_cast<std::uint64_t>(index) * (d == 0 ? map.element_bytes : map.strides[d - 1]);
          }
          visit(swizzled(tile + offset, map.swizzle_units), inside ? address : 0);
        }
}

std::int64_t tile_bytes(const TensorMap& map) {
  return std::int64_t{map.box[0]} * map.box[1] * map.box[2] * map.box[3] * map.element_bytes;
}

/// load [tile], [map, {i...}], [mbarrier]; store [map, {i...}], [tile].
template <int rank, bool loads>
void copy_tile(Warp& w, const Instruction& i) {
  const std::uint32_t* const tiles = w.at<std::uint32_t>(i.o[loads ? 0 : 1 + rank]);
  const std::uint64_t* const maps = w.at<std::uint64_t>(i.o[loads ? 1 : 0]);
  for (std::uint32_t rest = w.mask; rest != 0; rest &= rest - 1) {
    const int l = std::countr_zero(rest);
    const TensorMap map = map_at(w, i, l, maps[l]);
    if (map.rank != rank) w.fail(i, l, "the map is of another rank");
    // A swizzled tile starts where its pattern does.
    if (tiles[l] % 128 != 0 || tiles[l] % (128 * (map.swizzle_units + 1)) != 0)
      w.fail(i, l, "misaligned tile");
    std::int32_t start[4] = {};
    for (int d = 0; d < rank; ++d)
      start[d] = static_cast<std::int32_t>(w.at<std::uint32_t>(i.o[(loads ? 2 : 1) + d])[l]);
    for_each_element(map, start, tiles[l], [&](std::uint64_t shared, std::uint64_t global) {
      std::uint8_t* const here = w.memory(i, l, Space::shared, shared, map.element_bytes);
      if (loads && global == 0) std::memset(here, 0, map.element_bytes);
      if (global == 0) return;
      std::uint8_t* const there = w.memory(i, l, Space::global, global, map.element_bytes);
      std::memcpy(loads ? here : there, loads ? there : here, map.element_bytes);
    });
    if constexpr (loads) land_bytes(w, i, l, w.at<std::uint32_t>(i.o[2 + rank])[l], tile_bytes(map));
  }
}

void prefetch(Warp& w, const Instruction& i) {
  each_lane(w.mask, [&](int l) { map_at(w, i, l, w.at<std::uint64_t>(i.o[0])[l]); });
}

void nothing(Warp&, const Instruction&) {}

template <int rank>
void add_rank(Forms& f, const char* load_operands, const char* store_operands) {
  const std::string name = "cp.async.bulk.tensor." + std::to_string(rank) + "d";
  f[name + ".shared::cluster.global.tile.mbarrier::complete_tx::bytes"] = {copy_tile<rank, true>,
                                                                           load_operands};
  f[name + ".global.shared::cta.tile.bulk_group"] = {copy_tile<rank, false>, store_operands};
}

}  // namespace

void add_tiles(Forms& f) {
  add_rank<2>(f, "xywwx", "ywwx");
  add_rank<3>(f, "xywwwx", "ywwwx");
  add_rank<4>(f, "xywwwwx", "ywwwwx");
  f["prefetch.tensormap"] = {prefetch, "y"};
  f["cp.async.bulk.commit_group"] = {nothing, ""};
  f["cp.async.bulk.wait_group"] = {nothing, "w"};
  f["cp.async.bulk.wait_group.read"] = {nothing, "w"};
}

}  // namespace cottention::ptx
