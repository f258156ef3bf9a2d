#include "data/loader.h"

#include <algorithm>
#include <catch2/catch.hpp>

#include "base/error.h"
#include "data/tokenizer_card.h"
#include "support/temporary_directory.h"

using namespace fomoe;

namespace {

// Source "a" has documents of 1 to 9 tokens, "b" one long document; ids count up, so that a token
// tells where it stands.
class Corpus {
public:
    Corpus() {
        for (const char* part : {"train", "valid"}) {
            write(std::string("a.") + part, 9);
            write(std::string("b.") + part, 1000);
        }
        config.data.sources = {{"a", directory_ / "a"}, {"b", directory_ / "b"}};
        config.data.seq_len = 8;
        config.data.valid_sequences = 5;
        config.model.vocab_size = 1024;
        config.train.batch = 12;
        config.topology.groups = {{.name = "x"}, {.name = "y", .data = {{"a", 1}}}};
    }
    Config config;

private:
    TemporaryDirectory directory_;

    void write(const std::string& name, int longest) {
        TokenFileWriter writer(directory_ / name, TokenType::u16);
        int32_t id = 0;
        for (int length = 1; id + length <= 1000; length = length % longest + 1) {
            const int n = longest > 100 ? 1000 : length;
            std::vector<int32_t> document(n);
            for (int32_t& token : document) token = id++;
            writer.add_document(document);
        }
        writer.commit();
    }
};

bool same(const Batch& a, const Batch& b) {
    return a.tokens == b.tokens && a.targets == b.targets && a.positions == b.positions &&
           a.begin == b.begin && a.sources == b.sources && a.valid_tokens == b.valid_tokens &&
           a.group_valid_tokens == b.group_valid_tokens && a.n_sequences == b.n_sequences;
}

}  // namespace

TEST_CASE("a batch holds sequences and their next tokens") {
    const Corpus corpus;
    Loader loader(corpus.config, 0, {0, 12});
    for (int64_t step = 0; step < 5; ++step) {
        const Batch batch = loader.get(step);
        REQUIRE(batch.n_sequences == 12);
        REQUIRE(batch.tokens.size() == 96);
        CHECK(batch.begin.empty());
        CHECK(batch.valid_tokens == 96);
        CHECK(batch.group_valid_tokens == 96);
        for (int i = 0; i < 96; ++i) {
            CHECK(batch.positions[i] == i % 8);
            CHECK(batch.targets[i] == batch.tokens[i] + 1);
            if (i % 8 == 0) CHECK(batch.tokens[i] % 8 == 0);
            if (i % 8 != 0) CHECK(batch.tokens[i] == batch.tokens[i - 1] + 1);
        }
    }
}

TEST_CASE("ranks take slices of the group's batch, in any order of steps") {
    Corpus corpus;
    corpus.config.data.document_mask = GENERATE(false, true);
    for (int group : {0, 1}) {
        Loader whole(corpus.config, group, {0, 12}), first(corpus.config, group, {0, 4}),
            second(corpus.config, group, {4, 12});
        for (int64_t step : {0, 1, 2, 7, 3, 3, 0}) {
            const Batch all = whole.get(step), a = first.get(step), b = second.get(step);
            std::vector<int32_t> tokens = a.tokens;
            tokens.insert(tokens.end(), b.tokens.begin(), b.tokens.end());
            CHECK(tokens == all.tokens);
            CHECK(a.valid_tokens + b.valid_tokens == all.valid_tokens);
            CHECK(all.group_valid_tokens == all.valid_tokens);
            CHECK(a.group_valid_tokens == all.valid_tokens);
            CHECK(same(Loader(corpus.config, group, {0, 12}).get(step), all));
        }
    }
}

TEST_CASE("document_mask keeps documents apart") {
    Corpus corpus;
    corpus.config.data.document_mask = true;
    const TokenFile file(corpus.config.data.sources.at("a") + ".train");
    Loader loader(corpus.config, 1, {0, 12});
    for (int64_t step = 0; step < 5; ++step) {
        const Batch batch = loader.get(step);
        int64_t valid = 0;
        for (int i = 0; i < 96; ++i) {
            const int32_t token = batch.tokens[i];  // also its position in the file
            const int64_t document = file.document_of(token);
            const int32_t first = token - i % 8;
            CHECK(batch.begin[i] == std::max<int64_t>(0, file.document_begin(document) - first));
            const bool last = file.document_begin(document + 1) == token + 1;
            CHECK(batch.targets[i] == (last ? -1 : token + 1));
            valid += !last;
        }
        CHECK(batch.valid_tokens == valid);
    }
}

