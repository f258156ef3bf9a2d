#include "data/tokenize_files.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <set>

#include "base/error.h"
#include "base/file.h"
#include "data/token_file.h"
#include "data/tokenizer_card.h"
#include "data/train_tokenizer.h"
#include "support/temporary_directory.h"

using namespace fomoe;

namespace {

// Every document as text, its end taken off.
std::vector<std::string> documents(const std::string& prefix) {
    const TokenFile file(prefix);
    std::vector<std::string> texts;
    for (int64_t d = 0; d < file.n_documents(); ++d) {
        std::vector<int32_t> tokens(file.document_begin(d + 1) - file.document_begin(d));
        file.read(file.document_begin(d), tokens, 257);
        CHECK(tokens.back() == 256);
        tokens.pop_back();
        texts.emplace_back(tokens.begin(), tokens.end());
    }
    return texts;
}

}  // namespace

TEST_CASE("documents go to train or valid, none to both, none lost") {
    const TemporaryDirectory directory;
    std::set<std::string> all;
    std::string text;
    for (int i = 0; i < 400; ++i) {
        const std::string document = "document " + std::to_string(i) + "\n";
        all.insert(document);
        text += document + "\n";
    }
    atomic_write_file(directory / "a.txt", text.substr(0, text.find("document 100")));
    atomic_write_file(directory / "b.txt", text.substr(text.find("document 100")));
    const TokenizeOptions options{.out = directory / "new/x",
                                  .documents = {{directory / "a.txt", directory / "b.txt"},
                                                parse_split_rule("blank-line"),
                                                0.1},
                                  .threads = 3};
    const TokenizeSummary summary = tokenize_files(options);
    const auto train = documents(options.out + ".train"), valid = documents(options.out + ".valid");
    // Both parts have one card: what is not made anew goes.
    TokenizeOptions all_train = options;
    all_train.out = directory / "new/y";
    tokenize_files(all_train);
    all_train.documents.valid_fraction = 0;
    CHECK_THROWS_AS(tokenize_files(all_train), Error);
    all_train.force = true;
    tokenize_files(all_train);
    CHECK_FALSE(std::filesystem::exists(all_train.out + ".valid.idx"));
    CHECK_FALSE(std::filesystem::exists(all_train.out + ".valid.bin"));
    CHECK(summary.parts[0].documents == static_cast<int64_t>(train.size()));
    CHECK(summary.parts[1].documents == static_cast<int64_t>(valid.size()));
    CHECK(train.size() + valid.size() == all.size());
    CHECK(valid.size() > 15);
    CHECK(valid.size() < 75);
    std::set<std::string> found(train.begin(), train.end());
    found.insert(valid.begin(), valid.end());
    CHECK(found == all);

    CHECK_THROWS_WITH(tokenize_files(options), Catch::Contains("x.train.bin exists; --force"));
    TokenizeOptions again = options;
    again.force = true;
    again.max_bytes = summary.bytes / 2;
    const TokenizeSummary half = tokenize_files(again);
    CHECK(half.bytes <= summary.bytes / 2);
    CHECK(half.bytes > summary.bytes / 2 - 20);
    const auto shorter = documents(options.out + ".train");
    REQUIRE(shorter.size() < train.size());
    CHECK(std::equal(shorter.begin(), shorter.end(), train.begin()));
}

TEST_CASE("nothing is written when a part would be empty") {
    const TemporaryDirectory directory;
    atomic_write_file(directory / "a.txt", "one document");
    TokenizeOptions options{.out = directory / "x", .documents = {{directory / "a.txt"}}};
    CHECK_THROWS_WITH(tokenize_files(options),
                      Catch::Contains("would be empty: the text has 1 document."));
    CHECK_FALSE(std::filesystem::exists(directory / "x.train.bin"));
    options.documents.valid_fraction = 0;
    CHECK(tokenize_files(options).parts.size() == 1);
    CHECK(documents(directory / "x.train") == std::vector<std::string>{"one document"});
    CHECK_FALSE(std::filesystem::exists(directory / "x.valid.idx"));
}

