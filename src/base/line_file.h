// A text file that grows by whole lines, also when it has no room for all of them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace fomoe {

class LineFile {
public:
    // Opens the file, which is created, to append behind its first `keep` bytes; the rest is cut
    // off. Makes the folder. Throws Error(data) that names the file.
    explicit LineFile(const std::string& path, int64_t keep = 0);
    LineFile(LineFile&& other) noexcept;
    LineFile& operator=(LineFile&&) = delete;
    ~LineFile();

    // Appends the line and its end. Empty, or why nothing was written, as on a full disk: then the
    // file ends with the line before.
    std::string append(std::string_view line);
    const std::string& path() const { return path_; }

private:
    std::string path_;
    int descriptor_ = -1;
    int64_t size_;
};

}  // namespace fomoe
