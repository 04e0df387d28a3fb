# Makes what `cottention_components` names, each the target `cottention_target` with another library, where that is found:
#
#     mpi     cottention::mpi, with an MPI for C++, for <cottention/mpi.hpp>
#     nccl    cottention::nccl, with an NCCL, for <cottention/nccl.cuh>. NCCL_ROOT, of CMake or of the environment, is the folder
#             with its include and lib, as that of the package nvidia-nccl-cu13; without it, where CMake looks, or beside nvcc
if("mpi" IN_LIST cottention_components AND NOT TARGET cottention::mpi)
  find_package(MPI QUIET COMPONENTS CXX)
  if(MPI_CXX_FOUND)
    add_library(cottention::mpi INTERFACE IMPORTED)
    set_property(TARGET cottention::mpi PROPERTY INTERFACE_LINK_LIBRARIES ${cottention_target} MPI::MPI_CXX)
    # The C++ bindings that MPI-3 took out are not used, and not to be compiled where an MPI still has them.
    set_property(TARGET cottention::mpi PROPERTY INTERFACE_COMPILE_DEFINITIONS OMPI_SKIP_MPICXX MPICH_SKIP_MPICXX)
  endif()
endif()
if("nccl" IN_LIST cottention_components AND NOT TARGET cottention::nccl)
  get_filename_component(cottention_beside_nvcc "${CMAKE_CUDA_COMPILER}" REALPATH)
  get_filename_component(cottention_beside_nvcc "${cottention_beside_nvcc}/../.." ABSOLUTE)
  set(cottention_nccl_hints HINTS ${NCCL_ROOT} $ENV{NCCL_ROOT} ${cottention_beside_nvcc})
  find_path(cottention_nccl_include nccl.h ${cottention_nccl_hints} PATH_SUFFIXES include)
  # The package from PyPI has no libnccl.so.
  find_library(cottention_nccl_library NAMES nccl libnccl.so.2 NAMES_PER_DIR ${cottention_nccl_hints} PATH_SUFFIXES lib lib64)
  mark_as_advanced(cottention_nccl_include cottention_nccl_library)
  if(cottention_nccl_include AND cottention_nccl_library)
    add_library(cottention::nccl INTERFACE IMPORTED)
    set_property(TARGET cottention::nccl PROPERTY INTERFACE_LINK_LIBRARIES ${cottention_target} ${cottention_nccl_library})
    set_property(TARGET cottention::nccl PROPERTY INTERFACE_INCLUDE_DIRECTORIES ${cottention_nccl_include})
  endif()
  unset(cottention_nccl_hints)
  unset(cottention_beside_nvcc)
endif()
