#include "eval/choice.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "eval/score.h"

namespace fomoe {
namespace {

constexpr const char* kBlanks = " \t\n\v\f\r\x1c\x1d\x1e\x1f";

// Characters of UTF-8.
int64_t characters(const std::string& text) {
    return std::ranges::count_if(text, [](unsigned char byte) { return (byte & 0xc0) != 0x80; });
}

// Sums of the log-probabilities of each request's continuation.
class Judge {
public:
    Judge(UnionModel& model, const std::vector<ChoiceTokens>& requests)
        : model_(model), requests_(requests), likelihood_(requests.size(), 0) {
        size_t longest = 0;
        for (const ChoiceTokens& request : requests)
            longest = std::max(longest, request.tokens.size() - 1);
        T_ = static_cast<int64_t>(longest);
    }

    std::vector<double> run() {
        Communicator& ranks = model_.ranks();
        const int B = model_.sequences();
        const auto transformer = model_.transformer_for(B, static_cast<int>(T_));
        for (Range part : runs_of_part(std::ssize(requests_), ranks.size(), ranks.rank(), B))
            pass(*transformer, part);
        ranks.all_reduce_sum(view(likelihood_.data(), Shape(std::ssize(likelihood_))));
        return likelihood_;
    }

private:
    void pass(Transformer& transformer, Range part) {
        const int64_t N = transformer.tokens();
        std::vector<int32_t> token(N, 0), target(N, -1), position(N), begin;
        if (model_.config().data.document_mask) begin.assign(N, 0);
        for (int64_t n = 0; n < N; ++n) position[n] = static_cast<int32_t>(n % T_);
        for (int64_t i = 0; i < part.size(); ++i) {
            const auto& [tokens, continuation] = requests_[part.begin + i];
            const int64_t inputs = std::ssize(tokens) - 1;
            for (int64_t t = 0; t < inputs; ++t) {
                token[i * T_ + t] = tokens[t];
                if (t >= inputs - continuation) target[i * T_ + t] = tokens[t + 1];
            }
        }
        std::vector<float> loss(N);
        transformer.evaluate({.token = token,
                              .target = target,
                              .position = position,
                              .begin = begin,
                              .sequence = {}},
                             loss);
        for (int64_t i = 0; i < part.size(); ++i)
            likelihood_[part.begin + i] =
                -std::accumulate(loss.begin() + i * T_, loss.begin() + (i + 1) * T_, 0.0);
    }

    UnionModel& model_;
    const std::vector<ChoiceTokens>& requests_;
    std::vector<double> likelihood_;
    int64_t T_;
};

}  // namespace

double ChoiceScore::error_of(double share) const {
    if (questions < 2) return std::numeric_limits<double>::quiet_NaN();
    return std::sqrt(share * (1 - share) / static_cast<double>(questions - 1));
}

ChoiceTokens choice_tokens(const Tokenizer& tokenizer, std::string context,
                           std::string continuation, int seq_len) {
    const size_t end = context.find_last_not_of(kBlanks) + 1;  // 0 where there is nothing else
    continuation.insert(0, context.substr(end));
    context.erase(end);
    std::vector<int32_t> tokens = tokenizer.encode(context + continuation);
    int64_t before = std::ssize(tokenizer.encode(context));
    const int64_t judged = std::ssize(tokens) - before;
    if (judged < 1) throw Error(Exit::data, "a choice without a token of its own");
    if (judged > seq_len)
        throw Error(Exit::data, fmt::format("a choice of {} tokens; the model takes {} (seq_len)",
                                            judged, seq_len));
    if (before == 0) tokens.insert(tokens.begin(), tokenizer.end_of_document());
    if (std::ssize(tokens) > seq_len + 1)
        tokens.erase(tokens.begin(), tokens.end() - (seq_len + 1));
    return {std::move(tokens), judged};
}

ChoiceScore score_choices(UnionModel& model, const Tokenizer& tokenizer, const ChoiceTask& task) {
    std::vector<ChoiceTokens> requests;
    for (size_t q = 0; q < task.questions.size(); ++q)
        for (const std::string& choice : task.questions[q].choices) try {
                requests.push_back(choice_tokens(tokenizer, task.questions[q].context, " " + choice,
                                                 model.config().data.seq_len));
            } catch (const Error& error) {
                throw Error(error.exit,
                            fmt::format("{}: question {}: {}", task.name, q + 1, error.what()));
            }
    const std::vector<double> likelihood = Judge(model, requests).run();
    ChoiceScore score;
    auto next = likelihood.begin();
    for (const Question& question : task.questions) {
        std::vector<double> plain, normed;
        for (const std::string& choice : question.choices) {
            plain.push_back(*next++);
            normed.push_back(plain.back() / static_cast<double>(characters(choice)));
        }
        const auto right = [&](const std::vector<double>& of) {
            return std::ranges::max_element(of) - of.begin() == question.answer;
        };
        ++score.questions;
        score.acc += right(plain);
        score.acc_norm += right(normed);
    }
    score.acc /= static_cast<double>(score.questions);
    score.acc_norm /= static_cast<double>(score.questions);
    return score;
}

}  // namespace fomoe
