#include "data/loader.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "base/error.h"
#include "base/timer.h"
#include "data/tokenizer_card.h"

namespace fomoe {
namespace {

// PREFIX.train or PREFIX.valid of every source, in the order of the names.
std::vector<TokenFile> open_sources(const Config& config, const char* part) {
    std::vector<TokenFile> files;
    for (const auto& [name, prefix] : config.data.sources) {
        const std::string path = prefix + "." + part;
        for (const char* kind : {".idx", ".bin"})
            if (!std::filesystem::exists(path + kind))
                throw Error(
                    Exit::data,
                    fmt::format("data.sources.{}: there is no {}{}. Make the example corpus with "
                                "scripts/get_corpus.sh, or token files of your own text with\n"
                                "    fomoe-data tokenize --tokenizer {} --out {} FILES",
                                name, path, kind, config.model.tokenizer, prefix));
        files.emplace_back(path);
        if (read_card(prefix))
            check_card("data.sources." + name, prefix, known_tokenizer(config.model.tokenizer));
    }
    return files;
}

// Fills batches sequence by sequence.
struct Filler {
    const Config& config;
    int vocab_size;
    Batch batch;

    int64_t seq_len() const { return config.data.seq_len; }

    void add(const TokenFile& file, int source, int64_t chunk) {
        const int64_t T = seq_len(), first = chunk * T;
        std::vector<int32_t> tokens(T + 1);
        file.read(first, tokens, vocab_size);
        batch.tokens.insert(batch.tokens.end(), tokens.begin(), tokens.end() - 1);
        batch.targets.insert(batch.targets.end(), tokens.begin() + 1, tokens.end());
        for (int64_t t = 0; t < T; ++t) batch.positions.push_back(static_cast<int32_t>(t));
        batch.sources.push_back(source);
        batch.n_sequences += 1;
        batch.valid_tokens += T;
        if (config.data.document_mask) mask(file, first);
    }

    // A document starts with no memory of the one before it, and its last token has no target.
    void mask(const TokenFile& file, int64_t first) {
        const int64_t T = seq_len();
        int32_t* targets = batch.targets.data() + batch.targets.size() - T;
        int64_t document = file.document_of(first);
        int64_t begin = 0, end = file.document_begin(document + 1) - first;
        for (int64_t t = 0; t < T; ++t) {
            while (t == end) {
                begin = t;
                end = file.document_begin(++document + 1) - first;
            }
            batch.begin.push_back(static_cast<int32_t>(begin));
            if (t + 1 == end) {
                targets[t] = -1;
                batch.valid_tokens -= 1;
            }
        }
    }
};

}  // namespace

Loader::Loader(const Config& config, int group, Range sequences)
    : config_(config),
      group_(group),
      vocab_size_(fomoe::vocab_size(config.model)),
      sequences_(sequences),
      files_(open_sources(config, "train")) {
    sampler_ = std::make_unique<Sampler>(config_, source_tokens());
}

Loader::~Loader() {
    if (ahead_.valid()) ahead_.wait();
}

Batch Loader::get(int64_t step) {
    const bool expected = ahead_.valid() && ahead_step_ == step;
    const Timer timer;
    // The helper thread has to be done before anybody else may use the sampler.
    if (ahead_.valid() && !expected) ahead_.wait();
    Batch batch = expected ? ahead_.get() : read(step);
    batch.wait_seconds = timer.seconds();
    ahead_step_ = step + 1;
    ahead_ = std::async(std::launch::async, [this, step] { return read(step + 1); });
    return batch;
}

std::vector<int64_t> Loader::source_tokens() const {
    std::vector<int64_t> tokens;
    for (const TokenFile& file : files_) tokens.push_back(file.n_tokens());
    return tokens;
}

void Loader::check_tokens(int64_t most) const {
    for (const TokenFile& file : files_) file.check_tokens(vocab_size_, most);
}

Batch Loader::read(int64_t step) {
    const int64_t T = config_.data.seq_len, whole = config_.train.batch;
    Filler filler{config_, vocab_size_, {}};
    for (const Sampler::Draw& draw : sampler_->draw(group_, step, sequences_.begin, sequences_.end))
        filler.add(files_[draw.source], draw.source, draw.chunk);
    filler.batch.group_valid_tokens = whole * T;
    if (config_.data.document_mask)
        for (const Sampler::Draw& draw : sampler_->draw(group_, step, 0, whole))
            filler.batch.group_valid_tokens -=
                files_[draw.source].count_document_ends(draw.chunk * T, (draw.chunk + 1) * T);
    return std::move(filler.batch);
}

ValidLoader::ValidLoader(const Config& config)
    : config_(config),
      vocab_size_(fomoe::vocab_size(config.model)),
      files_(open_sources(config, "valid")) {
    for (const auto& [name, prefix] : config.data.sources) {
        if (n_sequences(static_cast<int>(names_.size())) < 1)
            throw Error(Exit::data,
                        fmt::format("{}.valid.bin: {} tokens are less than one sequence of "
                                    "data.seq_len {} and its next token; make the token files "
                                    "again with a larger --valid-fraction",
                                    prefix, files_[names_.size()].n_tokens(), config.data.seq_len));
        names_.push_back(name);
    }
}

int64_t ValidLoader::n_sequences(int source) const {
    const int64_t chunks = (files_.at(source).n_tokens() - 1) / config_.data.seq_len;
    return std::min<int64_t>(config_.data.valid_sequences, chunks);
}

Batch ValidLoader::get(int source, Range sequences) const {
    FOMOE_CHECK(0 <= sequences.begin && sequences.end <= n_sequences(source), "sequences ",
                sequences.begin, " to ", sequences.end, " of ", n_sequences(source));
    Filler filler{config_, vocab_size_, {}};
    for (int64_t i = sequences.begin; i < sequences.end; ++i)
        filler.add(files_[source], source, first_token(source, i) / config_.data.seq_len);
    filler.batch.group_valid_tokens = filler.batch.valid_tokens;
    return std::move(filler.batch);
}

std::vector<Range> ValidLoader::segments(int source, Range sequences) const {
    const TokenFile& file = files_.at(source);
    const int64_t T = config_.data.seq_len;
    std::vector<Range> found;
    for (int64_t i = sequences.begin; i < sequences.end; ++i) {
        const int64_t first = first_token(source, i), row = (i - sequences.begin) * T;
        int64_t document = file.document_of(first);
        for (int64_t t = 0; t < T; ++document) {
            const int64_t end = std::min(file.document_begin(document + 1) - first, T);
            if (end > t) found.push_back({row + t, row + end});
            t = std::max(t, end);
        }
    }
    return found;
}

int64_t ValidLoader::first_token(int source, int64_t sequence) const {
    const int64_t T = config_.data.seq_len, n_chunks = (files_[source].n_tokens() - 1) / T;
    return sequence * n_chunks / n_sequences(source) * T;
}

void ValidLoader::check_tokens(int64_t most) const {
    for (const TokenFile& file : files_) file.check_tokens(vocab_size_, most);
}

}  // namespace fomoe
