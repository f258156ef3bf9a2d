#include "checkpoint/manifest.h"

#include "base/file.h"
#include "checkpoint/support.h"
#include "checkpoint/verify.h"

using namespace fomoe;
using namespace fomoe::test;
using Catch::Contains;

namespace {

Config two_groups() {
    Config config;
    config.topology.groups.clear();
    for (const char* name : {"west", "east"}) {
        GroupConfig group;
        group.name = name;
        group.ranks = 2;
        config.topology.groups.push_back(group);
    }
    return config;
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
    const size_t at = text.find(from);
    REQUIRE(at != text.npos);
    return text.replace(at, from.size(), to);
}

}  // namespace

TEST_CASE("a manifest says what was written and comes back") {
    const TempDirectory directory;
    Manifest manifest = describe_run(two_groups(), 3);
    CHECK_THAT(manifest.build, Contains("fomoe 0."));
    CHECK(manifest.groups.size() == 2);
    manifest.step = 640;
    manifest.round = 20;
    manifest.tokens = 1 << 20;
    manifest.committed = {608, 640, 632};
    manifest.groups[1].step = 639;
    manifest.bytes = {.sent = {int64_t{1} << 40, 2, 3, 4, 5}, .received = {6, 7, 8, 9, 10}};
    manifest.files = {{"model/model.safetensors", 5'000'000'000, 0xfedcba9876543210}};
    put_bytes(directory / "manifest.json", to_json(manifest));
    CHECK(read_manifest(directory) == manifest);
}

TEST_CASE("a manifest that is damaged or leads elsewhere is refused") {
    const TempDirectory directory;
    Manifest manifest = describe_run(two_groups(), 1);
    manifest.files = {{"model/a", 5, 7}};
    const std::string good = to_json(manifest);
    const auto refused = [&](const std::string& from, const std::string& to) {
        std::string text = replaced(good, from, to);
        text = text.substr(0, text.rfind(",\n  \"hash\"")) + "\n}";
        put_bytes(directory / "manifest.json", with_hash(text));
        return refusal([&] { read_manifest(directory); });
    };
    CHECK(good == with_hash(good.substr(0, good.rfind(",\n  \"hash\"")) + "\n}"));
    // Whatever was changed since it was written, though the fields are all right.
    put_bytes(directory / "manifest.json", replaced(good, "\"round\": 0", "\"round\": 1"));
    CHECK_THAT(refusal([&] { read_manifest(directory); }), Contains("its own hash is another"));
    std::filesystem::remove(directory / "manifest.json");
    CHECK_THAT(refusal([&] { read_manifest(directory); }), Contains("manifest.json"));
    CHECK_THAT(refused("\"format\": 3", "\"format\": 1"), Contains("format 1"));
    CHECK_THAT(refused("\"round\"", "\"rounds\""), Contains("round is missing"));
    CHECK_THAT(refused("\"control\"", "\"kontrol\""), Contains("sent_bytes: control is missing"));
    CHECK_THAT(refused("\"step\": 0", "\"step\": -1"), Contains("step is no whole number"));
    CHECK_THAT(refused("\"bytes\": 5", "\"bytes\": 9223372036854775808"), Contains("bytes"));
    CHECK_THAT(refused("\"ranks\": 2", "\"ranks\": 4000000000"), Contains("ranks"));
    CHECK_THAT(refused("0000000000000007", "7"), Contains("xxh3 is no hash"));
    CHECK_THAT(refused("\"west\"", "3"), Contains("name is no text"));
    CHECK_THAT(refused("}", ""), Contains("manifest.json"));
    for (const char* outside : {"/etc/passwd", "../a", "model/../../a", "", ".", "model/"}) {
        CAPTURE(outside);
        CHECK_THAT(refused("model/a", outside), Contains("leaves the checkpoint"));
    }
}

TEST_CASE("files are compared with their sizes and hashes") {
    const TempDirectory directory;
    put_bytes(directory / "a", "hello");
    Manifest manifest;
    manifest.files = {{"a", 5, hash_bytes("hello", 5)}};
    verify_files(directory, manifest, Verify::hashes);

    put_bytes(directory / "a", "hellO");
    verify_files(directory, manifest, Verify::sizes);
    CHECK_THAT(refusal([&] { verify_files(directory, manifest, Verify::hashes); }),
               Contains("/a is damaged"));
    put_bytes(directory / "a", "hell");
    CHECK_THAT(refusal([&] { verify_files(directory, manifest, Verify::sizes); }),
               Contains("/a is truncated"));
    put_bytes(directory / "a", "hello!");
    CHECK_THAT(refusal([&] { verify_files(directory, manifest, Verify::sizes); }),
               Contains("/a is too long"));
    std::filesystem::remove(directory / "a");
    CHECK_THAT(refusal([&] { verify_files(directory, manifest, Verify::sizes); }), Contains("/a"));
}

TEST_CASE("what keeps a resumed run from the same bits is listed") {
    Config config = two_groups();
    const Manifest saved = describe_run(config, 2);
    CHECK(differences(saved, describe_run(config, 2)).empty());
    config.train.steps *= 2;
    CHECK(differences(saved, describe_run(config, 2)).empty());
    config.topology.groups[1].expert_parallel = 2;
    CHECK(differences(saved, describe_run(config, 4)) ==
          std::vector<std::string>{"threads per rank: 2 then, 4 now",
                                   "topology.groups[1].expert_parallel: 1 then, 2 now"});
    config.topology.groups.pop_back();
    CHECK(differences(saved, describe_run(config, 2)) ==
          std::vector<std::string>{"groups: 2 then, 1 now"});
}
