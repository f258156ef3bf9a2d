// The handles that a program holds, so that wrong ones are noticed.
#pragma once

#include <fmt/format.h>

#include <map>
#include <memory>
#include <mutex>

#include "runtime/libraries.h"

namespace cudaemu::blas {

// Of one kind. Thread-safe.
template <class T>
class Handles {
public:
    static Handles& instance() {
        static Handles handles;
        return handles;
    }

    void* add(T object) {
        auto owned = std::make_unique<T>(std::move(object));
        void* handle = owned.get();
        const std::lock_guard lock(mutex_);
        objects_.emplace(handle, std::move(owned));
        return handle;
    }
    // Null, with a finding that begins with `call`, when there is no such handle.
    T* find(const void* handle, const char* call) {
        const std::lock_guard lock(mutex_);
        const auto found = objects_.find(handle);
        if (found != objects_.end()) return found->second.get();
        cudaemu_report(fmt::format("{}: not a handle, or one that was destroyed", call).c_str());
        return nullptr;
    }
    bool remove(const void* handle, const char* call) {
        if (!find(handle, call)) return false;
        const std::lock_guard lock(mutex_);
        return objects_.erase(handle) == 1;
    }

private:
    std::mutex mutex_;
    std::map<const void*, std::unique_ptr<T>> objects_;
};

}  // namespace cudaemu::blas
