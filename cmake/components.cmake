# Makes cottention::mpi, the target `cottention_target` with an MPI for <cottention/mpi.hpp>, where CMake finds one for C++.
if(NOT TARGET cottention::mpi)
  find_package(MPI QUIET COMPONENTS CXX)
  if(MPI_CXX_FOUND)
    add_library(cottention::mpi INTERFACE IMPORTED)
    set_property(TARGET cottention::mpi PROPERTY INTERFACE_LINK_LIBRARIES ${cottention_target} MPI::MPI_CXX)
    # The C++ bindings that MPI-3 took out are not used, and not to be compiled where an MPI still has them.
    set_property(TARGET cottention::mpi PROPERTY INTERFACE_COMPILE_DEFINITIONS OMPI_SKIP_MPICXX MPICH_SKIP_MPICXX)
  endif()
endif()
