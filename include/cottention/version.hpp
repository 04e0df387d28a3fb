// The version of the library, as macros, so that the preprocessor can compare it.
//
// The build and the packages read it here. While the major version is 0, another minor version is another
// interface.
#pragma once

#define COTTENTION_VERSION_MAJOR 0
#define COTTENTION_VERSION_MINOR 2
#define COTTENTION_VERSION_PATCH 0

/// One number that grows with the version: 200 for 0.2.0, 10'203 for 1.2.3.
#define COTTENTION_VERSION \
  (COTTENTION_VERSION_MAJOR * 10000 + COTTENTION_VERSION_MINOR * 100 + COTTENTION_VERSION_PATCH)
