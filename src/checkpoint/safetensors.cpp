#include "checkpoint/safetensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

static_assert(std::endian::native == std::endian::little, "safetensors are little-endian");

namespace fomoe {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

constexpr int64_t kMaxHeader = 100'000'000;  // the limit of the reference implementation
constexpr int64_t kAlign = 8;
constexpr int64_t kPart = 1 << 20;  // elements that are widened at once

const char* format_name(DType dtype) {
    constexpr const char* names[] = {"F32", "F64", "I32", "I64", "BF16", "F16"};
    return names[static_cast<int>(dtype)];
}

// Bytes of an element of any type of the format, 0 for an unknown one.
int64_t format_size(const std::string& dtype) {
    static const std::map<std::string, int64_t> sizes{
        {"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E4M3", 1}, {"F8_E5M2", 1},
        {"I16", 2},  {"U16", 2}, {"F16", 2}, {"BF16", 2},    {"I32", 4},
        {"U32", 4},  {"F32", 4}, {"I64", 8}, {"U64", 8},     {"F64", 8}};
    const auto found = sizes.find(dtype);
    return found == sizes.end() ? 0 : found->second;
}

std::vector<int64_t> dims_of(const Shape& shape) {
    return {shape.dims.begin(), shape.dims.begin() + shape.rank};
}

std::string text_of(const std::vector<int64_t>& dims) {
    std::string text;
    for (const int64_t n : dims) text += (text.empty() ? "" : ", ") + std::to_string(n);
    return "(" + text + ")";
}

std::string header_of(const ordered_json& entries) {
    std::string text = entries.dump();
    text.resize((text.size() + kAlign - 1) / kAlign * kAlign, ' ');
    const uint64_t length = text.size();
    return std::string(reinterpret_cast<const char*>(&length), sizeof length) + text;
}

// The pieces of all ranks together must have as many elements as each tensor.
void check_complete(Communicator& comm, const TensorFiles& files,
                    const std::vector<TensorPiece>& pieces) {
    std::map<std::string, int64_t> mine;
    for (const TensorPiece& piece : pieces) mine[piece.tensor] += piece.data.count();
    std::vector<int64_t> counts;
    for (const auto& [name, place] : files.places) counts.push_back(mine[name]);
    if (counts.empty()) return;
    comm.all_reduce_sum(view(counts.data(), Shape(counts.size())));
    auto count = counts.begin();
    for (const auto& [name, place] : files.places) {
        FOMOE_CHECK(*count == place.spec.shape.count(), "the ranks write ", *count, " elements of ",
                    name, ' ', place.spec.shape);
        ++count;
    }
}

}  // namespace

TensorFiles plan_files(const std::string& stem, const std::vector<TensorSpec>& tensors,
                       int64_t max_bytes) {
    // Wide types first, so that every tensor is aligned to its own type.
    std::vector<TensorSpec> sorted = tensors;
    std::ranges::stable_sort(sorted, [](const TensorSpec& a, const TensorSpec& b) {
        return size_of(a.dtype) > size_of(b.dtype);
    });

    TensorFiles plan;
    std::vector<ordered_json> headers(1);
    std::vector<int64_t> bytes(1, 0);
    for (const TensorSpec& spec : sorted) {
        FOMOE_CHECK(spec.shape.rank > 0, "tensor ", spec.name, " has no shape");
        const int64_t size = spec.shape.count() * size_of(spec.dtype);
        if (size > 0 && bytes.back() > 0 && bytes.back() + size > max_bytes) {
            headers.emplace_back();
            bytes.push_back(0);
        }
        const int file = static_cast<int>(headers.size()) - 1;
        const bool is_new = plan.places.insert({spec.name, {spec, file, bytes.back()}}).second;
        FOMOE_CHECK(is_new, "tensor ", spec.name, " is listed twice");
        headers.back()[spec.name] = {{"dtype", format_name(spec.dtype)},
                                     {"shape", dims_of(spec.shape)},
                                     {"data_offsets", {bytes.back(), bytes.back() + size}}};
        bytes.back() += size;
    }

    const size_t n = headers.size();
    for (size_t i = 0; i < n; ++i) {
        headers[i]["__metadata__"] = {{"format", "pt"}};
        TensorFiles::File file;
        file.name = n == 1 ? stem + ".safetensors"
                           : fmt::format("{}-{:05}-of-{:05}.safetensors", stem, i + 1, n);
        file.header = header_of(headers[i]);
        file.bytes = static_cast<int64_t>(file.header.size()) + bytes[i];
        plan.files.push_back(std::move(file));
    }
    for (auto& [name, place] : plan.places) {
        place.offset += static_cast<int64_t>(plan.files[place.file].header.size());
    }
    return plan;
}

