// Catch2 3.x or 2.13, whichever is installed: test macros, typed and generated tests, Approx.
#pragma once

#if __has_include(<catch2/catch_test_macros.hpp>)
#include <catch2/catch_approx.hpp>
#include <catch2/catch_template_test_macros.hpp>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/generators/catch_generators_range.hpp>
using Catch::Approx;  // where 2.13 has it
#else
#include <catch2/catch.hpp>
#endif
