#include "config/yaml_file.h"

#include <fmt/format.h>
#include <yaml-cpp/depthguard.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "config/yaml_value.h"

namespace fomoe {
namespace {

constexpr size_t kMostBytes = 1 << 20;  // what is larger is no config

bool is_control(char c) {
    const auto code = static_cast<unsigned char>(c);
    return code < 0x20 && c != '\t' && c != '\n' && c != '\r';
}

bool is_utf8(std::string_view text) {
    for (size_t i = 0; i < text.size();) {
        const auto lead = static_cast<unsigned char>(text[i++]);
        const int more = lead < 0x80             ? 0
                         : (lead & 0xe0) == 0xc0 ? 1
                         : (lead & 0xf0) == 0xe0 ? 2
                         : (lead & 0xf8) == 0xf0 ? 3
                                                 : -1;
        if (more < 0) return false;
        for (int k = 0; k < more; ++k, ++i)
            if (i >= text.size() || (static_cast<unsigned char>(text[i]) & 0xc0) != 0x80)
                return false;
    }
    return true;
}

std::string text_of(const std::string& path) {
    std::error_code ignored;
    if (std::filesystem::is_directory(path, ignored))
        throw Unread{path, "is a directory; a file is expected"};
    std::ifstream file(path, std::ios::binary);
    if (!file) throw Unread{path, fmt::format("cannot open: {}", std::strerror(errno))};
    std::string text(kMostBytes + 1, ' ');
    file.read(text.data(), static_cast<std::streamsize>(text.size()));
    if (file.bad()) throw Unread{path, fmt::format("cannot read: {}", std::strerror(errno))};
    text.resize(file.gcount());
    if (text.size() > kMostBytes)
        throw Unread{path,
                     fmt::format("has more than {} KiB; this is no config", kMostBytes >> 10)};
    if (std::ranges::any_of(text, is_control))
        throw Unread{path, "holds control characters; a text file is expected"};
    if (!is_utf8(text)) throw Unread{path, "is not UTF-8"};
    return text;
}

}  // namespace

std::string Origin::at(const YAML::Mark& mark) const {
    if (!is_file || mark.is_null()) return file;
    return fmt::format("{}:{}:{}", file, mark.line + 1, mark.column + 1);
}

YAML::Node read_yaml(const Origin& origin) {
    try {
        const std::vector<YAML::Node> documents = YAML::LoadAll(text_of(origin.file));
        if (documents.empty() || (documents.size() == 1 && documents[0].IsNull()))
            throw Unread{origin.file + ":1:1", "the file is empty"};
        const YAML::Node& last = documents.back();
        if (documents.size() > 1)
            throw Unread{origin.at(last.Mark()), "a second YAML document; one is expected"};
        if (!last.IsMap())
            throw Unread{origin.at(last.Mark()),
                         shown(last) + " where keys and values are expected"};
        return last;
    } catch (const YAML::DeepRecursion& error) {
        throw Unread{origin.at(error.mark), "sections and lists are nested too deep"};
    } catch (const YAML::Exception& error) {
        throw Unread{origin.at(error.mark), "not YAML: " + error.msg};
    }
}

}  // namespace fomoe
