// A tokenizer on its way: trained, through token files and a run, into the checkpoint.
#include <cmath>

#include "data/token_file.h"
#include "support/tiny_run.h"

using namespace fomoe;
using Catch::Contains;

namespace {

// Token files one and two of the SentencePiece model own.model, and the settings of a run on them.
Command pieces(const Workplace& place) {
    const std::string data = program("fomoe-data");
    const Outcome trained = place.run(
        {data, "train-tokenizer", "--out", "own/own.model", "--size", "300", "one", "two.txt"});
    INFO(trained.err);
    REQUIRE(trained.exit == 0);
    CHECK_THAT(trained.out, Contains("own/own.model: sentencepiece of 300 ids, xxh3 "));
    for (const std::string name : {"one", "two"})
        REQUIRE(place
                    .run({data, "tokenize", "--tokenizer", "own/own.model", "--out",
                          "pieces/" + name, name})
                    .exit == 0);
    return {"--set", "model.tokenizer=own/own.model", "--set", "data.sources.one=pieces/one",
            "--set", "data.sources.two=pieces/two"};
}

Command with(Command words, const Command& more) {
    words.insert(words.end(), more.begin(), more.end());
    return words;
}

}  // namespace

TEST_CASE("a run keeps its tokenizer, and refuses another") {
    const Workplace place;
    const Command own = pieces(place);
    const auto run = [&](const Command& more) {
        return place.run(place.train(kSolo, with(own, more)));
    };
    Outcome first = run({"--set", "train.steps=2", "--profile"});
    INFO(first.err);
    REQUIRE(first.exit == 0);
    CHECK_THAT(first.out, Contains("wait for data: ") && Contains(" % of its time\n"));
    CHECK_THAT(first.err,
               Contains("epochs in 2 steps: one 0.") && !Contains("read more than once"));
    const Json start = place.metrics("tiny", "solo", "start").at(0);
    CHECK(start["epochs"]["one"] > 0.0);
    const Json step = place.metrics("tiny", "solo", "step").at(0);
    CHECK(step["data_wait_seconds"] > 0.0);

    const fs::path model = place.checkpoint("tiny", 2) / "model";
    CHECK(read_text(model / "tokenizer.model") == read_text(place.path("own/own.model")));
    CHECK(Json::parse(read_text(model / "tokenizer_config.json"))["add_prefix_space"] == false);

    // The token files of other ids, and a checkpoint with another tokenizer.
    const Outcome other = run({"--set", "data.sources.two=two"});
    CHECK(other.exit == 3);
    CHECK_THAT(other.err, Contains("data.sources.two: ") && Contains("tokenizer bytes of 257 ids"));
    const Outcome resumed =
        place.run(place.train(kSolo, {"--resume", "runs/tiny", "--set", "name=other"}));
    CHECK(resumed.exit == 3);
    CHECK_THAT(resumed.err, Contains("the checkpoint's tokenizer is sentencepiece of 300 ids") &&
                                Contains("model.tokenizer is bytes of 257 ids"));

    // Elsewhere it is the same tokenizer; and the checkpoint has its own.
    fs::rename(place.path("own"), place.path("moved"));
    CHECK(run({"--set", "train.steps=3"}).exit == 2);
    const Outcome again =
        run({"--set", "train.steps=300", "--set", "train.log_every=1000", "--max-time", "1s",
             "--set", "checkpoint.margin=0.5", "--set", "model.tokenizer=moved/own.model"});
    INFO(again.err);
    CHECK((again.exit == 75 || again.exit == 0));
    CHECK(count(again.err, "model.tokenizer") == 0);
    CHECK_THAT(again.err, Contains("read more than once in 300 steps: one "));
    fs::remove_all(place.path("moved"));
    const Outcome evaluated = place.run({program("fomoe-eval"), "runs/tiny", "--json"});
    INFO(evaluated.err);
    REQUIRE(evaluated.exit == 0);
    const Json one = Json::parse(evaluated.out)["union"]["domains"]["one"];
    // A token stands for more than a byte: fewer bits a byte than a token.
    CHECK(one["bits_per_byte"] < 0.95 * one["loss"].get<double>() / std::log(2.0));
}

