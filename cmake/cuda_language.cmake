# What .cu files that link cottention::cottention are compiled as: C++20. For the target `cottention_target`, whether CUDA is
# enabled already, later or never.
if(CMAKE_VERSION VERSION_LESS 3.25.2) # knows no C++20 of nvcc's
  set_property(TARGET ${cottention_target} APPEND PROPERTY INTERFACE_COMPILE_OPTIONS
               $<BUILD_INTERFACE:$<$<COMPILE_LANG_AND_ID:CUDA,NVIDIA>:-std=c++20>>)
else()
  set_property(TARGET ${cottention_target} APPEND PROPERTY INTERFACE_COMPILE_FEATURES
               $<BUILD_INTERFACE:$<$<BOOL:$<CUDA_COMPILER_ID>>:cuda_std_20>>)
endif()
