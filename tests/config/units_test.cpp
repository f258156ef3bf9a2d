#include "config/units.h"

#include "config/config_files.h"
#include "config/dump.h"

using namespace fomoe;

TEST_CASE("one number and one unit are read, and nothing else") {
    CHECK(read_count("200") == 200);
    CHECK(read_count("10k") == 10'000);
    CHECK(read_count("10K") == 10'000);
    CHECK(read_count("2.3M") == 2'300'000);
    CHECK(read_count("2G") == 2e9);
    CHECK(read_count("2B") == 2e9);
    CHECK(read_count("1T") == 1e12);
    CHECK(read_tokens("5Mt") == 5e6);
    CHECK(read_tokens("2Bt") == 2e9);
    CHECK(read_tokens("4096t") == 4096);
    CHECK(read_seconds("90") == 90);
    CHECK(read_seconds("0.5s") == 0.5);
    CHECK(read_seconds("30min") == 1800);
    CHECK(read_seconds("2h") == 7200);
    CHECK(read_seconds("1.5d") == 129'600);
    CHECK(read_bytes("4096") == 4096);
    CHECK(read_bytes("64MiB") == 67'108'864);
    CHECK(read_bytes("64MB") == 64e6);
    CHECK(read_bytes("1.5KiB") == 1536);
    for (const char* text : {"", "k", "-1k", "+1k", "1 k", "1kk", "1m", "1e3", "0x1", "1k ", "inf",
                             "nan", "1,5k", ".5k", "1t", "1kB", "1e999"}) {
        INFO(text);
        CHECK_FALSE(read_count(text));
    }
    for (const char* text : {"5M", "t", "5tM", "5mt", "-5t", "5 t"}) {
        INFO(text);
        CHECK_FALSE(read_tokens(text));
    }
    for (const char* text : {"1m", "1hour", "1h30min", "min", "-1s"}) {
        INFO(text);
        CHECK_FALSE(read_seconds(text));
    }
    for (const char* text : {"1K", "1kib", "MiB", "1 MiB", "-1B"}) {
        INFO(text);
        CHECK_FALSE(read_bytes(text));
    }
}

TEST_CASE("steps are counted in thousands, or in tokens of one group") {
    const auto steps = [](const std::string& value) {
        return load("data: {seq_len: 100, sources: {a: x}}\ntrain: {batch: 10, micro_batch: 5}\n",
                    {"train.steps=" + value})
            .train.steps;
    };
    CHECK(steps("200") == 200);
    CHECK(steps("10k") == 10'000);
    CHECK(steps("1.5k") == 1500);
    CHECK(steps("5Mt") == 5000);
    CHECK(steps("5000t") == 5);
    CHECK(steps("5001t") == 6);  // no fewer tokens than that
    CHECK(steps("1t") == 1);
    // Whatever the order in which the keys stand; the last value counts.
    CHECK(load("train: {steps: 1Mt}\ndata: {sources: {a: x}}\n",
               {"train.batch=4", "train.micro_batch=4", "data.seq_len=250"})
              .train.steps == 1000);
    CHECK(load(kSources + "train: {steps: 1Mt}\n", {"train.steps=300"}).train.steps == 300);
    CHECK(load(kSources + "train: {steps: 300}\n", {"train.steps=4096t"}).train.steps == 1);
    // An int64 key and an int key, both counts; a key of seconds.
    const Config config = load(kSources, {"train.optimizer.warmup=40960t", "checkpoint.every=1k",
                                          "data.valid_sequences=2k", "calibration.steps=8192t"});
    CHECK(config.train.optimizer.warmup == 10);
    CHECK(config.checkpoint.every == 1000);
    CHECK(config.data.valid_sequences == 2000);
    CHECK(config.calibration.steps == 2);
    const auto timeout = [](const std::string& value) {
        return load(kSources, {"federation.exchange_timeout=" + value}).federation.exchange_timeout;
    };
    CHECK(timeout("30min") == 1800);
    CHECK(timeout("0.25") == 0.25);
}

TEST_CASE("an interval is steps or a time") {
    const auto every = [](const std::string& value) {
        return load(kSources, {"checkpoint.every=" + value, "train.batch=4", "train.micro_batch=4",
                               "data.seq_len=250"})
            .checkpoint.every;
    };
    CHECK(every("500") == 500);
    CHECK(every("5Mt") == 5000);
    CHECK(every("30min") == Interval::time(1800));
    CHECK(every("0.5s") == Interval::time(0.5));
    CHECK(every("1d") == Interval::time(86400));
    CHECK_FALSE(every("0").ever());
    CHECK(every("1").ever());
    CHECK(every("30min").ever());
    for (const char* value : {"30min", "0.25s", "7", "5Mt"}) {
        const Config config = load(kSources, {concat("checkpoint.every=", value)});
        CHECK(load(dump_config(config)) == config);
    }
    for (const std::string value : {"0s", "30m", "-5", "'30min'", "1.5", "1e15d"})
        CHECK(errors(kSources, {"checkpoint.every=" + value}).find("checkpoint.every: ") !=
              std::string::npos);
}

TEST_CASE("the dump of a config with units has plain values") {
    const Config config = load(kSources + "train: {steps: 1Mt, log_every: 1k}\n",
                               {"federation.exchange_timeout=2h", "checkpoint.every=10k"});
    const std::string text = dump_config(config);
    CHECK(text.find("steps: 245\n") != std::string::npos);
    CHECK(text.find("log_every: 1000\n") != std::string::npos);
    CHECK(text.find("exchange_timeout: 7200\n") != std::string::npos);
    CHECK(text.find("every: 10000\n") != std::string::npos);
    CHECK(load(text) == config);
}

TEST_CASE("what is no unit of a key names those that are") {
    const auto set = [](const std::string& setting) { return errors(kSources, {setting}); };
    CHECK(set("train.steps=5m") ==
          one_error("--set: error: train.steps: '5m'; an integer of at least 1 (or 10k, or 5Mt for "
                    "tokens of one group) is expected"));
    CHECK(set("train.steps=1.0001k") ==
          one_error("--set: error: train.steps: '1.0001k'; an integer of at least 1 (or 10k, or "
                    "5Mt for tokens of one group) is expected"));
    CHECK(set("train.steps=0t") ==
          one_error("--set: error: train.steps: 0 steps of 4096 tokens; an integer of at least 1 "
                    "(or 10k, or 5Mt for tokens of one group) is expected"));
    CHECK(set("train.steps='5k'") ==
          one_error("--set: error: train.steps: '5k'; an integer of at least 1 (or 10k, or 5Mt for "
                    "tokens of one group) is expected"));
    CHECK(set("federation.exchange_timeout=10m") ==
          one_error("--set: error: federation.exchange_timeout: '10m'; a number above 0 (seconds, "
                    "or 45s, 30min, 2h, 1d) is expected"));
    CHECK(set("train.log_every=1Mt") == one_error("--set: error: train.log_every: '1Mt'; an "
                                                  "integer of at least 1 (or 10k) is expected"));
    CHECK(set("model.d_model=1k") ==
          one_error("--set: error: model.d_model: '1k'; an integer of at least 1 is expected"));
    CHECK(set("model.d_model=99999999999") ==
          one_error("--set: error: model.d_model: '99999999999'; at most 1048576 is expected"));
    CHECK(set("train.steps=99T") == one_error("--set: error: train.steps: '99T'; at most "
                                              "1000000000000 is expected"));
}

TEST_CASE("where a value comes from is kept with its unit") {
    Files files;
    const std::string path = files.add("a.yaml", kSources + "train: {steps: 1Mt, batch: 8}\n");
    const LoadedConfig loaded = load_with_origins({path}, {"train.log_every=3"});
    CHECK(loaded.origins.at("train.steps") == path + ":2:16 (1Mt)");
    CHECK(loaded.origins.at("train.batch") == path + ":2:28");
    CHECK(loaded.origins.at("train.log_every") == "--set");
    CHECK_FALSE(loaded.origins.contains("train.micro_batch"));
}
