// A file of this process in memory, for what only reads files; it goes away at the end.
#pragma once

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

class Scratch {
public:
    explicit Scratch(const std::string& extension)
        : path_("/dev/shm/fomoe-fuzz-" + std::to_string(getpid()) + extension) {}
    Scratch(const Scratch&) = delete;
    ~Scratch() {
        std::error_code gone;
        std::filesystem::remove(path_, gone);
    }
    const std::string& with(const void* bytes, size_t n) const {
        std::ofstream(path_, std::ios::binary).write(static_cast<const char*>(bytes), n);
        return path_;
    }

private:
    std::string path_;
};
