// What the emulated device words ask of the engine. Not for tests: see emulation.hpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <source_location>

namespace cottention::emulation {

/// Where in the kernel a word stands.
#if defined(__cpp_lib_source_location)
using Where = std::source_location;
#else  // clang++ before 16
class Where {
 public:
  static constexpr Where current(const char* file = __builtin_FILE(), unsigned line = __builtin_LINE(),
                                 unsigned column = __builtin_COLUMN()) {
    Where where;
    where.file_ = file;
    where.line_ = line;
    where.column_ = column;
    return where;
  }
  constexpr const char* file_name() const { return file_; }
  constexpr unsigned line() const { return line_; }
  constexpr unsigned column() const { return column_; }

 private:
  const char* file_ = "";
  unsigned line_ = 0, column_ = 0;
};
#endif

/// Which thread is running.
struct Position {
  int thread = 0;
  int block_x = 0, block_y = 0, block_z = 0;
};
extern Position position;

// ---- launch
// ------------------------------------------------------------------------------------------------

struct Kernel {
  const char* name;
  int threads;
  std::size_t shared_bytes;
  void (*run)(const void* params, void* shared);
  const void* params;
};

/// Runs every block, one after the other. Throws Error.
void launch(const Kernel& kernel, std::uint32_t grid_x, std::uint32_t grid_y, std::uint32_t grid_z);

// ---- warps and blocks
// --------------------------------------------------------------------------------------

void sync_warp(Where where);
/// The value of lane `source`, modulo 32.
std::uint64_t shuffle(std::uint64_t value, int source, Where where);
enum class Vote { ballot, any };
std::uint32_t vote(bool predicate, Vote kind, Where where);

void sync_block(Where where);
void bar_sync(int id, int threads, Where where);
void bar_arrive(int id, int threads, Where where);
bool bar_red_or(int id, int threads, bool predicate, Where where);

// ---- memory
// ------------------------------------------------------------------------------------------------

void load_global(void* to, const void* from_global, int bytes, Where where);
void store_global(void* to_global, const void* from, int bytes, Where where);
std::int64_t fetch_add_global(std::int64_t* at_global, std::int64_t value, Where where);
void load_shared(void* to, const void* from_shared, int bytes, Where where);
void store_shared(void* to_shared, const void* from, int bytes, Where where);

void cp_async_16(void* to_shared, const void* from_global, int bytes, Where where);
void cp_async_commit(Where where);
void cp_async_wait(int groups, Where where);

// ---- matrices
// ----------------------------------------------------------------------------------------------

enum class Orientation { straight, transposed };
void load_matrices(std::uint32_t (&r)[4], const void* row_shared, Orientation orientation, Where where);
void store_matrices(void* row_shared, const std::uint32_t (&r)[4], Where where);

/// How a register holds the elements of an operand.
enum class Operand { half, bfloat16, tf32 };
/// m16n8k16 for 16-bit elements, m16n8k8 for tf32.
void multiply(Operand operand, float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
              Where where);
void multiply(double (&d)[2], double a, double b, Where where);

// ---- sm_90: barriers in shared memory, copies of tiles
// -----------------------------------------------------

void mbarrier_init(void* barrier, int arrivals, Where where);
void fence_mbarrier_init(Where where);
void mbarrier_arrive(void* barrier, Where where);
void mbarrier_arrive_expect_tx(void* barrier, int bytes, Where where);
void mbarrier_wait(void* barrier, int parity, Where where);

/// A tensor and its tiles, dimensions from the innermost.
struct alignas(64) TileMap {
  static constexpr int most_dimensions = 4;
  std::uint32_t encoded = 0;  // a mark that encode has been here
  int dimensions = 0;
  std::size_t element_bytes = 0;
  const void* data = nullptr;
  std::int64_t extents[most_dimensions] = {};
  std::int64_t strides[most_dimensions] = {};  // bytes
  int tile[most_dimensions] = {};
  int swizzle_span = 16;  // bytes; 16: none
};
/// Marks a map whose other members are filled in. False where a rule is broken.
bool encode(TileMap& map);

void prefetch_map(const TileMap* map, Where where);
void fence_proxy_async(Where where);
void tma_load(void* to_shared, const TileMap* map, void* barrier, const int* coordinates, int dimensions,
              Where where);
void tma_store(const TileMap* map, const void* from_shared, const int* coordinates, int dimensions,
               Where where);
void cp_async_bulk_commit(Where where);
enum class StoreStage { read, written };
void cp_async_bulk_wait(int groups, StoreStage stage, Where where);

// ---- sm_90a: products of warpgroups
// ------------------------------------------------------------------------

/// Of an operand in shared memory, as descriptors hold it.
std::uint32_t shared_address(const void* shared, Where where);

/// wgmma.mma_async.m64nNk16; sums in fp32.
struct WarpgroupProduct {
  Operand operand{};
  int n = 0;
  const std::uint32_t* a_registers = nullptr;  // four; null: a is in shared memory
  std::uint64_t a_descriptor = 0, b_descriptor = 0;
  Orientation a_orientation{}, b_orientation{};  // transposed: not the summed dimension is major
  enum class Sum { start, add } sum{};
};
void multiply(float* d, const WarpgroupProduct& product, Where where);
void wgmma_fence(Where where);
void wgmma_commit(Where where);
void wgmma_wait(int groups, Where where);

void set_registers(int registers, Where where);

}  // namespace cottention::emulation