TEST_CASE("token files are made anew with another tokenizer, of the same documents") {
    const TemporaryDirectory directory;
    std::string text;
    for (int i = 0; i < 300; ++i)
        text += "document " + std::to_string(i * i) + "\n  of some lines\n\n";
    atomic_write_file(directory / "a.txt", text);
    TokenizeOptions bytes{
        .out = directory / "bytes/a",
        .documents = {{directory / "a.txt"}, parse_split_rule("blank-line"), 0.1}};
    tokenize_files(bytes);
    const TrainTokenizerOptions training{
        .out = directory / "own.model", .documents = {{directory / "bytes/a"}}, .size = 290};
    const TrainTokenizerSummary trained = train_tokenizer(training);
    // Nothing of what is held out, and no line ends.
    int64_t expected = 0;
    for (const std::string& document : documents(directory / "bytes/a.train"))
        expected += std::ssize(document) - std::ranges::count(document, '\n');
    CHECK(trained.bytes == expected);
    CHECK_THROWS_WITH(train_tokenizer(training), Catch::Contains("own.model exists; --force"));

    TokenizeOptions pieces{.tokenizer = directory / "own.model",
                           .out = directory / "pieces/a",
                           .documents = {{directory / "bytes/a"}}};
    int64_t done = 0;
    pieces.progress = [&](int64_t now, int64_t total) {
        CHECK(now <= total);
        done = now;
    };
    const TokenizeSummary summary = tokenize_files(pieces);
    int64_t all = 0;  // of the ids that were read
    for (const char* part : {".train", ".valid"}) all += TokenFile(bytes.out + part).n_tokens();
    CHECK(done == all);
    REQUIRE(summary.parts.size() == 2);
    // And from the text itself.
    pieces.documents = bytes.documents;
    pieces.out = directory / "straight/a";
    pieces.progress = {};
    pieces.threads = 4;
    tokenize_files(pieces);
    const auto tokenizer = make_tokenizer(directory / "own.model");
    for (const char* part : {".train", ".valid"}) {
        for (const char* kind : {".bin", ".idx"})
            CHECK(read_file(directory / "pieces/a" + part + kind) ==
                  read_file(directory / "straight/a" + part + kind));
        const TokenFile file(directory / "pieces/a" + part);
        const std::vector<std::string> texts = documents(directory / "bytes/a" + part);
        REQUIRE(file.n_documents() == std::ssize(texts));
        for (int64_t d = 0; d < file.n_documents(); ++d) {
            std::vector<int32_t> ids(file.document_begin(d + 1) - file.document_begin(d));
            file.read(file.document_begin(d), ids, tokenizer->size());
            CHECK(ids.back() == tokenizer->end_of_document());
            CHECK(tokenizer->decode(ids) == texts[d]);
        }
    }
    // Back again: the same files as at first.
    bytes.out = directory / "again/a";
    bytes.documents = {{directory / "pieces/a"}};
    tokenize_files(bytes);
    for (const char* kind : {".train.bin", ".valid.bin", ".train.idx", ".valid.idx"})
        CHECK(read_file(directory / "again/a" + kind) == read_file(directory / "bytes/a" + kind));
    // A card whose numbers are none is no card.
    const std::string card = read_file(directory / "again/a.tokenizer.json");
    for (const auto& [key, value] : {std::pair("\"size\": 257", "\"size\": 4294967553"),
                                     {"\"size\": 257", "\"size\": 257.5"},
                                     {"\"end_of_document\": 256", "\"end_of_document\": -1"},
                                     {"\"xxh3\": \"", "\"xxh3\": \"0x"},
                                     {"\"xxh3\": \"", "\"xxh3\": \"-"}}) {
        CAPTURE(value);
        std::string broken = card;
        REQUIRE(broken.find(key) != broken.npos);
        atomic_write_file(directory / "again/a.tokenizer.json",
                          broken.replace(broken.find(key), std::string(key).size(), value));
        CHECK_THROWS_WITH(read_card(directory / "again/a"),
                          Catch::Contains("does not say which tokenizer made the files"));
    }
    // The card knows where the tokenizer lies, from where it lies itself.
    CHECK(read_card(directory / "pieces/a")->path == "../own.model");
    CHECK(tokenizer_of(directory / "pieces/a")->hash() == tokenizer->hash());
    std::filesystem::remove(directory / "own.model");
    CHECK_THROWS_WITH(tokenizer_of(directory / "pieces/a"), Catch::Contains("put it back"));
}

TEST_CASE("a file that exists is text, also beside token files of its name") {
    const TemporaryDirectory directory;
    const std::string name = directory / "a";
    const auto tokenize = [&](const std::string& text) {
        atomic_write_file(name, text);
        // Twice: the second finds the files of the first.
        for (int i = 0; i < 2; ++i) {
            CHECK_FALSE(names_token_files(name));
            const TokenizeSummary summary =
                tokenize_files({.out = name,
                                .documents = {{name}, parse_split_rule("blank-line"), 0.0},
                                .force = true});
            CHECK(summary.bytes == std::ssize(text) - 1);  // without the blank line
        }
    };
    tokenize("one\n\ntwo\n");
    CHECK(documents(name + ".train") == std::vector<std::string>{"one\n", "two\n"});
    tokenize("other\n\ntext\n");
    CHECK(documents(name + ".train") == std::vector<std::string>{"other\n", "text\n"});
    // Without the file, or with a directory of that name, they are what is meant.
    std::filesystem::remove(name);
    CHECK(names_token_files(name));
    std::filesystem::create_directory(name);
    CHECK(names_token_files(name));
    const TokenizeSummary copied =
        tokenize_files({.out = directory / "b", .documents = {.inputs = {name}}});
    CHECK(copied.parts[0].documents == 2);
}
