// What lies on a device, in the hands of the host for a while.
#pragma once

#include <vector>

#include "ops/backend.h"

namespace fomoe {

// The memory itself where the host reaches it, else a copy. Waits for the device.
class OnHost {
public:
    OnHost(Backend& backend, Tensor device) : backend_(&backend), device_(device), host_(device) {
        if (backend.host_memory() || device.bytes() == 0) return;
        copy_.resize(device.bytes());
        backend.copy_to_host(copy_.data(), device);
        host_.data = copy_.data();
    }

    Tensor tensor() const { return host_; }
    // The device gets what the host has made of it.
    void write_back() {
        if (!copy_.empty()) backend_->copy_from_host(device_, copy_.data());
    }

private:
    Backend* backend_;
    Tensor device_, host_;
    std::vector<char> copy_;
};

}  // namespace fomoe