TEST_CASE("bits per byte of ids that no tokenizer here knows are not made up") {
    const Workplace place;
    // As of a Hugging Face tokenizer: no card, and most ids above those of bytes.
    for (const std::string part : {"one.train", "one.valid", "two.train", "two.valid"}) {
        TokenFileWriter writer(place.path(part), TokenType::u16);
        for (int document = 0; document < 40; ++document) {
            std::vector<int32_t> ids(40);
            for (int i = 0; i < 40; ++i)
                ids[i] = static_cast<int32_t>(random_bits(document, i) % 600);
            writer.add_document(ids);
        }
        writer.commit();
    }
    for (const char* name : {"one", "two"})
        fs::remove(place.path(name + std::string(".tokenizer.json")));
    const Outcome run = place.trained(
        place.train(kSolo, {"--set", "model.vocab_size=640", "--set", "train.steps=2", "--set",
                            "federation.evaluate_every=1", "--set", "federation.local_steps=1"}));
    CAPTURE(run.err);
    CHECK(count(run.err, "eval after round 1 | union ") == 1);
    CHECK(count(run.err, " nats/token") == 2);
    for (const Json& line : place.metrics("tiny", "solo", "eval")) {
        CHECK(line["union"]["pooled"]["bits_per_byte"].is_null());
        CHECK(line["union"]["pooled"]["loss"] > 0.0);
    }

    const Command eval{program("fomoe-eval"), "runs/tiny"};
    const Outcome table = place.run(eval);
    REQUIRE(table.exit == 0);
    CAPTURE(table.out);
    CHECK_THAT(table.out, !Contains("inf") && !Contains("nan") && !Contains("gap of"));
    CHECK(count(table.out, "\nunion ") == 3);
    CHECK(count(table.out, "\n- bits/byte: ") == 1);
    const Outcome json = place.run(with(eval, {"--json"}));
    REQUIRE(json.exit == 0);
    for (const auto& [domain, score] : Json::parse(json.out)["union"]["domains"].items()) {
        CHECK(score["loss"] > 0.0);
        CHECK(score["perplexity"] > 0.0);
        CHECK(score["bits_per_byte"].is_null());
        CHECK(score["bits_per_byte_stderr"].is_null());
    }
}

TEST_CASE("a run that was killed before its first checkpoint starts again, its tokenizer moved") {
    const Workplace place;
    const Command own = pieces(place);
    const auto run = [&](const Command& more) {
        return place.run(place.train(kSolo, with(with(own, {"--set", "train.steps=2"}), more)));
    };
    const Outcome first = run({});
    INFO(first.err);
    REQUIRE(first.exit == 0);
    const std::string whole = read_text(place.checkpoint("tiny", 2) / "model/model.safetensors");
    fs::remove_all(place.run_directory("tiny") / "checkpoints");
    fs::rename(place.path("own"), place.path("moved"));

    // Another run is refused still, by its keys.
    const Outcome other = run({"--set", "model.tokenizer=moved/own.model", "--set", "seed=4",
                               "--set", "train.optimizer.lr=0.1"});
    CHECK(other.exit == 2);
    CHECK_THAT(other.err,
               Contains("runs/tiny holds a run of another config (runs/tiny/config.yaml):\n") &&
                   Contains("\n  seed: 3 then, 4 now\n") &&
                   Contains("\n  train.optimizer.lr: 0.003 then, 0.1 now\n") &&
                   Contains("set name=..., or move that directory away; it has no checkpoint, so "
                            "that it can also be removed"));
    const Outcome bytes = place.run(place.train(kSolo, {"--set", "train.steps=2"}));
    CHECK(bytes.exit == 2);
    CHECK_THAT(bytes.err,
               Contains("\n  model.tokenizer: ") && Contains("own/own.model then, bytes now"));
    // Where the old one still lies it is compared.
    REQUIRE(place
                .run({program("fomoe-data"), "train-tokenizer", "--out", "own/own.model", "--size",
                      "290", "one.txt", "two.txt"})
                .exit == 0);
    const Outcome unlike = run({"--set", "model.tokenizer=moved/own.model"});
    CHECK(unlike.exit == 2);
    CHECK_THAT(unlike.err, Contains("moved/own.model now"));
    fs::remove_all(place.path("own"));

    const Outcome again = run({"--set", "model.tokenizer=moved/own.model"});
    INFO(again.err);
    CHECK(again.exit == 0);
    CHECK(count(again.err, "resumed from") == 0);
    CHECK(read_text(place.checkpoint("tiny", 2) / "model/model.safetensors") == whole);
    // With a checkpoint the advice keeps what it has.
    const Outcome late = run({"--set", "model.tokenizer=moved/own.model", "--set", "seed=4"});
    CHECK(late.exit == 2);
    CHECK_THAT(late.err, Contains("move that directory away\n") && !Contains("removed"));
}

