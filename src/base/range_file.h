// A file that is read and written by ranges, without a map: several ranks write to one file, and
// the memory of the process stays what its tensors need. Failures are Error(data) that name the
// file.
#pragma once

#include <cstdint>
#include <string>

namespace fomoe {

class RangeFile {
public:
    static RangeFile for_reading(const std::string& path);
    static RangeFile for_writing(const std::string& path);  // must exist
    // A new file of this size; must not exist. Its space is reserved where the file system can do
    // that, so that a full disk shows here and not after a long time of writing.
    static RangeFile create(const std::string& path, int64_t bytes);
    RangeFile(RangeFile&& other) noexcept;
    RangeFile& operator=(RangeFile&& other) noexcept;
    ~RangeFile();

    const std::string& path() const { return path_; }
    int64_t bytes() const;
    // All n bytes, or an Error.
    void read(int64_t offset, void* data, int64_t n) const;
    void write(int64_t offset, const void* data, int64_t n) const;
    void sync() const;

private:
    RangeFile(const std::string& path, int flags, const char* what);
    [[noreturn]] void fail(const char* what) const;
    std::string path_;
    int descriptor_ = -1;
};

}  // namespace fomoe
