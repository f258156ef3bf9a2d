// Config files for a test: what they load to, or what is wrong with them.
#pragma once

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>

#include "base/error.h"
#include "config/load.h"
#include "support/temporary_directory.h"

namespace fomoe {

inline const std::string kSources = "data: {sources: {a: x/a}}\n";

// Files that are loaded together, with --set.
class Files {
public:
    std::string add(const std::string& name, const std::string& text) {
        const std::string path = directory_ / name;
        std::filesystem::create_directories(std::filesystem::path(path).parent_path());
        std::ofstream(path) << text;
        files_.push_back(path);
        return path;
    }
    Config load(const std::vector<std::string>& sets = {}) const {
        return load_config(files_, sets);
    }
    // The lines of the error, with the directory taken off.
    std::string errors(const std::vector<std::string>& sets = {}) const {
        try {
            load_config(files_, sets);
        } catch (const Error& error) {
            CHECK(error.exit == Exit::usage);
            std::string text = error.what();
            const std::string prefix = directory_.path() + "/";
            for (size_t at; (at = text.find(prefix)) != std::string::npos;)
                text.erase(at, prefix.size());
            return text;
        }
        return "no error";
    }
    const std::string& path() const { return directory_.path(); }

private:
    TemporaryDirectory directory_;
    std::vector<std::string> files_;
};

inline Config load(const std::string& text, const std::vector<std::string>& sets = {}) {
    Files files;
    files.add("a.yaml", text);
    return files.load(sets);
}

inline std::string errors(const std::string& text, const std::vector<std::string>& sets = {}) {
    Files files;
    files.add("a.yaml", text);
    return files.errors(sets);
}

inline std::string one_error(const std::string& line) {
    return line + "\n1 error; nothing was started.";
}

}  // namespace fomoe
