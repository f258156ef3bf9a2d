// What the commands of fomoe-eval that compute work with.
#pragma once

#include "checkpoint/load.h"
#include "device/device.h"
#include "eval/union_model.h"

namespace fomoe {

struct LoadedCheckpoint {
    const Checkpoint& checkpoint;
    const Config& config;  // the checkpoint's, with a vocabulary and the dtype to compute in
    const Device& device;
    Communicator& job;
    int batch;  // sequences that a rank computes at once
    bool json;

    UnionModel model(int sequences) const {
        return UnionModel(checkpoint, config, sequences, *device.backend, job, device.connect);
    }
    bool prints() const { return job.rank() == 0; }
};

}  // namespace fomoe
