// A device in a test: the CPU's ops on memory that the host cannot touch. Whoever does it outside
// the backend ends the test with a signal. Copies that do not wait are done as late as they may be:
// when their queue goes on to something else, or something waits for it.
#pragma once

#include <sys/mman.h>

#include <deque>

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
    // Bytes of copies that did not wait, from and to the host.
    int64_t uploaded() const { return uploaded_; }
    int64_t downloaded() const { return downloaded_; }

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
        finish(queue);
        open();
        CpuBackend::copy_to_host(host, device, queue);
        close();
    }
    void copy_from_host(Tensor device, const void* host, Queue queue) override {
        finish(queue);
        open();
        CpuBackend::copy_from_host(device, host, queue);
        close();
    }
    void copy(Tensor to, ConstTensor from, Queue queue) override {
        finish(queue);
        open();
        CpuBackend::copy(to, from, queue);
        close();
    }
    void zero(Tensor x, Queue queue) override {
        finish(queue);
        open();
        CpuBackend::zero(x, queue);
        close();
    }
    void copy_to_host_async(void* host, ConstTensor device, Queue queue) override {
        downloaded_ += device.bytes();
        later(queue, [=, this] {
            open();
            CpuBackend::copy_to_host(host, device, queue);
            close();
        });
    }
    void copy_from_host_async(Tensor device, const void* host, Queue queue) override {
        uploaded_ += device.bytes();
        later(queue, [=, this] {
            open();
            CpuBackend::copy_from_host(device, host, queue);
            close();
        });
    }
    Event record(Queue queue) override {
        events_.push_back({queue, lane(queue).issued});
        return {std::ssize(events_) - 1};
    }
    void wait(Queue queue, Event event) override {
        later(queue, [=, this] { finish(event); });
    }
    void synchronize(Event event) override {
        ++host_waits_;
        finish(event);
    }
    void synchronize() override {
        ++host_waits_;
        finish(Queue::compute);
        finish(Queue::comm);
    }

protected:
    // Ops are of the compute queue.
    void op_begins(const char*) override {
        finish(Queue::compute);
        open();
    }
    void op_ends() override { close(); }

private:
    static constexpr int64_t kReserved = int64_t{1} << 34, kPage = 4096;

    // What has been issued to a queue and is not done, in order.
    struct Lane {
        int64_t issued = 0, done = 0;
        std::deque<std::function<void()>> waiting;
    };
    struct Point {
        Queue queue;
        int64_t issued;
    };
    Lane& lane(Queue queue) { return lanes_[static_cast<int>(queue)]; }
    void later(Queue queue, std::function<void()> work) {
        lane(queue).waiting.push_back(std::move(work));
        ++lane(queue).issued;
    }
    void finish(Queue queue) { finish_until(queue, lane(queue).issued); }
    void finish(Event event) {
        if (event.id >= 0) finish_until(events_[event.id].queue, events_[event.id].issued);
    }
    void finish_until(Queue queue, int64_t issued) {
        Lane& own = lane(queue);
        while (own.done < issued) {
            const std::function<void()> work = std::move(own.waiting.front());
            own.waiting.pop_front();
            ++own.done;
            work();
        }
    }

    void open() { protect(PROT_READ | PROT_WRITE); }
    void close() { protect(PROT_NONE); }
    void protect(int access) {
        if (used_ > 0) FOMOE_CHECK(mprotect(memory_, used_, access) == 0, "mprotect");
    }

    char* memory_ = nullptr;
    int64_t used_ = 0, allocations_ = 0, host_waits_ = 0, uploaded_ = 0, downloaded_ = 0;
    Lane lanes_[2];
    std::vector<Point> events_;
};

}  // namespace fomoe
