// Files: read-only maps, atomic writes, hashes. Failures are Error(Exit::data) that name the file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace fomoe {

// A whole file mapped for reading. An empty file has size 0.
class MappedFile {
public:
    explicit MappedFile(const std::string& path);
    MappedFile(MappedFile&& other) noexcept;
    MappedFile& operator=(MappedFile&& other) noexcept;
    ~MappedFile();

    const std::byte* data() const { return data_; }
    size_t size() const { return size_; }
    std::string_view text() const { return {reinterpret_cast<const char*>(data_), size_}; }
    const std::string& path() const { return path_; }

private:
    std::string path_;
    const std::byte* data_ = nullptr;
    size_t size_ = 0;
};

// A file that appears under its name only when it is complete: commit() makes it durable and
// renames it; without commit nothing is left behind.
class AtomicFile {
public:
    explicit AtomicFile(const std::string& path);
    AtomicFile(const AtomicFile&) = delete;
    AtomicFile& operator=(const AtomicFile&) = delete;
    ~AtomicFile();

    void write(const void* bytes, size_t n);
    void commit();

private:
    std::string path_, temporary_;
    std::string buffer_;
    int descriptor_ = -1;
    void flush();
};

// An exclusive lock on a file, which is created, for as long as the object and the process live.
// Waits at most so many seconds for it. A file system without locks grants it to everybody.
class FileLock {
public:
    FileLock(const std::string& path, double seconds);
    FileLock(FileLock&& other) noexcept;
    ~FileLock();
    bool held() const { return held_; }

private:
    int descriptor_;
    bool held_ = true;
};

std::string read_file(const std::string& path);
void atomic_write_file(const std::string& path, std::string_view bytes);
// Makes renames and new names in the directory durable.
void sync_directory(const std::string& path);

// xxh3, 64 bits.
uint64_t hash_bytes(const void* bytes, size_t n);
uint64_t hash_file(const std::string& path);

}  // namespace fomoe
