# cottention_development: what tests, benchmarks and examples link. The library, our warnings, and the machine's own
# instruction set. Never installed or exported.
include(CheckCXXCompilerFlag)

if(PROJECT_IS_TOP_LEVEL
   AND NOT CMAKE_BUILD_TYPE
   AND NOT CMAKE_CONFIGURATION_TYPES)
  message(STATUS "cottention: no CMAKE_BUILD_TYPE given, building Release")
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Debug, Release, RelWithDebInfo or MinSizeRel" FORCE)
endif()

add_library(cottention_development INTERFACE)
target_link_libraries(cottention_development INTERFACE cottention::cottention)

# For g++ and clang++. nvcc has its own.
set(cottention_options -Wall -Wextra -Wpedantic -Wconversion -Wshadow)
if(COTTENTION_WERROR)
  list(APPEND cottention_options -Werror)
  target_compile_options(cottention_development INTERFACE $<$<COMPILE_LANG_AND_ID:CUDA,NVIDIA>:-Werror=all-warnings>)
endif()
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  list(APPEND cottention_options -Wno-restrict) # false alarms on std::string: GCC bug 105651, mended in 13
endif()

if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU") # collects no garbage below 1 GB, which takes a tenth off the time to compile
  list(APPEND cottention_options "SHELL:--param ggc-min-expand=100" "SHELL:--param ggc-min-heapsize=1000000")
endif()

if(COTTENTION_NATIVE)
  check_cxx_compiler_flag(-march=native COTTENTION_HAS_MARCH_NATIVE)
  check_cxx_compiler_flag(-mcpu=native COTTENTION_HAS_MCPU_NATIVE) # clang on Arm knows only this one
  if(COTTENTION_HAS_MARCH_NATIVE)
    list(APPEND cottention_options -march=native)
  elseif(COTTENTION_HAS_MCPU_NATIVE)
    list(APPEND cottention_options -mcpu=native)
  endif()
  # GCC 12 tunes some AVX-512 processors for 256-bit vectors, which halves the speed of the kernels.
  check_cxx_compiler_flag(-mprefer-vector-width=512 COTTENTION_HAS_PREFER_VECTOR_WIDTH)
  if(COTTENTION_HAS_PREFER_VECTOR_WIDTH)
    list(APPEND cottention_options -mprefer-vector-width=512)
  endif()
endif()
target_compile_options(cottention_development INTERFACE "$<$<COMPILE_LANGUAGE:CXX>:${cottention_options}>")
