// The communicator of MPI, from the component of the package.
#include <cottention/mpi.hpp>

static_assert(cottention::Communicator<cottention::MpiCommunicator>);
