#include "data/tokenize_files.h"

#include <catch2/catch.hpp>
#include <set>

#include "base/error.h"
#include "base/file.h"
#include "data/token_file.h"
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
                                  .files = {directory / "a.txt", directory / "b.txt"},
                                  .split = parse_split_rule("blank-line"),
                                  .valid_fraction = 0.1};
    const TokenizeSummary summary = tokenize_files(options);
    const auto train = documents(options.out + ".train"), valid = documents(options.out + ".valid");
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
    TokenizeOptions options{.out = directory / "x", .files = {directory / "a.txt"}};
    CHECK_THROWS_WITH(tokenize_files(options),
                      Catch::Contains("would be empty: the text has 1 document."));
    CHECK_FALSE(std::filesystem::exists(directory / "x.train.bin"));
    options.valid_fraction = 0;
    CHECK(tokenize_files(options).parts.size() == 1);
    CHECK(documents(directory / "x.train") == std::vector<std::string>{"one document"});
    CHECK_FALSE(std::filesystem::exists(directory / "x.valid.idx"));
}
