// The safetensors format: an 8-byte little-endian header length, a JSON header, the tensors' bytes.
// (https://github.com/huggingface/safetensors#format)
// Written in pieces by many ranks: each computes the same headers and puts its elements in place.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "base/range_file.h"
#include "comm/communicator.h"
#include "tensor/tensor.h"

namespace fomoe {

struct TensorSpec {
    std::string name;
    DType dtype = DType::f32;
    Shape shape;
    bool operator==(const TensorSpec&) const = default;
};

// Elements [begin, begin + data.count()) of a named tensor, in host memory.
struct TensorPiece {
    std::string tensor;
    int64_t begin = 0;
    Tensor data;
};

// Files that hold the tensors of a list, in its order: a pure function of the list.
struct TensorFiles {
    struct File {
        std::string name;
        std::string header;  // with the length in front and the padding
        int64_t bytes = 0;   // of the whole file
    };
    struct Place {
        TensorSpec spec;
        int file = 0;
        int64_t offset = 0;  // bytes from the start of the file
    };
    std::vector<File> files;
    std::map<std::string, Place> places;
};

// One file stem.safetensors, or stem-00001-of-00003.safetensors and so on where one would have more
// than max_bytes of tensors. Names must differ.
TensorFiles plan_files(const std::string& stem, const std::vector<TensorSpec>& tensors,
                       int64_t max_bytes);
// What Hugging Face calls model.safetensors.index.json.
std::string index_json(const TensorFiles& files);

// Collective. Creates the files in an existing directory, filled and synced. Every rank passes the
// same files and its own pieces; together the pieces must be every element once.
void write_tensors(Communicator& comm, const std::filesystem::path& directory,
                   const TensorFiles& files, const std::vector<TensorPiece>& pieces);

// One file, open for reading. Its header is checked to the last number before anything is used:
// Error(data) names the file and, where there is one, the tensor.
class SafetensorsFile {
public:
    struct Entry {
        std::string dtype;  // as in the file: F32, BF16, I64, ...
        std::vector<int64_t> shape;
        int64_t offset = 0;  // bytes from the start of the file
        int64_t bytes = 0;
    };
    explicit SafetensorsFile(const std::filesystem::path& path);

    const std::map<std::string, Entry>& entries() const { return entries_; }
    const std::string& path() const { return file_.path(); }
    // Throws unless the file has the tensor with this type and shape.
    void require(const TensorSpec& wanted) const;
    // Copies the elements; the tensor must be there, of the piece's type, and large enough.
    void read(const TensorPiece& piece) const;
    // Whether the tensor is in f32, bf16 or f16; then elements [begin, begin + n) of it as f32.
    bool has_floats(const std::string& tensor) const;
    void read_floats(const std::string& tensor, int64_t begin, int64_t n, float* out) const;

private:
    const Entry& entry(const std::string& tensor) const;
    RangeFile file_;
    std::map<std::string, Entry> entries_;
};

}  // namespace fomoe
