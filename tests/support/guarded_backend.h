// A device in a test: the CPU's ops on memory that the host cannot touch. Whoever does it outside
// the backend ends the test with a signal.
#pragma once

#include <sys/mman.h>

#include "ops/cpu/cpu_backend.h"

namespace fomoe {

class GuardedBackend final : public CpuBackend {
public:
    GuardedBackend() : CpuBackend(1) {
        void* range =
            mmap(nullptr, kReserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        FOMOE_CHECK(range != MAP_FAILED, "no address space");
        memory_ = static_cast<char*>(range);
    }
    ~GuardedBackend() override { munmap(memory_, kReserved); }

    std::string_view name() const override { return "guarded"; }
    bool host_memory() const override { return false; }

    int64_t allocations() const { return allocations_; }
    int64_t host_waits() const { return host_waits_; }

    // Addresses are not used again.
    void* allocate(int64_t bytes, std::string_view) override {
        ++allocations_;
        char* data = memory_ + used_;
        used_ += (bytes + kPage) / kPage * kPage;
        FOMOE_CHECK(used_ <= kReserved, "the guarded device is full");
        return data;
    }
    void release(void*) override {}

    void copy_to_host(void* host, ConstTensor device, Queue queue) override {
        ++host_waits_;
        open();
        CpuBackend::copy_to_host(host, device, queue);
        close();
    }
    void copy_from_host(Tensor device, const void* host, Queue queue) override {
        open();
        CpuBackend::copy_from_host(device, host, queue);
        close();
    }
    void copy(Tensor to, ConstTensor from, Queue queue) override {
        open();
        CpuBackend::copy(to, from, queue);
        close();
    }
    void zero(Tensor x, Queue queue) override {
        open();
        CpuBackend::zero(x, queue);
        close();
    }
    void copy_to_host_async(void* host, ConstTensor device, Queue queue) override {
        open();
        CpuBackend::copy_to_host(host, device, queue);
        close();
    }
    void synchronize(Event) override { ++host_waits_; }
    void synchronize() override { ++host_waits_; }

protected:
    void op_begins(const char*) override { open(); }
    void op_ends() override { close(); }

private:
    static constexpr int64_t kReserved = int64_t{1} << 34, kPage = 4096;

    void open() { protect(PROT_READ | PROT_WRITE); }
    void close() { protect(PROT_NONE); }
    void protect(int access) {
        if (used_ > 0) FOMOE_CHECK(mprotect(memory_, used_, access) == 0, "mprotect");
    }

    char* memory_ = nullptr;
    int64_t used_ = 0, allocations_ = 0, host_waits_ = 0;
};

}  // namespace fomoe
