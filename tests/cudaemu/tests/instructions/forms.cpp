// A reader of PTX of its own, so that it does not share the mistakes of the interpreter's.
#include "forms.h"

#include <algorithm>
#include <cctype>
#include <vector>

namespace cudaemu {

namespace {

std::string without_comments_and_strings(std::string_view text) {
    std::string out;
    for (size_t i = 0; i < text.size(); ++i) {
        if (text.substr(i, 2) == "//") {
            i = std::min(text.find('\n', i), text.size() - 1);
            out += '\n';
        } else if (text.substr(i, 2) == "/*") {
            i = std::min(text.find("*/", i), text.size() - 2) + 1;
        } else if (text[i] == '"') {
            i = std::min(text.find('"', i + 1), text.size() - 1);
        } else {
            out += text[i];
        }
    }
    return out;
}

bool is_word(char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '$'; }

void skip_space(std::string_view& text) {
    while (!text.empty() && std::isspace(static_cast<unsigned char>(text[0]))) {
        text.remove_prefix(1);
    }
}

// Takes braces and labels off the front of a statement, then a guard.
void skip_to_opcode(std::string_view& text) {
    for (;;) {
        skip_space(text);
        if (!text.empty() && (text[0] == '{' || text[0] == '}')) {
            text.remove_prefix(1);
            continue;
        }
        size_t end = 0;
        while (end < text.size() && (is_word(text[end]) || text[end] == '%')) ++end;
        if (end > 0 && end < text.size() && text[end] == ':' && text.substr(end, 2) != "::") {
            text.remove_prefix(end + 1);
            continue;
        }
        break;
    }
    if (text.empty() || text[0] != '@') return;
    while (!text.empty() && !std::isspace(static_cast<unsigned char>(text[0]))) {
        text.remove_prefix(1);
    }
    skip_space(text);
}

std::vector<std::string_view> split_operands(std::string_view text) {
    std::vector<std::string_view> parts;
    int depth = 0;
    size_t begin = 0;
    for (size_t i = 0; i <= text.size(); ++i) {
        if (i == text.size() || (text[i] == ',' && depth == 0)) {
            std::string_view part = text.substr(begin, i - begin);
            skip_space(part);
            if (!part.empty()) parts.push_back(part);
            begin = i + 1;
        } else if (text[i] == '{' || text[i] == '(' || text[i] == '[') {
            ++depth;
        } else if (text[i] == '}' || text[i] == ')' || text[i] == ']') {
            --depth;
        }
    }
    return parts;
}

std::string kind_of(std::string_view operand) {
    if (operand[0] == '[') return "m";
    if (operand[0] == '(') return "()";
    if (operand[0] == '{') {
        return "v" + std::to_string(1 + std::count(operand.begin(), operand.end(), ','));
    }
    if (operand.find('|') != std::string_view::npos) return "r|r";
    return std::isalpha(static_cast<unsigned char>(operand[0])) || operand[0] == '$' ||
                   operand.substr(0, 2) == "__"
               ? "s"
               : "r";
}

}  // namespace

std::set<std::string> forms_of(std::string_view ptx) {
    const std::string clean = without_comments_and_strings(ptx);
    std::set<std::string> forms;
    size_t begin = 0;
    while (begin < clean.size()) {
        const size_t end = std::min(clean.find(';', begin), clean.size());
        std::string_view statement = std::string_view(clean).substr(begin, end - begin);
        begin = end + 1;
        // What has no semicolon, like a kernel's head or a .loc, ends at its brace or line.
        for (;;) {
            skip_to_opcode(statement);
            if (statement.empty() || statement[0] != '.') break;
            const bool head = statement.starts_with(".visible") ||
                              statement.starts_with(".entry") || statement.starts_with(".func") ||
                              statement.starts_with(".weak") || statement.starts_with(".extern");
            const size_t stop = statement.find(head ? '{' : '\n');
            if (stop == std::string_view::npos) {
                statement = {};
                break;
            }
            statement.remove_prefix(stop + 1);
        }
        if (statement.empty()) continue;
        size_t length = 0;
        while (
            length < statement.size() &&
            (is_word(statement[length]) || statement[length] == '.' || statement[length] == ':')) {
            ++length;
        }
        if (length == 0) continue;
        std::string form(statement.substr(0, length));
        for (const std::string_view operand : split_operands(statement.substr(length))) {
            form += " " + kind_of(operand);
        }
        forms.insert(form);
    }
    return forms;
}

}  // namespace cudaemu
