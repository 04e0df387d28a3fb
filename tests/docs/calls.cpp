// Where the code of docs/api.md stands: in a source of a program's.
#include <cottention/owned_workspace.hpp>

using namespace cottention;

// [here]
