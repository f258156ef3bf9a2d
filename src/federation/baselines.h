// What other ways of training send, in the convention of the ledger: a pure function of the table
// of parameters.
#pragma once

#include <cstdint>
#include <vector>

#include "config/config.h"
#include "model/parameters.h"

namespace fomoe {

// Bytes that an exchange among n owners of S bytes counts as, over all of them.
enum class Counting {
    sent,     // 2 (n - 1) S: contributions and results as they leave their group, also in a ring
    payload,  // n S: what the owners bring, a single owner's too; as at a parameter server
};

// One exchange of every parameter, f32, among its owners; and as if every group owned it.
int64_t exchange_bytes(const std::vector<Parameter>& all, Counting counting);
int64_t full_exchange_bytes(const std::vector<Parameter>& all, int n_groups, Counting counting);

// Sent by all groups together in steps 1 to `step` of the run. In f64: the gradients of large
// models are more bytes than an int64_t counts.
struct BaselineBytes {
    double data_parallel = 0;  // the gradient of all parameters, every step
    double full_replicas = 0;  // all parameters, every federation.local_steps and at the last step
};
BaselineBytes baseline_bytes(const Config& config, const std::vector<Parameter>& all, int64_t step);

}  // namespace fomoe
