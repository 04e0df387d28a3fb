// Shapes in few words.
#pragma once

#include <cottention/arguments.hpp>

namespace support {

/// Seven numbers in a row, of which tests have hundreds; programs had better name them.
using Extents = cottention::Shape;

}  // namespace support
