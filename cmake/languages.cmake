# What sources that link the target `cottention_target` are compiled as: C++20, in .cpp files and in .cu files. Whether CXX and
# CUDA are enabled already, later or never.
set_property(TARGET ${cottention_target} APPEND PROPERTY INTERFACE_COMPILE_FEATURES
             $<BUILD_INTERFACE:$<$<BOOL:$<CXX_COMPILER_ID>>:cxx_std_20>>)
if(CMAKE_VERSION VERSION_LESS 3.25.2) # knows no C++20 of nvcc's
  set_property(TARGET ${cottention_target} APPEND PROPERTY INTERFACE_COMPILE_OPTIONS
               $<BUILD_INTERFACE:$<$<COMPILE_LANG_AND_ID:CUDA,NVIDIA>:-std=c++20>>)
  if(DEFINED CMAKE_CUDA_STANDARD AND CMAKE_CUDA_STANDARD LESS 20)
    message(WARNING "cottention: .cu files that include it must be C++20, but CMake ${CMAKE_VERSION} compiles them as C++"
                    "${CMAKE_CUDA_STANDARD}, since CMAKE_CUDA_STANDARD is set. Unset it, or use CMake 3.25.2 or newer, which "
                    "raises it to what a target needs")
  endif()
else()
  set_property(TARGET ${cottention_target} APPEND PROPERTY INTERFACE_COMPILE_FEATURES
               $<BUILD_INTERFACE:$<$<BOOL:$<CUDA_COMPILER_ID>>:cuda_std_20>>)
endif()