std::string index_json(const TensorFiles& files) {
    json index;
    int64_t total = 0;
    index["weight_map"] = json::object();
    for (const auto& [name, place] : files.places) {
        index["weight_map"][name] = files.files[place.file].name;
        total += place.spec.shape.count() * size_of(place.spec.dtype);
    }
    index["metadata"]["total_size"] = total;
    return index.dump(2) + "\n";
}

void write_tensors(Communicator& comm, const std::filesystem::path& directory,
                   const TensorFiles& files, const std::vector<TensorPiece>& pieces) {
    check_complete(comm, files, pieces);
    if (comm.rank() == 0) {
        for (const TensorFiles::File& file : files.files) {
            const RangeFile made = RangeFile::create((directory / file.name).string(), file.bytes);
            made.write(0, file.header.data(), static_cast<int64_t>(file.header.size()));
            made.sync();
        }
    }
    comm.barrier();

    std::vector<std::optional<RangeFile>> open(files.files.size());
    for (const TensorPiece& piece : pieces) {
        const auto found = files.places.find(piece.tensor);
        FOMOE_CHECK(found != files.places.end(), "no tensor ", piece.tensor, " in the list");
        const auto& [spec, index, offset] = found->second;
        FOMOE_CHECK(piece.data.dtype == spec.dtype && piece.begin >= 0 &&
                        piece.begin + piece.data.count() <= spec.shape.count(),
                    "piece ", piece.begin, "+", piece.data.count(), " of ", spec.name, ' ',
                    spec.shape);
        std::optional<RangeFile>& file = open[index];
        if (!file) file = RangeFile::for_writing((directory / files.files[index].name).string());
        file->write(offset + piece.begin * size_of(spec.dtype), piece.data.data,
                    piece.data.bytes());
    }
    for (const std::optional<RangeFile>& file : open) {
        if (file) file->sync();
    }
    comm.barrier();
}

// ---- reading -----------------------------------------------------------------------------------

namespace {

using Entry = SafetensorsFile::Entry;

[[noreturn]] void refuse(const std::string& path, const std::string& why) {
    throw Error(Exit::data, fmt::format("{}: {}; the file is damaged or no safetensors file; copy "
                                        "the checkpoint again, or move it away: a run goes on from "
                                        "the one before",
                                        path, why));
}

int64_t whole_number(const json& value, int64_t most) {
    if (!value.is_number_unsigned()) return -1;
    const uint64_t number = value.get<uint64_t>();
    return number > static_cast<uint64_t>(most) ? -1 : static_cast<int64_t>(number);
}

// Reads one tensor's entry; offsets are still relative to the end of the header. Returns why not.
std::string parse_entry(const json& value, int64_t data_bytes, Entry& entry) {
    if (!value.is_object() || value.size() != 3 || !value.contains("dtype") ||
        !value.contains("shape") || !value.contains("data_offsets")) {
        return "does not have exactly dtype, shape and data_offsets";
    }
    if (!value["dtype"].is_string()) return "has no dtype";
    entry.dtype = value["dtype"].get<std::string>();
    const int64_t element = format_size(entry.dtype);
    if (element == 0) return "has the unknown dtype " + entry.dtype;

    const json& offsets = value["data_offsets"];
    if (!offsets.is_array() || offsets.size() != 2) return "has no pair of data_offsets";
    const int64_t begin = whole_number(offsets[0], data_bytes);
    const int64_t end = whole_number(offsets[1], data_bytes);
    if (begin < 0 || end < begin) return "lies outside the file";

    if (!value["shape"].is_array()) return "has no shape";
    int64_t bytes = element;
    for (const json& dim : value["shape"]) {
        const int64_t n = whole_number(dim, data_bytes);
        if (n < 0 || __builtin_mul_overflow(bytes, n, &bytes)) return "is larger than the file";
        entry.shape.push_back(n);
    }
    if (bytes != end - begin) return "has a shape that does not fit its bytes";
    entry.offset = begin;
    entry.bytes = bytes;
    return "";
}

}  // namespace

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path)
    : file_(RangeFile::for_reading(path.string())) {
    const int64_t file_bytes = file_.bytes();
    uint64_t length = 0;
    if (file_bytes < 8) refuse(file_.path(), fmt::format("it has {} bytes", file_bytes));
    file_.read(0, &length, sizeof length);
    if (length > static_cast<uint64_t>(std::min(kMaxHeader, file_bytes - 8))) {
        refuse(file_.path(),
               fmt::format("its header would have {} bytes, the file has {}", length, file_bytes));
    }
    std::string text(length, '\0');
    file_.read(8, text.data(), static_cast<int64_t>(length));
    const json header = json::parse(text, nullptr, false);
    if (!header.is_object()) refuse(file_.path(), "its header is no JSON object");

    const int64_t data_begin = 8 + static_cast<int64_t>(length);
    const int64_t data_bytes = file_bytes - data_begin;
    std::vector<std::pair<int64_t, int64_t>> ranges;
    for (const auto& [name, value] : header.items()) {
        if (name == "__metadata__") continue;
        Entry entry;
        const std::string why = parse_entry(value, data_bytes, entry);
        if (!why.empty()) refuse(file_.path(), fmt::format("tensor '{}' {}", name, why));
        ranges.push_back({entry.offset, entry.offset + entry.bytes});
        entry.offset += data_begin;
        entries_.insert({name, std::move(entry)});
    }
    // Every byte belongs to exactly one tensor.
    std::ranges::sort(ranges);
    int64_t at = 0;
    for (const auto& [begin, end] : ranges) {
        if (begin != at)
            refuse(file_.path(), begin < at ? "its tensors overlap" : "its tensors leave a hole");
        at = end;
    }
    if (at != data_bytes) {
        refuse(file_.path(),
               fmt::format("its tensors have {} bytes, the file has {}", at, data_bytes));
    }
}

