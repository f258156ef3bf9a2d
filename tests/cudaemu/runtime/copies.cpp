// Copies and fills as work of streams.
#include "runtime/copies.h"

#include <fmt/format.h>

#include <cstring>
#include <optional>

#include "check/checker.h"
#include "memory/device_memory.h"
#include "metrics/metrics.h"
#include "runtime/counting.h"
#include "runtime/errors.h"
#include "runtime/streams.h"

namespace cudaemu {
namespace {

uint64_t address_of(const void* pointer) { return reinterpret_cast<uint64_t>(pointer); }
bool on_device(const void* pointer) { return DeviceMemory::instance().owns(address_of(pointer)); }

void* reach(const void* pointer) {
    return on_device(pointer) ? DeviceMemory::instance().alias(address_of(pointer))
                              : const_cast<void*>(pointer);
}

// All rows lie in one allocation.
void check_range(const char* what, const void* begin, size_t pitch, size_t bytes, size_t rows) {
    if (!on_device(begin)) return;
    const size_t span = (rows - 1) * pitch + bytes;
    const DeviceMemory::Allocation found = DeviceMemory::instance().find(address_of(begin));
    if (found.contains(address_of(begin), span)) return;
    if (found.begin == found.end)
        misuse(cudaErrorInvalidValue, fmt::format("{}: no allocation holds the address", what));
    misuse(cudaErrorInvalidValue,
           fmt::format("{} of {} bytes, {} bytes into an allocation of {}", what, span,
                       address_of(begin) - found.begin, found.end - found.begin));
}

struct Direction {
    bool to_device = false, from_device = false;
    const char* name() const {
        if (to_device) return from_device ? "copy on the device" : "copy to the device";
        return from_device ? "copy to the host" : "copy on the host";
    }
};

Direction direction_of(const CopyRequest& request) {
    const Direction real{on_device(request.to), on_device(request.from)};
    if (request.kind == cudaMemcpyDefault) return real;
    const bool to =
        request.kind == cudaMemcpyHostToDevice || request.kind == cudaMemcpyDeviceToDevice;
    const bool from =
        request.kind == cudaMemcpyDeviceToHost || request.kind == cudaMemcpyDeviceToDevice;
    if (request.kind < cudaMemcpyHostToHost || request.kind > cudaMemcpyDefault)
        refuse(cudaErrorInvalidMemcpyDirection);
    if (to != real.to_device || from != real.from_device)
        misuse(
            cudaErrorInvalidValue,
            fmt::format("copy whose kind does not fit its pointers: they are a {}", real.name()));
    return real;
}

void count_copy(const Direction& direction) {
    if (direction.to_device && direction.from_device) count(&cudaemu_counts::copies_on_device);
    if (direction.to_device && !direction.from_device) count(&cudaemu_counts::copies_to_device);
    if (!direction.to_device && direction.from_device) count(&cudaemu_counts::copies_to_host);
}

void run_copy(const CopyRequest& request, const Direction& direction, const Operation& operation) {
    if (metrics_enabled() && direction.to_device && direction.from_device)
        record_transfer("copy", request.bytes * request.rows, request.bytes * request.rows);
    Checker& checker = Checker::instance();
    std::optional<Checker::Running> running;
    if (checker.enabled()) running.emplace(checker, operation);
    for (size_t row = 0; row < request.rows; ++row) {
        char* to = static_cast<char*>(request.to) + row * request.to_pitch;
        const char* from = static_cast<const char*>(request.from) + row * request.from_pitch;
        if (running && direction.to_device && direction.from_device)
            checker.copies(address_of(to), address_of(from), request.bytes);
        else if (running && direction.to_device)
            checker.writes(address_of(to), request.bytes);
        else if (running && direction.from_device)
            checker.reads(address_of(from), request.bytes);
        std::memmove(reach(to), reach(from), request.bytes);
    }
}

bool prepare(const CopyRequest& request, Direction& direction) {
    if (request.bytes == 0 || request.rows == 0) return false;
    if (request.rows > 1 &&
        (request.to_pitch < request.bytes || request.from_pitch < request.bytes))
        refuse(cudaErrorInvalidPitchValue);
    if (!request.to || !request.from) refuse(cudaErrorInvalidValue);
    direction = direction_of(request);
    check_range("copy", request.to, request.to_pitch, request.bytes, request.rows);
    check_range("copy", request.from, request.from_pitch, request.bytes, request.rows);
    count_copy(direction);
    return true;
}

void issue(const CopyRequest& request, const Direction& direction, cudaStream_t stream) {
    Streams::instance().issue(stream,
                              Label{.kind = "copy",
                                    .name = direction.name(),
                                    .bytes = double(request.bytes * request.rows)},
                              [request, direction](const Operation& operation) {
                                  run_copy(request, direction, operation);
                              });
}

}  // namespace

void copy(const CopyRequest& request, cudaStream_t stream) {
    Direction direction;
    if (prepare(request, direction)) issue(request, direction, stream);
}

void copy_and_wait(const CopyRequest& request) {
    Direction direction;
    Streams::instance().forbid_unsafe();
    if (!prepare(request, direction)) return;
    issue(request, direction, nullptr);
    if (direction.to_device && direction.from_device) return;
    count(&cudaemu_counts::host_waits);
    Streams::instance().wait(cudaStream_t(nullptr), "cudaMemcpy");
}

void fill(const FillRequest& request, cudaStream_t stream) {
    if (request.bytes == 0 || request.rows == 0) return;
    if (request.rows > 1 && request.pitch < request.bytes) refuse(cudaErrorInvalidPitchValue);
    if (!on_device(request.to))
        misuse(cudaErrorInvalidValue, "fill of memory that is not of the device");
    check_range("fill", request.to, request.pitch, request.bytes, request.rows);
    count(&cudaemu_counts::memsets);
    Streams::instance().issue(
        stream,
        Label{.kind = "fill", .name = "fill", .bytes = double(request.bytes * request.rows)},
        [request](const Operation& operation) {
            if (metrics_enabled()) record_transfer("fill", 0, request.bytes * request.rows);
            Checker& checker = Checker::instance();
            std::optional<Checker::Running> running;
            if (checker.enabled()) running.emplace(checker, operation);
            for (size_t row = 0; row < request.rows; ++row) {
                char* to = static_cast<char*>(request.to) + row * request.pitch;
                if (running) checker.writes(address_of(to), request.bytes);
                std::memset(reach(to), request.value, request.bytes);
            }
        });
}

}  // namespace cudaemu
