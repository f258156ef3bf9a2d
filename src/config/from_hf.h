// model.from_hf: the shape of the model comes from a Hugging Face directory.
#pragma once

#include "config/config.h"
#include "config/findings.h"

namespace fomoe {

// Fills config.model from the directory, if there is one. A key that was given and says something
// else is an error at its place, and so is a directory that cannot be read: then false.
bool take_shape(Config& config, Findings& findings);

}  // namespace fomoe
