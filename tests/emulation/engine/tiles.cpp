#include "tiles.hpp"

#include <algorithm>
#include <cstring>

#include "block.hpp"
#include "global_memory.hpp"

namespace cottention::emulation {
namespace {

constexpr std::uint32_t encoded_mark = 0x7e55e11a;
constexpr std::size_t unit = 16;
constexpr const char* word = "cp.async.bulk.tensor";

std::size_t row_bytes(const TileMap& map) {
  return static_cast<std::size_t>(map.tile[0]) * map.element_bytes;
}

std::size_t row_count(const TileMap& map) {
  std::size_t rows = 1;
  for (int i = 1; i < map.dimensions; ++i) rows *= static_cast<std::size_t>(map.tile[i]);
  return rows;
}

std::size_t tile_bytes(const TileMap& map) { return row_bytes(map) * row_count(map); }

// Where a 16-byte unit of the tile lies. PTX ISA, "Swizzling modes"; the tile starts at a multiple of the
// repeat.
std::size_t swizzled(const TileMap& map, std::size_t offset) {
  const auto units = static_cast<std::size_t>(map.swizzle_span) / unit - 1;
  return offset ^ (((offset >> 7) & units) << 4);
}

// The part of a row of the tile that lies inside the tensor.
struct Inside {
  std::size_t skipped = 0, bytes = 0;   // from the start of the row
  const unsigned char* data = nullptr;  // device address
};

Inside inside(const TileCopy& copy, std::size_t row) {
  const TileMap& map = copy.map;
  std::int64_t offset = 0;
  for (int i = 1; i < map.dimensions; ++i) {
    const auto extent = static_cast<std::size_t>(map.tile[i]);
    const std::int64_t index =
        copy.first[static_cast<std::size_t>(i)] + static_cast<std::int64_t>(row % extent);
    row /= extent;
    if (index < 0 || index >= map.extents[i]) return {};
    offset += index * map.strides[i];
  }
  const std::int64_t from = std::max<std::int64_t>(copy.first[0], 0);
  const std::int64_t to = std::min<std::int64_t>(copy.first[0] + map.tile[0], map.extents[0]);
  if (to <= from) return {};
  const auto bytes = static_cast<std::int64_t>(map.element_bytes);
  return {static_cast<std::size_t>((from - copy.first[0]) * bytes),
          static_cast<std::size_t>((to - from) * bytes),
          static_cast<const unsigned char*>(map.data) + offset + from * bytes};
}

template <class Each>
void for_rows(const TileCopy& copy, Each each) {
  for (std::size_t row = 0; row < row_count(copy.map); ++row)
    if (const Inside part = inside(copy, row); part.bytes > 0) each(row, part);
}

unsigned char* host(const TileCopy& copy, const Inside& part) {
  return global_memory().check(part.data, part.bytes, copy.map.element_bytes, word, copy.where);
}

enum class Direction { load, store };

// To the counts and the race detector, for which the copy happens when it is issued.
void declare(Block& b, const TileCopy& copy, Direction direction, void* caller) {
  const bool loads = direction == Direction::load;
  Statistics& counts = b.statistics();
  void* const fiber = b.thread().identity.begin(loads ? races::Async::copies : races::Async::stores);
  const std::size_t bytes = tile_bytes(copy.map);
  races::declare(fiber, loads ? races::Touch::write : races::Touch::read, b.shared().data() + copy.shared,
                 bytes, copy.where, caller);
  (loads ? counts.shared_bytes_written : counts.shared_bytes_read) += bytes;
  counts.shared_wavefronts += (bytes + 127) / 128;
  for_rows(copy, [&](std::size_t, const Inside& part) {
    const void* memory = host(copy, part);
    if (loads)
      global_memory().check_read(part.data, part.bytes, word, copy.where);
    else
      global_memory().check_write(part.data, part.bytes, word, copy.where);
    races::declare(fiber, loads ? races::Touch::read : races::Touch::write, memory, part.bytes, copy.where,
                   caller);
    const auto first = reinterpret_cast<std::uintptr_t>(part.data);
    const std::uint64_t sectors = (first + part.bytes - 1) / 32 - first / 32 + 1;
    (loads ? counts.global_bytes_read : counts.global_bytes_written) += part.bytes;
    (loads ? counts.global_sectors_read : counts.global_sectors_written) += sectors;
  });
  Entry::fail_for_report(copy.where);
}

TileCopy make_copy(Block& b, const void* shared, const TileMap* map, const int* coordinates, int dimensions,
                   Where where) {
  if (options().compute_capability < 90) fail(where, "%s: needs sm_90", word);
  if (map->encoded != encoded_mark) fail(where, "%s: the tensor map was never encoded", word);
  if (map->dimensions != dimensions)
    fail(where, "%s: %d coordinates for a tensor of %d dimensions", word, dimensions, map->dimensions);
  TileCopy copy;
  copy.map = *map;
  std::copy_n(coordinates, dimensions, copy.first.begin());
  copy.thread = position.thread;
  copy.where = where;
  const auto repeat = map->swizzle_span > 16 ? static_cast<std::size_t>(8 * map->swizzle_span) : 128;
  copy.shared =
      b.shared().check_inside(shared, tile_bytes(*map), std::max<std::size_t>(repeat, 128), word, where);
  for (std::size_t at = 0; at < tile_bytes(*map); at += unit)
    b.shared().check(b.shared().data() + copy.shared + at, unit, unit, word, where);
  return copy;
}

void read(Block& b, TileStores::Store& store) {
  const TileCopy& copy = store.copy;
  store.tile.resize(tile_bytes(copy.map));
  for (std::size_t at = 0; at < store.tile.size(); at += unit) {
    const auto offset = copy.shared + static_cast<std::uint32_t>(swizzled(copy.map, at));
    b.hidden().check(offset, word, copy.where);
    std::memcpy(store.tile.data() + at, b.shared().data() + offset, unit);
  }
  store.stage = TileStores::Store::Stage::read;
}

void write(TileStores::Store& store) {
  for_rows(store.copy, [&](std::size_t row, const Inside& part) {
    std::memcpy(host(store.copy, part), store.tile.data() + row * row_bytes(store.copy.map) + part.skipped,
                part.bytes);
  });
  store.stage = TileStores::Store::Stage::written;
}

void advance(Block& b, TileStores::Store& store, StoreStage stage) {
  if (store.stage == TileStores::Store::Stage::issued) read(b, store);
  if (stage == StoreStage::written && store.stage == TileStores::Store::Stage::read) write(store);
}

}  // namespace

bool encode(TileMap& map) {
  // CUDA driver API, cuTensorMapEncodeTiled.
  const std::size_t innermost = row_bytes(map);
  bool right = map.dimensions >= 1 && map.dimensions <= TileMap::most_dimensions && map.data != nullptr &&
               reinterpret_cast<std::uintptr_t>(map.data) % 16 == 0 && innermost % 16 == 0 &&
               (map.swizzle_span == 16 || innermost <= static_cast<std::size_t>(map.swizzle_span));
  for (int i = 0; i < map.dimensions; ++i)
    right = right && map.extents[i] >= 1 && map.extents[i] <= (std::int64_t{1} << 32) && map.tile[i] >= 1 &&
            map.tile[i] <= 256;
  for (int i = 1; i < map.dimensions; ++i)
    right =
        right && map.strides[i] >= 16 && map.strides[i] % 16 == 0 && map.strides[i] < (std::int64_t{1} << 40);
  map.encoded = right ? encoded_mark : 0;
  return right;
}

void land(Block& b, const TileCopy& load) {
  const std::size_t bytes = row_bytes(load.map);
  unsigned char* tile = b.shared().data() + load.shared;
  b.shared().set_landed(load.shared, tile_bytes(load.map));
  b.hidden().overwrite(load.shared, tile_bytes(load.map));
  std::vector<unsigned char> row_values(bytes);
  for (std::size_t row = 0; row < row_count(load.map); ++row) {
    std::fill(row_values.begin(), row_values.end(), static_cast<unsigned char>(0));
    if (const Inside part = inside(load, row); part.bytes > 0)
      std::memcpy(row_values.data() + part.skipped, host(load, part), part.bytes);
    for (std::size_t at = 0; at < bytes; at += unit)
      std::memcpy(tile + swizzled(load.map, row * bytes + at), row_values.data() + at, unit);
  }
  b.mbarriers().land(b, load.barrier, static_cast<std::int64_t>(tile_bytes(load.map)), load.thread);
}

void finish_stores(Block& b, TileStores& stores) {
  if (!stores.open.empty())
    fail(stores.open.front().copy.where, "the thread exits without having committed this store");
  for (auto& group : stores.groups)
    for (auto& store : group.stores) {
      if (store.stage == TileStores::Store::Stage::issued)
        fail(store.copy.where, "the thread exits without having waited until this store has read its tile");
      advance(b, store, StoreStage::written);
    }
  stores.clear();
}

// ---- words
// -------------------------------------------------------------------------------------------------

void prefetch_map(const TileMap* map, Where where) {
  const Entry entry(where);
  if (map->encoded != encoded_mark) fail(where, "prefetch.tensormap: the tensor map was never encoded");
}

void fence_proxy_async(Where where) {
  const Entry entry(where);
  Block& b = block();
  b.hidden().show(static_cast<std::size_t>(position.thread / warp_size));
  b.mbarriers().show();
}

void tma_load(void* to_shared, const TileMap* map, void* barrier, const int* coordinates, int dimensions,
              Where where) {
  const Entry entry(where);
  Block& b = block();
  b.may_yield();
  TileCopy load = make_copy(b, to_shared, map, coordinates, dimensions, where);
  load.barrier = b.mbarriers().check_target(b, barrier, where);
  declare(b, load, Direction::load, __builtin_return_address(0));
  if (b.now()) return land(b, load);
  b.shared().poison(load.shared, tile_bytes(load.map));
  b.shared().set_in_flight(load.shared, tile_bytes(load.map), position.thread, where);
  b.tile_loads().push_back(load);
}

void tma_store(const TileMap* map, const void* from_shared, const int* coordinates, int dimensions,
               Where where) {
  const Entry entry(where);
  Block& b = block();
  b.may_yield();
  TileStores::Store store;
  store.copy = make_copy(b, from_shared, map, coordinates, dimensions, where);
  declare(b, store.copy, Direction::store, __builtin_return_address(0));
  if (b.now()) advance(b, store, StoreStage::written);
  b.thread().tile_stores.open.push_back(std::move(store));
}

void cp_async_bulk_commit(Where where) {
  const Entry entry(where);
  Thread& thread = block().thread();
  TileStores& stores = thread.tile_stores;
  stores.groups.push_back({std::move(stores.open), {}});
  stores.open.clear();
  thread.identity.release(races::Async::stores, stores.groups.back().issued);
}

void cp_async_bulk_wait(int groups, StoreStage stage, Where where) {
  const Entry entry(where);
  Block& b = block();
  TileStores& stores = b.thread().tile_stores;
  const std::size_t waited =
      stores.groups.size() - std::min(stores.groups.size(), static_cast<std::size_t>(groups));
  for (std::size_t i = 0; i < waited; ++i)
    for (auto& store : stores.groups[i].stores) advance(b, store, stage);
  if (waited > 0) b.thread().identity.acquire(stores.groups[waited - 1].issued);
  if (stage == StoreStage::written)
    stores.groups.erase(stores.groups.begin(), stores.groups.begin() + static_cast<std::ptrdiff_t>(waited));
}

}  // namespace cottention::emulation
