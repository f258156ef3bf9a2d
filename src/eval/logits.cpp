#include "eval/logits.h"

#include <fmt/format.h>

#include <numeric>
#include <sstream>

#include "checkpoint/safetensors.h"

namespace fomoe {

std::vector<std::vector<int32_t>> read_sequences(std::istream& in, const Config& config,
                                                 const std::string& option, int64_t most) {
    std::vector<std::vector<int32_t>> sequences;
    std::string line;
    for (int number = 1; std::getline(in, line); ++number) {
        const auto refuse = [&](const std::string& why) {
            throw Error(Exit::usage, fmt::format("{}: line {}: {}", option, number, why));
        };
        std::istringstream words(line);
        std::vector<int32_t> ids;
        for (std::string word; words >> word;) {
            const bool digits = word.find_first_not_of("0123456789") == word.npos;
            if (!digits || word.size() > 9 || std::stoi(word) >= config.model.vocab_size)
                refuse(fmt::format("'{}' is no token id; 0 to {} are", word,
                                   config.model.vocab_size - 1));
            ids.push_back(std::stoi(word));
        }
        if (std::ssize(ids) > most)
            refuse(fmt::format("{} ids; at most data.seq_len, {}, are computed at once", ids.size(),
                               most));
        if (!ids.empty()) sequences.push_back(std::move(ids));
    }
    if (sequences.empty())
        throw Error(Exit::usage, option + ": no ids; give a sequence of token ids a line");
    return sequences;
}

void write_logits(UnionModel& model, const std::vector<std::vector<int32_t>>& sequences,
                  const std::filesystem::path& file) {
    FOMOE_CHECK(model.sequences() == 1, "logits are computed for one sequence at a time");
    const int64_t T = model.config().data.seq_len, V = model.config().model.vocab_size;
    std::vector<int32_t> token(T), target(T, -1), position(T), begin;
    std::iota(position.begin(), position.end(), 0);
    if (model.config().data.document_mask) begin.assign(T, 0);

    std::vector<TensorSpec> specs;
    std::vector<TensorPiece> pieces;
    std::vector<std::vector<float>> logits;
    std::vector<std::vector<int64_t>> tokens;
    for (size_t i = 0; i < sequences.size(); ++i) {
        const std::vector<int32_t>& ids = sequences[i];
        const int64_t n = std::ssize(ids);
        std::ranges::fill(token, 0);
        std::ranges::copy(ids, token.begin());
        std::vector<float>& out = logits.emplace_back(n * V);
        model.transformer().logits(
            {.token = token, .target = target, .position = position, .begin = begin}, {0, n}, out);
        tokens.emplace_back(ids.begin(), ids.end());
        specs.push_back({fmt::format("logits.{}", i), DType::f32, Shape(n, V)});
        specs.push_back({fmt::format("tokens.{}", i), DType::i64, Shape(n)});
    }
    if (model.ranks().rank() != 0) return;
    for (size_t i = 0; i < sequences.size(); ++i) {
        pieces.push_back(
            {specs[2 * i].name, 0, view(logits[i].data(), Shape(std::ssize(logits[i])))});
        pieces.push_back(
            {specs[2 * i + 1].name, 0, view(tokens[i].data(), Shape(std::ssize(tokens[i])))});
    }
    std::filesystem::remove(file);
    write_tensors(*make_self_communicator(), file.parent_path(),
                  plan_files(file.stem().string(), specs, INT64_MAX), pieces);
}

}  // namespace fomoe