TEST_CASE("texts are encoded, decoded and shown") {
    const Workplace place;
    pieces(place);
    const std::string data = program("fomoe-data");
    for (const std::string tokenizer : {"bytes", "own/own.model"}) {
        const Outcome ids = place.run({data, "encode", "--tokenizer", tokenizer, "one.txt"});
        CHECK(ids.exit == 0);
        CHECK(count(ids.out, "\n") == 1);
        write_text(place.path("ids"), ids.out);
        const Outcome text = place.run({data, "decode", "--tokenizer", tokenizer, "ids"});
        CHECK(text.exit == 0);
        CHECK(text.out == read_text(place.path("one.txt")));
    }
    write_text(place.path("ids"), "3 300");
    const Outcome wrong = place.run({data, "decode", "--tokenizer", "own/own.model", "ids"});
    CHECK(wrong.exit == 3);
    CHECK_THAT(wrong.err, Contains("'300' is no id of own/own.model: 0 to 299"));
    const Outcome cut = place.run({data, "tokenize", "--out", "new", "--max-bytes", "9", "one"});
    CHECK(cut.exit == 2);
    CHECK_THAT(cut.err, Contains("--max-bytes: token files have their documents"));

    for (const char* share : {"nan", "-0.1", "1", "0.5x", ""}) {
        const Outcome refused =
            place.run({data, "tokenize", "--out", "new", "--valid-fraction", share, "one.txt"});
        CHECK(refused.exit == 2);
        CHECK_THAT(refused.err, Contains("not in range 0 to 0.99"));
    }

    const Outcome shown = place.run({data, "inspect", "pieces/one", "--documents", "2", "--json"});
    REQUIRE(shown.exit == 0);
    const Json parts = Json::parse(shown.out);
    REQUIRE(parts.size() == 2);
    CHECK(parts[0]["tokenizer"]["kind"] == "sentencepiece");
    CHECK(parts[0]["documents"].get<int>() > parts[1]["documents"].get<int>());
    CHECK(parts[0]["document_tokens"]["0"] <= parts[0]["document_tokens"]["50"]);
    REQUIRE(parts[0]["texts"].size() == 2);
    CHECK_THAT(read_text(place.path("one.txt")),
               Contains(parts[0]["texts"][1]["text"].get<std::string>()));
    const Outcome lines = place.run({data, "inspect", "one.train.idx"});
    CHECK_THAT(lines.out, Contains("  tokenizer: bytes of 257 ids, xxh3 "));
    fs::remove(place.path("pieces/one.tokenizer.json"));
    CHECK_THAT(place.run({data, "inspect", "pieces/one.train"}).out,
               Contains("tokenizer: unknown") || Contains("as it seems"));
}
