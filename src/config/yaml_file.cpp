#include "config/yaml_file.h"

#include <fmt/format.h>
#include <yaml-cpp/depthguard.h>
#include <yaml-cpp/eventhandler.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

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

// Where documents begin. Node's own LoadAll does not end when one begins with a comma.
struct Beginnings final : YAML::EventHandler {
    std::vector<YAML::Mark> marks;

    void OnDocumentStart(const YAML::Mark& mark) override { marks.push_back(mark); }
    void OnDocumentEnd() override {}
    void OnNull(const YAML::Mark&, YAML::anchor_t) override {}
    void OnAlias(const YAML::Mark&, YAML::anchor_t) override {}
    void OnScalar(const YAML::Mark&, const std::string&, YAML::anchor_t,
                  const std::string&) override {}
    void OnSequenceStart(const YAML::Mark&, const std::string&, YAML::anchor_t,
                         YAML::EmitterStyle::value) override {}
    void OnSequenceEnd() override {}
    void OnMapStart(const YAML::Mark&, const std::string&, YAML::anchor_t,
                    YAML::EmitterStyle::value) override {}
    void OnMapEnd() override {}
};

// Of the first two documents.
std::vector<YAML::Mark> beginnings(const std::string& text) {
    std::istringstream stream(text);
    YAML::Parser parser(stream);
    Beginnings found;
    while (found.marks.size() < 2 && parser.HandleNextDocument(found)) {
    }
    return found.marks;
}

}  // namespace

std::string Origin::at(const YAML::Mark& mark) const {
    if (!is_file || mark.is_null()) return file;
    return fmt::format("{}:{}:{}", file, mark.line + 1, mark.column + 1);
}

YAML::Node read_yaml(const Origin& origin) {
    try {
        const std::string text = text_of(origin.file);
        const std::vector<YAML::Mark> documents = beginnings(text);
        if (documents.size() > 1)
            throw Unread{origin.at(documents[1]), text.substr(documents[1].pos, 1) == ","
                                                      ? "not YAML: a comma outside of a list"
                                                      : "a second YAML document; one is expected"};
        const YAML::Node top = YAML::Load(text);
        if (documents.empty() || top.IsNull())
            throw Unread{origin.file + ":1:1", "the file is empty"};
        if (!top.IsMap())
            throw Unread{origin.at(top.Mark()), shown(top) + " where keys and values are expected"};
        return top;
    } catch (const YAML::DeepRecursion& error) {
        throw Unread{origin.at(error.mark), "sections and lists are nested too deep"};
    } catch (const YAML::Exception& error) {
        throw Unread{origin.at(error.mark), "not YAML: " + error.msg};
    }
}

}  // namespace fomoe
