// The version of the library, as macros, so that the preprocessor can compare it.
//
// The build and the packages read it here. docs/CHANGELOG.md says what a version changes.
#pragma once

#define COTTENTION_VERSION_MAJOR 0
#define COTTENTION_VERSION_MINOR 2
#define COTTENTION_VERSION_PATCH 0

/// One number that grows with the version: 200 for 0.2.0, 10'203 for 1.2.3.
#define COTTENTION_VERSION \
  (COTTENTION_VERSION_MAJOR * 10000 + COTTENTION_VERSION_MINOR * 100 + COTTENTION_VERSION_PATCH)
