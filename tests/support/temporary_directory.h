// A directory of its own for a test, gone at its end.
#pragma once

#include <stdlib.h>

#include <filesystem>
#include <string>

namespace fomoe {

class TemporaryDirectory {
public:
    TemporaryDirectory() {
        std::string path = std::filesystem::temp_directory_path() / "fomoe_test.XXXXXX";
        path_ = mkdtemp(path.data());
    }
    TemporaryDirectory(const TemporaryDirectory&) = delete;
    TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
    ~TemporaryDirectory() { std::filesystem::remove_all(path_); }

    const std::string& path() const { return path_; }
    std::string operator/(const std::string& name) const { return path_ + "/" + name; }

private:
    std::string path_;
};

}  // namespace fomoe
