// The definition of cosine attention in code, in double and plain loops. Every backend is tested against it.
//
//     reference::forward      the sum over all visible keys, as written down
//     reference::recurrence   the same in linear time, by a recurrent state
//     reference::backward     all gradients, in linear time
#pragma once

#include <cottention/requirements.hpp>

#include <cottention/host_only.hpp>

#include <cottention/reference/attention.hpp>
#include <cottention/reference/gradient.hpp>
#include <cottention/reference/recurrence.hpp>
