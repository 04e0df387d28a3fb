// From a call and a device to a compiled Tiling: the rows that kernels are compiled for, and the one of them
// that a call takes. A Tiling of the caller's is a table of one row.
//
// What is here called Rows is a class for a family of kernels that share a Tiling. It has `table`, the
// Tilings that they are compiled for, and `choose(call, device)`, the row that a call takes.
#pragma once

#include <cstddef>

#include <cottention/device/runtime.cuh>
#include <cottention/tiling.hpp>
#include <cottention/tuning/table.hpp>

namespace cottention::host {

/// Calls f with a row's Tiling as its template argument.
template <class Rows, std::size_t first = 0, class F>
auto with_row(std::size_t row, F f) {
  if constexpr (first + 1 < Rows::table.count)
    if (row != first) return with_row<Rows, first + 1>(row, f);
  return f.template operator()<Rows::table.list[first]>();
}

/// Calls f with the Tiling that a call takes on a device.
template <class Rows, class Call, class F>
auto select(const Call& call, const device::Properties& device, F f) {
  return with_row<Rows>(Rows::choose(call, device), f);
}

/// The table of a call with a Tiling of the caller's.
template <Tiling given>
struct GivenRow {
  static constexpr tuning::TilingTable table{{given}, 1};
  template <class Call>
  static std::size_t choose(const Call&, const device::Properties&) {
    return 0;
  }
};

}  // namespace cottention::host
