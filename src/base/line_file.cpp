#include "base/line_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

#include "base/error.h"

namespace fomoe {
namespace {

[[noreturn]] void fail(const std::string& path) {
    throw Error(Exit::data, concat("cannot write ", path, ": ", std::strerror(errno)));
}

// A pipe or a device has no length.
bool cut_at(int descriptor, int64_t size) {
    return ftruncate(descriptor, size) == 0 || errno == EINVAL;
}

}  // namespace

LineFile::LineFile(const std::string& path, int64_t keep) : path_(path), size_(keep) {
    const std::filesystem::path folder = std::filesystem::path(path).parent_path();
    std::error_code failed;
    if (!folder.empty()) std::filesystem::create_directories(folder, failed);
    descriptor_ = open(path.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    if (descriptor_ < 0) fail(path);
    if (!cut_at(descriptor_, keep)) {
        close(descriptor_);
        fail(path);
    }
}

LineFile::LineFile(LineFile&& other) noexcept
    : path_(std::move(other.path_)),
      descriptor_(std::exchange(other.descriptor_, -1)),
      size_(other.size_) {}

LineFile::~LineFile() {
    if (descriptor_ >= 0) close(descriptor_);
}

std::string LineFile::append(std::string_view line) {
    std::string bytes(line);
    bytes += '\n';
    for (size_t done = 0; done < bytes.size();) {
        const ssize_t n = pwrite(descriptor_, bytes.data() + done, bytes.size() - done,
                                 size_ + static_cast<int64_t>(done));
        if (n > 0) {
            done += static_cast<size_t>(n);
        } else if (n == 0 || errno != EINTR) {
            const std::string why = std::strerror(n == 0 ? EIO : errno);
            cut_at(descriptor_, size_);
            return why;
        }
    }
    size_ += static_cast<int64_t>(bytes.size());
    return "";
}

}  // namespace fomoe
