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
void sync_threads(int id, int threads, Where where);
void arrive_threads(int id, int threads, Where where);

// ---- memory
// ------------------------------------------------------------------------------------------------

void load_global(void* to, const void* from_global, int bytes, Where where);
void store_global(void* to_global, const void* from, int bytes, Where where);
std::int64_t fetch_add_global(std::int64_t* at_global, std::int64_t value, Where where);
void load_shared(void* to, const void* from_shared, int bytes, Where where);
void store_shared(void* to_shared, const void* from, int bytes, Where where);

void copy_async_16(void* to_shared, const void* from_global, int bytes, Where where);
void commit_copies(Where where);
void wait_copies(int groups, Where where);

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

}  // namespace cottention::emulation
