#include "config/yaml_value.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace fomoe {
namespace {

constexpr int kMaxId = 1'000'000;  // a slip of the keyboard must not fill the memory

std::string_view trimmed(std::string_view text) {
    const size_t begin = text.find_first_not_of(' ');
    if (begin == text.npos) return {};
    return text.substr(begin, text.find_last_not_of(' ') + 1 - begin);
}

bool add_ids(std::string_view item, std::vector<int>& ids) {
    const size_t dash = item.find('-');
    int first = 0, last = 0;
    if (!parse_number(trimmed(item.substr(0, dash)), first)) return false;
    last = first;
    if (dash != item.npos && !parse_number(trimmed(item.substr(dash + 1)), last)) return false;
    if (first < 0 || last < first || last > kMaxId) return false;
    for (int id = first; id <= last; ++id) ids.push_back(id);
    return true;
}

}  // namespace

std::string shown(const YAML::Node& node) {
    if (node.IsMap()) return "a section";
    if (node.IsSequence()) return "a list";
    if (node.IsNull()) return "nothing";
    const std::string text = node.Scalar();
    return text.size() <= 40 ? fmt::format("'{}'", text)
                             : fmt::format("'{}...'", text.substr(0, 40));
}

bool quoted(const YAML::Node& node) {
    return node.Tag() == "!" || node.Tag() == "tag:yaml.org,2002:str";
}

bool in_limits(double value, const Limits& limits) {
    return std::isfinite(value) && value <= limits.most &&
           (limits.above ? value > limits.least : value >= limits.least);
}

bool read_ids(const YAML::Node& node, std::vector<int>& ids) {
    ids.clear();
    if (node.IsSequence()) {
        for (const YAML::Node& item : node)
            if (!item.IsScalar() || !add_ids(trimmed(item.Scalar()), ids)) return false;
    } else if (node.IsScalar()) {
        const std::string& text = node.Scalar();
        for (size_t begin = 0; begin <= text.size();) {
            const size_t end = std::min(text.find(',', begin), text.size());
            if (!add_ids(trimmed(std::string_view(text).substr(begin, end - begin)), ids))
                return false;
            begin = end + 1;
        }
    }
    std::ranges::sort(ids);
    return !ids.empty() && std::ranges::adjacent_find(ids) == ids.end();
}

}  // namespace fomoe
