// A config file -> its YAML, or one reason why it has none.
#pragma once

#include <yaml-cpp/yaml.h>

#include <string>

namespace fomoe {

// "file:line:col" or "--set", and where relative paths start.
struct Origin {
    std::string file;
    std::string directory;
    bool is_file = true;

    std::string at(const YAML::Mark& mark) const;
};

struct Unread {
    std::string where, message;
};

// The one document of the file, a map. Throws Unread.
YAML::Node read_yaml(const Origin& origin);

}  // namespace fomoe
