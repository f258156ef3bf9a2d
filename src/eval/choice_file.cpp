// Files of questions in the formats in which HellaSwag, ARC and PIQA are given.
#include <fmt/format.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>

#include "eval/choice.h"

namespace fomoe {
namespace {

using Json = nlohmann::json;

std::string text_of(const Json& line, const char* key) {
    if (!line.contains(key) || !line[key].is_string())
        throw Error(Exit::data, fmt::format("no text '{}'", key));
    return line[key].get<std::string>();
}

// At least one.
std::vector<std::string> texts_of(const Json& line, const char* key) {
    if (!line.contains(key) || !line[key].is_array())
        throw Error(Exit::data, fmt::format("no list '{}'", key));
    if (line[key].empty()) throw Error(Exit::data, fmt::format("the list '{}' is empty", key));
    std::vector<std::string> texts;
    for (const Json& text : line[key]) {
        if (!text.is_string())
            throw Error(Exit::data, fmt::format("'{}' has something else than texts", key));
        texts.push_back(text.get<std::string>());
    }
    return texts;
}

// The number of a choice: 2, or "2".
int label_of(const Json& line, size_t n_choices) {
    const Json label = line.value("label", Json());
    if (!label.is_number() && !label.is_string())
        throw Error(Exit::data, "no 'label' that is the number of a choice");
    // Its digits, for it may be larger than any integer of ours.
    const std::string text = label.is_string() ? label.get<std::string>() : label.dump();
    for (size_t choice = 0; choice < n_choices; ++choice)
        if (text == std::to_string(choice)) return static_cast<int>(choice);
    throw Error(Exit::data, fmt::format("'label' is {}; it must be 0 to {}, the number of a choice",
                                        label.dump(), n_choices - 1));
}

void replace_all(std::string& text, const std::string& from, const std::string& to) {
    for (size_t at = text.find(from); at != text.npos; at = text.find(from, at + to.size()))
        text.replace(at, from.size(), to);
}

// What lm-evaluation-harness makes of HellaSwag's texts: no marks in brackets, no double blanks.
std::string cleaned(std::string text) {
    const char* blanks = " \t\n\v\f\r";
    text.erase(0, std::min(text.find_first_not_of(blanks), text.size()));
    text.erase(text.find_last_not_of(blanks) + 1);
    replace_all(text, " [title]", ". ");
    for (size_t at = 0; (at = text.find('[', at)) != text.npos;) {
        const size_t end = text.find_first_of("]\n", at);
        if (end != text.npos && text[end] == ']')
            text.erase(at, end - at + 1);
        else
            ++at;
    }
    replace_all(text, "  ", " ");
    return text;
}

// The first letter large, all others small, as far as they are ASCII.
std::string capitalised(std::string text) {
    for (size_t i = 0; i < text.size(); ++i)
        if (static_cast<unsigned char>(text[i]) < 128)
            text[i] = static_cast<char>(i == 0 ? std::toupper(text[i]) : std::tolower(text[i]));
    return text;
}

Question hellaswag(const Json& line) {
    std::string context = line.contains("ctx_a") && line.contains("ctx_b")
                              ? text_of(line, "ctx_a") + " " + capitalised(text_of(line, "ctx_b"))
                              : text_of(line, "ctx");
    if (line.contains("activity_label")) context = text_of(line, "activity_label") + ": " + context;
    Question question{cleaned(context), texts_of(line, "endings"), 0};
    question.answer = label_of(line, question.choices.size());
    for (std::string& choice : question.choices) choice = cleaned(choice);
    return question;
}

Question arc(const Json& line) {
    const Json& choices = line["choices"];
    const std::vector<std::string> labels = texts_of(choices, "label");
    const std::vector<std::string> texts = texts_of(choices, "text");
    if (labels.size() != texts.size())
        throw Error(Exit::data, fmt::format("'choices' has {} of 'label' and {} of 'text'",
                                            labels.size(), texts.size()));
    const std::string key = text_of(line, "answerKey");
    const auto found = std::ranges::find(labels, key);
    if (found == labels.end())
        throw Error(Exit::data, fmt::format("'answerKey' {} is no label of a choice", key));
    return {"Question: " + text_of(line, "question") + "\nAnswer:", texts,
            static_cast<int>(found - labels.begin())};
}

Question piqa(const Json& line) {
    return {"Question: " + text_of(line, "goal") + "\nAnswer:",
            {text_of(line, "sol1"), text_of(line, "sol2")},
            label_of(line, 2)};
}

std::string format_of(const Json& line) {
    if (line.contains("endings")) return "hellaswag";
    if (line.contains("question") && line.contains("choices") && line["choices"].is_object())
        return "arc";
    if (line.contains("goal") && line.contains("sol1")) return "piqa";
    throw Error(Exit::data,
                "none of the formats that there are: HellaSwag has ctx, endings, label; ARC "
                "question, choices with text and label, answerKey; PIQA goal, sol1, sol2, label");
}

Question question_of(const Json& line, const std::string& format) {
    if (format_of(line) != format)
        throw Error(Exit::data, fmt::format("not in the format of the first line, {}", format));
    Question question = format == "hellaswag" ? hellaswag(line)
                        : format == "arc"     ? arc(line)
                                              : piqa(line);
    for (const std::string& choice : question.choices)
        if (choice.empty()) throw Error(Exit::data, "a choice is empty");
    return question;
}

}  // namespace

ChoiceTask read_choice_task(const std::filesystem::path& file, int64_t limit) {
    std::ifstream in(file);
    if (!in) throw Error(Exit::data, fmt::format("{}: cannot be read", file.string()));
    ChoiceTask task{.name = file.stem().string(), .format = {}, .questions = {}};
    std::string text;
    for (int64_t number = 1; std::getline(in, text); ++number) {
        if (limit > 0 && std::ssize(task.questions) == limit) break;
        if (text.find_first_not_of(" \t\r") == text.npos) continue;
        try {
            const Json line = Json::parse(text, nullptr, false);
            if (!line.is_object()) throw Error(Exit::data, "no JSON object");
            if (task.format.empty()) task.format = format_of(line);
            task.questions.push_back(question_of(line, task.format));
        } catch (const Error& error) {
            throw Error(Exit::data, fmt::format("{}:{}: {}", file.string(), number, error.what()));
        }
    }
    if (task.questions.empty())
        throw Error(Exit::data, fmt::format("{}: no question in it", file.string()));
    return task;
}

}  // namespace fomoe
