// How the engine refuses what a kernel does.
#pragma once

#include <emulation/words.hpp>

namespace cottention::emulation {

/// Throws Error: "file:line: block (x,y,z) warp w lane l: ...". A breakpoint here shows the calls of the
/// kernel.
[[noreturn]] __attribute__((format(printf, 2, 3))) void fail(Where where, const char* format, ...);

/// The file's path without what all paths have in common.
const char* short_path(const char* file);

/// As source_location's, for messages: "file:line" in a buffer of this object's.
struct PlaceName {
  explicit PlaceName(Where where);
  char text[160];
};

inline bool same_place(const Where& a, const Where& b) {
  return a.line() == b.line() && a.column() == b.column() &&
         (a.file_name() == b.file_name() || __builtin_strcmp(a.file_name(), b.file_name()) == 0);
}

}  // namespace cottention::emulation