TEST_CASE("held-out sequences are spread over the file, in order") {
    Corpus corpus;
    const ValidLoader loader(corpus.config);
    REQUIRE(loader.n_sources() == 2);
    CHECK(loader.name(1) == "b");
    REQUIRE(loader.n_sequences(1) == 5);
    const Batch batch = loader.get(1, {0, 5});
    // 124 chunks: 0, 24, 49, 74, 99.
    for (int i = 0; i < 5; ++i) CHECK(batch.tokens[i * 8] == i * 124 / 5 * 8);
    CHECK(batch.valid_tokens == 40);
    const Batch part = loader.get(1, {2, 4});
    CHECK(std::equal(part.tokens.begin(), part.tokens.end(), batch.tokens.begin() + 16));
    corpus.config.data.valid_sequences = 100000;
    CHECK(ValidLoader(corpus.config).n_sequences(1) == 124);
    corpus.config.data.seq_len = 1000;
    CHECK_THROWS_WITH(ValidLoader(corpus.config), Catch::Contains("--valid-fraction"));
}

TEST_CASE("segments are the runs of one document inside a sequence") {
    Corpus corpus;
    corpus.config.data.valid_sequences = 1000;
    const ValidLoader loader(corpus.config);
    // Documents of 1, 2, 3, 4, 5, 6, ... tokens: the fourth and the sixth go over a sequence's end.
    using Ranges = std::vector<Range>;
    CHECK(loader.segments(0, {0, 3}) ==
          Ranges{{0, 1}, {1, 3}, {3, 6}, {6, 8}, {8, 10}, {10, 15}, {15, 16}, {16, 21}, {21, 24}});
    CHECK(loader.segments(0, {1, 2}) == Ranges{{0, 2}, {2, 7}, {7, 8}});
    CHECK(loader.segments(1, {0, 2}) == Ranges{{0, 8}, {8, 16}});
    CHECK(loader.segments(1, {3, 3}).empty());

    // Chosen sequences: their runs begin where documents do, and cover every token.
    corpus.config.data.valid_sequences = 7;
    const ValidLoader chosen(corpus.config);
    const TokenFile file(corpus.config.data.sources.at("a") + ".valid");
    const Batch batch = chosen.get(0, {0, 7});
    int64_t end = 0;
    for (Range segment : chosen.segments(0, {0, 7})) {
        CHECK(segment.begin == end);
        end = segment.end;
        const int64_t document = file.document_of(batch.tokens[segment.begin]);
        for (int64_t i = segment.begin; i < segment.end; ++i)
            CHECK(file.document_of(batch.tokens[i]) == document);
        if (segment.begin % 8 != 0)
            CHECK(file.document_begin(document) == batch.tokens[segment.begin]);
    }
    CHECK(end == 7 * 8);
}

TEST_CASE("a missing corpus says which key and what to do") {
    Corpus corpus;
    corpus.config.data.sources["c"] = "/no/such/c";
    const auto message = [](const auto& make) {
        try {
            make();
        } catch (const Error& error) {
            CHECK(error.exit == Exit::data);
            return std::string(error.what());
        }
        return std::string("no error");
    };
    const std::string text = message([&] { Loader(corpus.config, 0, {0, 1}); });
    CHECK_THAT(text, Catch::StartsWith("data.sources.c: there is no /no/such/c.train.idx") &&
                         Catch::Contains("scripts/get_corpus.sh") &&
                         Catch::Contains("fomoe-data tokenize --tokenizer bytes --out /no/such/c"));
    CHECK_THAT(message([&] { ValidLoader{corpus.config}; }), Catch::Contains("c.valid.idx"));
}

TEST_CASE("ids outside of the vocabulary stop the loading") {
    Corpus corpus;
    corpus.config.model.vocab_size = 999;
    CHECK_THROWS_WITH(Loader(corpus.config, 0, {0, 1}).check_tokens(INT64_MAX),
                      Catch::Contains("token 999 has id 999"));
    CHECK_THROWS_WITH(ValidLoader(corpus.config).check_tokens(INT64_MAX),
                      Catch::Contains("id 999"));
    corpus.config.model.vocab_size = 300;
    Loader loader(corpus.config, 1, {0, 12});
    const auto many_steps = [&] {
        for (int64_t step = 0; step < 20; ++step) loader.get(step);
    };
    CHECK_THROWS_AS(many_steps(), Error);
}

TEST_CASE("sources of another tokenizer than the model's are refused") {
    Corpus corpus;
    const std::string prefix = corpus.config.data.sources.at("b");
    corpus.config.model.tokenizer = "bytes";
    const auto bytes = make_tokenizer("bytes");
    write_card(prefix, *bytes, "bytes");
    CHECK_NOTHROW(Loader(corpus.config, 0, {0, 12}));
    CHECK_NOTHROW(ValidLoader(corpus.config));
    std::string card = read_file(prefix + ".tokenizer.json");
    const size_t hash = card.find("xxh3") + 8;
    card[hash] = card[hash] == '0' ? '1' : '0';
    atomic_write_file(prefix + ".tokenizer.json", card);
    const auto refused =
        Catch::Contains("data.sources.b: " + prefix + " was made with the tokenizer bytes of 257");
    CHECK_THROWS_WITH(Loader(corpus.config, 0, {0, 12}), refused);
    CHECK_THROWS_WITH(ValidLoader(corpus.config), refused);
    atomic_write_file(prefix + ".tokenizer.json", "{}");
    CHECK_THROWS_WITH(ValidLoader(corpus.config), Catch::Contains("does not say which tokenizer"));
}
