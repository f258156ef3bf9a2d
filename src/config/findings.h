// What the loader has found: where each key was given, and what is wrong with the config.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

namespace fomoe {

class Findings {
public:
    // The first file: where mistakes lie that no key is the place of.
    void start(const std::string& file);

    void given(const std::string& path, const std::string& where) { origins_[path] = where; }
    void given_by_entry(const std::string& path, const std::string& where) {
        origins_.try_emplace(path, where);
    }
    void forget_below(const std::string& path);  // path[...]
    bool is_given(const std::string& path) const { return origins_.contains(path); }
    const std::map<std::string, std::string>& origins() const { return origins_; }
    // Where the key, or else the nearest section around it, was given.
    std::string origin_of(std::string path) const;

    // Throws when there are too many to read.
    void error(const std::string& where, const std::string& path, const std::string& message);
    void warning(const std::string& where, const std::string& path, const std::string& message);
    // A key is wrong when it, something in it or a section around it is.
    bool wrong(const std::string& path) const;
    const std::vector<std::string>& warnings() const { return warnings_; }
    // Error(usage) with all errors, if there are any.
    void throw_errors() const;

private:
    std::vector<std::string> errors_, warnings_;
    std::map<std::string, std::string> origins_;  // path of a key or section -> where it was given
    std::set<std::string> wrong_;
    std::string first_file_;
};

}  // namespace fomoe
