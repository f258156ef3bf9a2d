#include "base/file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <memory>
#include <utility>

#include "base/error.h"
#include "base/timer.h"

namespace fomoe {
namespace {

constexpr size_t kBufferBytes = 1 << 20;

[[noreturn]] void fail(const std::string& path, const char* what) {
    throw Error(Exit::data, fmt::format("{}: cannot {}: {}", path, what, std::strerror(errno)));
}

void write_all(int descriptor, const char* bytes, size_t n, const std::string& path) {
    while (n > 0) {
        const ssize_t written = ::write(descriptor, bytes, n);
        if (written < 0 && errno == EINTR) continue;
        if (written < 0) fail(path, "write");
        bytes += written;
        n -= written;
    }
}

// Closes a descriptor at the end of a block.
struct Descriptor {
    int value;
    ~Descriptor() {
        if (value >= 0) ::close(value);
    }
};

}  // namespace

MappedFile::MappedFile(const std::string& path) : path_(path) {
    const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
    if (file.value < 0) fail(path, "open");
    struct stat status;
    if (::fstat(file.value, &status) != 0) fail(path, "read");
    if (!S_ISREG(status.st_mode)) throw Error(Exit::data, path + ": is not a regular file");
    size_ = static_cast<size_t>(status.st_size);
    if (size_ == 0) return;
    void* map = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, file.value, 0);
    if (map == MAP_FAILED) fail(path, "map");
    data_ = static_cast<const std::byte*>(map);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
    std::swap(path_, other.path_);
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
}

MappedFile::~MappedFile() {
    if (data_) ::munmap(const_cast<std::byte*>(data_), size_);
}

AtomicFile::AtomicFile(const std::string& path)
    : path_(path), temporary_(fmt::format("{}.tmp.{}", path, ::getpid())) {
    descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (descriptor_ < 0) fail(temporary_, "create");
    buffer_.reserve(kBufferBytes);
}

AtomicFile::~AtomicFile() {
    if (descriptor_ < 0) return;
    ::close(descriptor_);
    ::unlink(temporary_.c_str());
}

void AtomicFile::write(const void* bytes, size_t n) {
    if (buffer_.size() + n > kBufferBytes) flush();
    if (n >= kBufferBytes)
        write_all(descriptor_, static_cast<const char*>(bytes), n, temporary_);
    else
        buffer_.append(static_cast<const char*>(bytes), n);
}

void AtomicFile::flush() {
    write_all(descriptor_, buffer_.data(), buffer_.size(), temporary_);
    buffer_.clear();
}

void AtomicFile::commit() {
    flush();
    if (::fsync(descriptor_) != 0) fail(temporary_, "write");
    if (::rename(temporary_.c_str(), path_.c_str()) != 0) fail(path_, "create");
    ::close(std::exchange(descriptor_, -1));
    sync_directory(std::filesystem::path(path_).parent_path().string());
}

FileLock::FileLock(const std::string& path, double seconds)
    : descriptor_(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666)) {
    if (descriptor_ < 0) fail(path, "create");
    const Timer timer;
    while (::flock(descriptor_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
        held_ = timer.seconds() < seconds;
        if (!held_) return;
        ::usleep(100'000);
    }
}

FileLock::FileLock(FileLock&& other) noexcept
    : descriptor_(std::exchange(other.descriptor_, -1)), held_(other.held_) {}

FileLock::~FileLock() {
    if (descriptor_ >= 0) ::close(descriptor_);
}

std::string read_file(const std::string& path) {
    const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
    if (file.value < 0) fail(path, "open");
    std::string text;
    size_t used = 0;
    while (true) {
        text.resize(used + kBufferBytes);
        const ssize_t n = ::read(file.value, text.data() + used, kBufferBytes);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) fail(path, "read");
        used += n;
        if (n == 0) break;
    }
    text.resize(used);
    return text;
}

void atomic_write_file(const std::string& path, std::string_view bytes) {
    AtomicFile file(path);
    file.write(bytes.data(), bytes.size());
    file.commit();
}

void sync_directory(const std::string& path) {
    const std::string name = path.empty() ? "." : path;
    const Descriptor directory{::open(name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
    if (directory.value < 0) fail(name, "open");
    // Some file systems refuse to sync a directory; there is nothing to do about it.
    if (::fsync(directory.value) != 0 && errno != EINVAL && errno != ENOTSUP) fail(name, "sync");
}

uint64_t hash_bytes(const void* bytes, size_t n) { return XXH3_64bits(bytes, n); }

uint64_t hash_file(const std::string& path) {
    // In blocks, not mapped: the pages of a large file would count as memory of the process.
    const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
    if (file.value < 0) fail(path, "open");
    const std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)> state(XXH3_createState(),
                                                                         XXH3_freeState);
    XXH3_64bits_reset(state.get());
    std::string block(kBufferBytes, '\0');
    while (true) {
        const ssize_t n = ::read(file.value, block.data(), block.size());
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) fail(path, "read");
        if (n == 0) break;
        XXH3_64bits_update(state.get(), block.data(), n);
    }
    return XXH3_64bits_digest(state.get());
}

}  // namespace fomoe
