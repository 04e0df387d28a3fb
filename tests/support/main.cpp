// The main function of every test program, for Catch2 3.x (with or without Catch2WithMain) and 2.13.
#if __has_include(<catch2/catch_session.hpp>)
#include <catch2/catch_session.hpp>
int main(int argc, char** argv) { return Catch::Session().run(argc, argv); }
#else
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // g++ 12 with sanitizers, inside std::regex
#endif
#define CATCH_CONFIG_MAIN
#include <catch2/catch.hpp>
#endif
