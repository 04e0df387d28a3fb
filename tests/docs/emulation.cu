// Where the code of docs/emulation.md stands: in a source of tests/emulation/.
#include "support/catch.hpp"

// [here]
