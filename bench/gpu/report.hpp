// What is said of rows: lines as they end, and the file of results.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "machine.hpp"
#include "row.hpp"

namespace bench {

struct Measured {
  const Row* row;
  Result result;
  std::string failed = "", skipped = "";  // why, where it was not measured
};

/// Bytes a second of copies within device memory, each byte counted where it is read and where it is written.
struct Copies {
  double before = 0, after = 0;  // the rows; 0 where not measured
  double best() const { return before < after ? after : before; }
};

std::string machine_json(const Machine& machine);

/// The heads of the columns that `print` fills.
void print_header();
void print(const Measured& measured, std::size_t number, std::size_t count, double bytes_per_second);

/// Writes results to `path`, which holds all of them or what was there before. `complete`: there are no more
/// to come.
bool write_json(const std::string& path, const Machine& machine, const std::vector<Measured>& measured,
                const Copies& copies, bool complete);

}  // namespace bench
