#include "failure.hpp"

#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <string>

#include <emulation.hpp>

namespace cottention::emulation {

const char* short_path(const char* file) {
  for (const char* root : {"/include/cottention/", "/tests/"})
    if (const char* found = std::strstr(file, root)) return found + std::strlen(root);
  return file;
}

PlaceName::PlaceName(Where where) {
  std::snprintf(text, sizeof text, "%s:%u", short_path(where.file_name()),
                static_cast<unsigned>(where.line()));
}

void fail(Where where, const char* format, ...) {
  char place[256], what[2048];
  std::snprintf(place, sizeof place, "%s: block (%d,%d,%d) warp %d lane %d: ", PlaceName(where).text,
                position.block_x, position.block_y, position.block_z, position.thread / 32,
                position.thread % 32);
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(what, sizeof what, format, arguments);
  va_end(arguments);
  throw Error(std::string(place) + what + " [" + describe(options()) + "]");
}

}  // namespace cottention::emulation
