# Enables CUDA where COTTENTION_CUDA asks for it, and says so in COTTENTION_HAS_CUDA. Only what is built here needs it:
# the library's users enable CUDA themselves, or do without.
set(COTTENTION_HAS_CUDA OFF)
if(NOT COTTENTION_CUDA STREQUAL "AUTO" AND NOT COTTENTION_CUDA)
  return()
endif()

if(NOT CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 80-real 90a-real CACHE STRING "Architectures of what is compiled for GPUs")
endif()
include(CheckLanguage)
check_language(CUDA)
if(CMAKE_CUDA_COMPILER)
  enable_language(CUDA)
  include(cmake/gpu_package.cmake)
  set(COTTENTION_HAS_CUDA ON)
  # NVRTC, which some of nvcc's packages come without.
  set(COTTENTION_NVRTC "" CACHE PATH "Folder with include/nvrtc.h and lib/libnvrtc.so.13, as of the package nvidia-cuda-nvrtc; empty: that of nvcc")
  get_filename_component(cottention_toolkit ${CMAKE_CUDA_COMPILER} REALPATH)
  get_filename_component(cottention_toolkit ${cottention_toolkit} DIRECTORY)
  get_filename_component(cottention_toolkit ${cottention_toolkit} DIRECTORY)
  set(cottention_nvrtc ${cottention_toolkit})
  if(COTTENTION_NVRTC)
    set(cottention_nvrtc ${COTTENTION_NVRTC})
  endif()
elseif(NOT COTTENTION_CUDA STREQUAL "AUTO")
  message(FATAL_ERROR "cottention: COTTENTION_CUDA is ${COTTENTION_CUDA}, but there is no CUDA compiler. Put nvcc on the "
                      "PATH, name it with CMAKE_CUDA_COMPILER, or set COTTENTION_CUDA to AUTO or OFF")
endif()
