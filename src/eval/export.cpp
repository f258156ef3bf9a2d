#include "eval/export.h"

#include <fmt/format.h>

#include <bit>
#include <cmath>
#include <cstring>

#include "base/file.h"
#include "checkpoint/model_files.h"

namespace fomoe {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kBatch = int64_t{1} << 26;  // elements that are read at once

uint16_t half_of(float x, const std::string& name) {
    const _Float16 half = static_cast<_Float16>(x);
    if (std::isfinite(x) && !std::isfinite(static_cast<float>(half)))
        throw Error(Exit::data,
                    fmt::format("{}: {} is too large for f16; export in bf16 or f32", name, x));
    return std::bit_cast<uint16_t>(half);
}

// The elements as they stand in the file.
std::vector<char> rounded(const std::vector<float>& values, DType dtype, const std::string& name) {
    std::vector<char> bytes(values.size() * size_of(dtype));
    if (dtype == DType::f32) {
        std::memcpy(bytes.data(), values.data(), bytes.size());
        return bytes;
    }
    uint16_t* to = reinterpret_cast<uint16_t*>(bytes.data());
    for (size_t i = 0; i < values.size(); ++i)
        to[i] = dtype == DType::bf16 ? to_bf16(values[i]).bits : half_of(values[i], name);
    return bytes;
}

}  // namespace

void export_model(const Checkpoint& checkpoint, const Config& config, const fs::path& directory,
                  DType dtype, int64_t max_file_bytes) {
    const auto architecture = architecture_of(config.model);
    if (!architecture) throw Error(Exit::usage, no_architecture_text(config.model));
    std::error_code failed;
    fs::create_directories(directory, failed);
    if (failed)
        throw Error(Exit::data,
                    fmt::format("{}: cannot create: {}", directory.string(), failed.message()));
    if (!fs::is_empty(directory))
        throw Error(Exit::usage, fmt::format("--export {}: it is not empty; name a new directory",
                                             directory.string()));

    const std::vector<Parameter> all =
        all_parameters(config.model, Placement::all_resident(config.model.moe.n_experts));
    std::vector<TensorSpec> specs;
    for (const Parameter& p : all)
        specs.push_back({hugging_face_name(*architecture, p.name), dtype, p.shape});
    const TensorFiles files = plan_files("model", specs, max_file_bytes);
    std::vector<RangeFile> open;
    for (const TensorFiles::File& file : files.files) {
        open.push_back(RangeFile::create((directory / file.name).string(), file.bytes));
        open.back().write(0, file.header.data(), std::ssize(file.header));
    }

    for (size_t first = 0; first < all.size();) {
        size_t last = first;
        int64_t elements = 0;
        TensorSet batch{.directory = kModelDirectory, .tensors = {}, .pieces = {}};
        std::vector<std::vector<float>> values;
        for (; last < all.size() && (last == first || elements + all[last].count() <= kBatch);
             ++last) {
            const Parameter& p = all[last];
            elements += p.count();
            batch.tensors.push_back({p.name, DType::f32, p.shape});
            values.emplace_back(p.count());
            batch.pieces.push_back({p.name, 0, view(values.back().data(), p.shape)});
        }
        checkpoint.read(batch, Checkpoint::Tensors::some);
        for (; first < last; ++first) {
            const std::vector<float>& from = values[values.size() - (last - first)];
            const std::vector<char> bytes = rounded(from, dtype, all[first].name);
            const TensorFiles::Place& to = files.places.at(specs[first].name);
            open[to.file].write(to.offset, bytes.data(), std::ssize(bytes));
        }
    }
    for (const RangeFile& file : open) file.sync();

    const ForeignTokenizer tokenizer = tokenizer_of(checkpoint.directory() / kModelDirectory);
    std::map<std::string, std::string> texts = model_files(*architecture, config, tokenizer, dtype);
    if (files.files.size() > 1) texts["model.safetensors.index.json"] = index_json(files);
    // Last: a directory without it is no model.
    const auto last = texts.extract("config.json");
    for (const auto& [name, text] : texts) atomic_write_file((directory / name).string(), text);
    atomic_write_file((directory / last.key()).string(), last.mapped());
}

}  // namespace fomoe
