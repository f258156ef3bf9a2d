// What the environment says about the pretended NCCL.
#pragma once

namespace cudaemu::nccl {

// CUDAEMU_NCCL_VERSION: what ncclGetVersion answers; that of the header where it is not set.
int version();
// CUDAEMU_NCCL_LIMIT: seconds without progress after which a rank gives its peers up; 60.
double limit();

}  // namespace cudaemu::nccl
