// Sequences split over GPUs, with the communicator of NCCL from the component of the package.
#include <cottention/nccl.cuh>
#include <cottention/sequence_parallel.cuh>

using namespace cottention;
using P = Problem<bfloat16, HeadDim{64, 64}, Mask::causal, Scale::by_key>;

template <class Arguments, class Call>
CallStatus agree_and(Call call, const Arguments& args, ncclComm_t communicator, cudaStream_t stream,
                     Workspace workspace) {
  NcclCommunicator ranks(communicator, stream);
  PartAgreement agreement;
  CallStatus status = ranks.status();
  if (status) status = agree<P>(args, {}, ranks, workspace, agreement);
  return status ? call(agreement, ranks) : status;
}

CallStatus forward_part(const ForwardArguments<bfloat16>& args, ncclComm_t communicator, cudaStream_t stream,
                        Workspace workspace) {
  return agree_and(
      [&](const PartAgreement& agreement, NcclCommunicator& ranks) {
        return forward<P>(args, {}, agreement, ranks, workspace, stream);
      },
      args, communicator, stream, workspace);
}

CallStatus backward_part(const BackwardArguments<bfloat16>& args, ncclComm_t communicator,
                         cudaStream_t stream, Workspace workspace) {
  return agree_and(
      [&](const PartAgreement& agreement, NcclCommunicator& ranks) {
        return backward<P>(args, {}, agreement, ranks, workspace, stream);
      },
      args, communicator, stream, workspace);
}
