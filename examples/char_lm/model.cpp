// The model that is trained, compiled once.
#include "model.hpp"

template class char_lm::Model<float>;