const Entry& SafetensorsFile::entry(const std::string& tensor) const {
    const auto found = entries_.find(tensor);
    if (found == entries_.end()) {
        throw Error(Exit::data, fmt::format("{}: it has no tensor '{}'", path(), tensor));
    }
    return found->second;
}

void SafetensorsFile::require(const TensorSpec& wanted) const {
    const Entry& have = entry(wanted.name);
    const std::vector<int64_t> shape = dims_of(wanted.shape);
    if (have.dtype == format_name(wanted.dtype) && have.shape == shape) return;
    throw Error(Exit::data,
                fmt::format("{}: tensor '{}' is {} {} in the checkpoint, this config needs {} {}",
                            path(), wanted.name, have.dtype, text_of(have.shape),
                            format_name(wanted.dtype), text_of(shape)));
}

void SafetensorsFile::read(const TensorPiece& piece) const {
    const Entry& have = entry(piece.tensor);
    const int64_t element = size_of(piece.data.dtype);
    const int64_t count = have.bytes / element;
    if (have.dtype != format_name(piece.data.dtype) || piece.begin < 0 ||
        piece.data.count() > count - piece.begin) {
        throw Error(Exit::data,
                    fmt::format("{}: tensor '{}' has {} elements of {}, wanted are {} to {} of {}",
                                path(), piece.tensor, count, have.dtype, piece.begin,
                                piece.begin + piece.data.count(), format_name(piece.data.dtype)));
    }
    file_.read(have.offset + piece.begin * element, piece.data.data, piece.data.bytes());
}

bool SafetensorsFile::has_floats(const std::string& tensor) const {
    const std::string& dtype = entry(tensor).dtype;
    return dtype == "F32" || dtype == "BF16" || dtype == "F16";
}

void SafetensorsFile::read_floats(const std::string& tensor, int64_t begin, int64_t n,
                                  float* out) const {
    const std::string& dtype = entry(tensor).dtype;
    if (dtype == "F32") return read({tensor, begin, view(out, Shape(n))});
    const bool brain = dtype == "BF16";
    std::vector<uint16_t> part(std::min(n, kPart));
    for (int64_t done = 0; done < n; done += kPart) {
        const int64_t count = std::min(n - done, kPart);
        read({tensor, begin + done, {part.data(), brain ? DType::bf16 : DType::f16, Shape(count)}});
        for (int64_t i = 0; i < count; ++i)
            out[done + i] = brain ? to_f32(bf16{part[i]})
                                  : static_cast<float>(std::bit_cast<_Float16>(part[i]));
    }
}

}  // namespace fomoe
