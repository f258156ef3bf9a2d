// Checkpoints that are damaged in every way: each is refused by the name of the file, and what
// looks whole to the manifest is read without a crash or refused, too.
#include <functional>

#include "base/file.h"
#include "base/random.h"
#include "checkpoint/load.h"
#include "checkpoint/small_run.h"
#include "checkpoint/support.h"

using namespace fomoe;
using namespace fomoe::test;
using Catch::Contains;
namespace fs = std::filesystem;

namespace {

constexpr int kTrials = 240;

class Draws {
public:
    explicit Draws(uint64_t trial) : key_(random_key(trial, "damage")) {}
    size_t below(size_t n) { return random_bits(key_, draws_++) % n; }

private:
    uint64_t key_, draws_ = 0;
};

std::vector<fs::path> files_of(const fs::path& directory) {
    std::vector<fs::path> files;
    for (const auto& entry : fs::recursive_directory_iterator(directory))
        if (entry.is_regular_file()) files.push_back(entry.path());
    std::ranges::sort(files);
    return files;
}

// What a copy that went wrong, a disk or a stranger may do to a file.
void damage(const fs::path& file, const std::vector<fs::path>& all, Draws& draw) {
    std::string bytes = bytes_of(file);
    const std::string before = bytes;
    switch (draw.below(7)) {
        case 0:
            fs::remove(file);
            return;
        case 1:
            bytes.resize(draw.below(bytes.size()));
            break;
        case 2:
            bytes.append(1 + draw.below(100), '\0');
            break;
        case 3:  // a hole in a page
            std::fill_n(bytes.begin() + draw.below(bytes.size() / 2), bytes.size() / 2, '\0');
            break;
        case 4:  // of another place or run
            bytes = bytes_of(all[draw.below(all.size())]);
            break;
        default:
            break;
    }
    if (bytes == before) bytes[draw.below(bytes.size())] ^= static_cast<char>(1 << draw.below(8));
    put_bytes(file, bytes);
}

// Reads all that there is, without a look at hashes.
void read_all(const fs::path& directory, const Config& config) {
    const Checkpoint checkpoint(directory);
    checkpoint.config();
    for (int rank = 0; rank < config.topology.n_ranks(); ++rank) {
        SmallRank self(config, rank);
        load_union(checkpoint, self.layout, self.tensor());
        int64_t step = 0;
        TensorSet set{group_directory(self.world.own().name),
                      group_tensors(self.all, self.world.group, "weight/"),
                      pieces_of(self.layout, "weight/", 0, self.tensor())};
        set.tensors.push_back({"step", DType::i64, Shape(1)});
        set.pieces.push_back({"step", 0, view(&step, Shape(1))});
        checkpoint.read(set);
    }
}

// Whether it could be read; anything but an Error(data) ends the test.
bool can_read(const fs::path& directory, const Config& config) {
    try {
        read_all(directory, config);
        return true;
    } catch (const Error& error) {
        CHECK(error.exit == Exit::data);
        CHECK_THAT(error.what(), Contains(directory.string()));
        return false;
    }
}

}  // namespace

TEST_CASE("every damage to a file is found, and named") {
    const TempDirectory home;
    const Config config = small_config(1);
    const fs::path good = save_small(home / "good", 3, config, {.max_file_bytes = 1000});
    const std::vector<fs::path> files = files_of(good);
    CHECK(files.size() > 10);
    CHECK(damages(good).empty());
    CHECK(can_read(good, config));
    int readable = 0;
    for (int trial = 0; trial < kTrials; ++trial) {
        INFO("trial " << trial);
        Draws draw(trial);
        const fs::path copy = home / "copy";
        fs::remove_all(copy);
        fs::copy(good, copy, fs::copy_options::recursive);
        const fs::path name = files[draw.below(files.size())].lexically_relative(good);
        damage(copy / name, files, draw);
        const std::vector<std::string> found = damages(copy);
        REQUIRE(found.size() == 1);
        CHECK_THAT(found[0], Contains((copy / name).string()));
        // Whichever of two ranks has the file, both hear of it.
        std::vector<std::string> heard(2);
        run_ranks(2, [&](Communicator& job) { heard[job.rank()] = damage_found(job, copy); });
        CHECK(heard == std::vector<std::string>(2, found[0]));
        readable += can_read(copy, config);
    }
    CHECK(readable > 0);  // what only hashes show
    CHECK(readable < kTrials / 2);
}

TEST_CASE("no header leads a reader out of its file, whatever the hashes say") {
    const TempDirectory home;
    const Config config = small_config(1);
    const fs::path good = save_small(home / "good", 3, config), copy = home / "copy";
    const Manifest manifest = read_manifest(good);
    int refused = 0;
    for (int trial = 0; trial < kTrials; ++trial) {
        INFO("trial " << trial);
        Draws draw(trial);
        fs::remove_all(copy);
        fs::copy(good, copy, fs::copy_options::recursive);
        Manifest changed = manifest;
        FileRecord& record = changed.files[draw.below(changed.files.size())];
        std::string bytes = bytes_of(copy / record.path);
        // In the header, at the start: its length, names, shapes and offsets.
        const size_t end = std::min<size_t>(bytes.size(), 2000);
        for (size_t n = 1 + draw.below(3); n > 0; --n) {
            char& byte = bytes[draw.below(end)];
            byte = draw.below(2) ? static_cast<char>('0' + draw.below(10))
                                 : static_cast<char>(draw.below(256));
        }
        put_bytes(copy / record.path, bytes);
        record.xxh3 = hash_bytes(bytes.data(), bytes.size());
        put_bytes(copy / Manifest::kFile, to_json(changed));
        refused += !can_read(copy, config);
        for (const std::string& found : damages(copy))
            CHECK_THAT(found, Contains((copy / record.path).string()));
    }
    CHECK(refused > kTrials / 4);
}
