#include "base/range_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "base/error.h"

namespace fomoe {

RangeFile::RangeFile(const std::string& path, int flags, const char* what) : path_(path) {
    descriptor_ = ::open(path.c_str(), flags | O_CLOEXEC, 0666);
    if (descriptor_ < 0) fail(what);
}

RangeFile RangeFile::for_reading(const std::string& path) { return {path, O_RDONLY, "open"}; }

RangeFile RangeFile::for_writing(const std::string& path) { return {path, O_WRONLY, "open"}; }

RangeFile RangeFile::create(const std::string& path, int64_t bytes) {
    RangeFile file(path, O_WRONLY | O_CREAT | O_EXCL, "create");
    int failed = 0;
    do {
        failed = ::fallocate(file.descriptor_, 0, 0, bytes);
    } while (failed && errno == EINTR);
    if (failed && (errno == EOPNOTSUPP || errno == ENOSYS))
        failed = ::ftruncate(file.descriptor_, bytes);
    if (failed) file.fail("reserve its space");
    return file;
}

RangeFile::RangeFile(RangeFile&& other) noexcept
    : path_(std::move(other.path_)), descriptor_(std::exchange(other.descriptor_, -1)) {}

RangeFile& RangeFile::operator=(RangeFile&& other) noexcept {
    std::swap(path_, other.path_);
    std::swap(descriptor_, other.descriptor_);
    return *this;
}

RangeFile::~RangeFile() {
    if (descriptor_ >= 0) ::close(descriptor_);
}

int64_t RangeFile::bytes() const {
    struct stat status;
    if (::fstat(descriptor_, &status) != 0) fail("read");
    if (!S_ISREG(status.st_mode)) throw Error(Exit::data, path_ + ": is not a regular file");
    return status.st_size;
}

void RangeFile::read(int64_t offset, void* data, int64_t n) const {
    char* to = static_cast<char*>(data);
    while (n > 0) {
        const ssize_t got = ::pread(descriptor_, to, n, offset);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) fail("read");
        if (got == 0) throw Error(Exit::data, path_ + ": ends too early, it is truncated");
        to += got, offset += got, n -= got;
    }
}

void RangeFile::write(int64_t offset, const void* data, int64_t n) const {
    const char* from = static_cast<const char*>(data);
    while (n > 0) {
        const ssize_t put = ::pwrite(descriptor_, from, n, offset);
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) fail("write");
        from += put, offset += put, n -= put;
    }
}

void RangeFile::sync() const {
    if (::fsync(descriptor_) != 0) fail("sync");
}

void RangeFile::fail(const char* what) const {
    throw Error(Exit::data, fmt::format("{}: cannot {}: {}", path_, what, std::strerror(errno)));
}

}  // namespace fomoe
