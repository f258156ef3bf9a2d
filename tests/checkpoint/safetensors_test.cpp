#include "checkpoint/safetensors.h"

#include <cstring>
#include <numeric>

#include "checkpoint/support.h"
#include "topology/placement.h"

using namespace fomoe;
using namespace fomoe::test;
using Catch::Contains;

namespace {

std::string with_length(const std::string& header, const std::string& data) {
    const uint64_t length = header.size();
    return std::string(reinterpret_cast<const char*>(&length), 8) + header + data;
}

const std::vector<TensorSpec> kTensors{{"a", DType::f32, Shape(3, 5)},
                                       {"step", DType::i64, Shape(1)},
                                       {"b.weight", DType::f32, Shape(7)},
                                       {"none", DType::f32, Shape(0, 4)}};

}  // namespace

TEST_CASE("ranks write their pieces of the tensors into one file") {
    const TempDirectory directory;
    const int ranks = GENERATE(1, 3);
    std::vector<float> a(15), b(7);
    std::iota(a.begin(), a.end(), 1.0f);
    std::iota(b.begin(), b.end(), -3.5f);
    int64_t step = 0x1122334455667788;
    const TensorFiles files = plan_files("t", kTensors, 1 << 20);

    run_ranks(ranks, [&](Communicator& comm) {
        std::vector<TensorPiece> pieces;
        const Range of_a = cut(15, comm.size(), comm.rank());
        const Range of_b = cut(7, comm.size(), comm.rank());
        pieces.push_back(
            {"a", of_a.begin, view(a.data(), Shape(15)).slice(of_a.begin, of_a.size())});
        pieces.push_back(
            {"b.weight", of_b.begin, view(b.data(), Shape(7)).slice(of_b.begin, of_b.size())});
        if (comm.rank() == comm.size() - 1) pieces.push_back({"step", 0, view(&step, Shape(1))});
        write_tensors(comm, directory, files, pieces);
    });

    // Byte by byte what the format says, the 8-byte type first.
    std::string header = R"({"step":{"dtype":"I64","shape":[1],"data_offsets":[0,8]},)"
                         R"("a":{"dtype":"F32","shape":[3,5],"data_offsets":[8,68]},)"
                         R"("b.weight":{"dtype":"F32","shape":[7],"data_offsets":[68,96]},)"
                         R"("none":{"dtype":"F32","shape":[0,4],"data_offsets":[96,96]},)"
                         R"("__metadata__":{"format":"pt"}})";
    header.resize((header.size() + 7) / 8 * 8, ' ');
    std::string data(96, '\0');
    std::memcpy(data.data(), &step, 8);
    std::memcpy(data.data() + 8, a.data(), 60);
    std::memcpy(data.data() + 68, b.data(), 28);
    CHECK(bytes_of(directory / "t.safetensors") == with_length(header, data));

    const SafetensorsFile file(directory / "t.safetensors");
    for (const TensorSpec& spec : kTensors) file.require(spec);
    std::vector<float> part(6);
    file.read({"a", 4, view(part.data(), Shape(6))});
    CHECK(part == std::vector<float>(a.begin() + 4, a.begin() + 10));
    CHECK_THAT(refusal([&] {
                   file.require({"a", DType::f32, Shape(5, 3)});
               }),
               Contains("t.safetensors") && Contains("'a'") && Contains("(3, 5)"));
    CHECK_THAT(refusal([&] { file.require({"a", DType::i32, Shape(3, 5)}); }), Contains("I32"));
    CHECK_THAT(refusal([&] { file.require({"c", DType::f32, Shape(1)}); }), Contains("'c'"));
    CHECK_THAT(refusal([&] {
                   file.read({"b.weight", 2, view(part.data(), Shape(6))});
               }),
               Contains("7 elements"));
    CHECK_THAT(refusal([&] {
                   file.read({"b.weight", INT64_MAX, view(part.data(), Shape(6))});
               }),
               Contains("7 elements"));
}

TEST_CASE("half-width tensors lie behind the others and come back as they were") {
    const TempDirectory directory;
    std::vector<bf16> h{to_bf16(1.5f), to_bf16(-3.0f), to_bf16(1e30f)}, read(2);
    std::vector<float> a{1.0f, 2.0f};
    const TensorSpec spec{"h", DType::bf16, Shape(3)};
    const TensorFiles files = plan_files("t", {spec, {"a", DType::f32, Shape(2)}}, 1 << 20);
    write_tensors(*make_self_communicator(), directory, files,
                  {{"h", 2, view(h.data(), Shape(3)).slice(2, 1)},
                   {"a", 0, view(a.data(), Shape(2))},
                   {"h", 0, view(h.data(), Shape(3)).slice(0, 2)}});
    std::string header = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                         R"("h":{"dtype":"BF16","shape":[3],"data_offsets":[8,14]},)"
                         R"("__metadata__":{"format":"pt"}})";
    header.resize((header.size() + 7) / 8 * 8, ' ');
    std::string data(14, '\0');
    std::memcpy(data.data(), a.data(), 8);
    std::memcpy(data.data() + 8, h.data(), 6);
    CHECK(bytes_of(directory / "t.safetensors") == with_length(header, data));

    const SafetensorsFile file(directory / "t.safetensors");
    file.require(spec);
    file.read({"h", 1, view(read.data(), Shape(2))});
    CHECK(to_f32(read[0]) == -3.0f);
    CHECK(read[1].bits == h[2].bits);
    CHECK_THAT(refusal([&] { file.require({"h", DType::f32, Shape(3)}); }), Contains("BF16"));
    CHECK_THAT(refusal([&] { file.read({"a", 0, view(read.data(), Shape(2))}); }), Contains("F32"));
}

TEST_CASE("tensors that are too large for one file go into several") {
    const TempDirectory directory;
    const TensorFiles files = plan_files("model", kTensors, 68);
    REQUIRE(files.files.size() == 2);
    CHECK(files.files[1].name == "model-00002-of-00002.safetensors");
    CHECK(index_json(files).find(R"("b.weight": "model-00002-of-00002.safetensors")") !=
          std::string::npos);
    std::vector<float> a(15, 1.0f), b(7, 2.0f), read(7);
    int64_t step = 3;
    write_tensors(*make_self_communicator(), directory, files,
                  {{"a", 0, view(a.data(), Shape(15))},
                   {"b.weight", 0, view(b.data(), Shape(7))},
                   {"step", 0, view(&step, Shape(1))}});
    for (const TensorFiles::File& file : files.files)
        CHECK(std::filesystem::file_size(directory / file.name) == size_t(file.bytes));
    SafetensorsFile(directory / files.files[1].name)
        .read({"b.weight", 0, view(read.data(), Shape(7))});
    CHECK(read == b);
    // One tensor alone may be larger than the limit.
    CHECK(plan_files("model", kTensors, 1).files.size() == 3);
}

TEST_CASE("pieces that are not the whole, or not of a tensor, are refused before writing") {
    const TempDirectory directory;
    const auto comm = make_self_communicator();
    std::vector<float> b(8);
    const TensorFiles files = plan_files("t", {{"b", DType::f32, Shape(7)}}, 1 << 20);
    CHECK_THROWS_AS(write_tensors(*comm, directory, files, {{"b", 0, view(b.data(), Shape(6))}}),
                    Error);
    CHECK(std::filesystem::is_empty(std::filesystem::path(directory)));
    CHECK_THROWS_AS(write_tensors(*comm, directory, files, {{"b", 1, view(b.data(), Shape(7))}}),
                    Error);
    CHECK_THROWS_AS(plan_files("t", {{"b", DType::f32, Shape(7)}, {"b", DType::f32, Shape(7)}}, 99),
                    Error);
}

TEST_CASE("a file that is not what its header says is refused") {
    const TempDirectory directory;
    const std::string good = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
    const std::string data(8, '\1');
    const auto refused = [&](const std::string& bytes) {
        put_bytes(directory / "x.safetensors", bytes);
        return refusal([&] { SafetensorsFile(directory / "x.safetensors"); });
    };
    const auto header = [&](const std::string& entries) {
        return refused(with_length("{" + entries + "}", data));
    };
    put_bytes(directory / "good.safetensors", with_length(good, data));
    CHECK(SafetensorsFile(directory / "good.safetensors").entries().size() == 1);
    CHECK_THAT(refusal([&] { SafetensorsFile(directory / "missing.safetensors"); }),
               Contains("missing.safetensors"));
    CHECK_THAT(refusal([&] { SafetensorsFile{std::filesystem::path(directory)}; }),
               Contains("not a regular file"));

    CHECK_THAT(refused(""), Contains("x.safetensors") && Contains("0 bytes"));
    CHECK_THAT(refused("PK\3\4 this is a zip file"), Contains("header would have"));
    CHECK_THAT(refused(std::string(8, '\xff') + good), Contains("header would have"));
    CHECK_THAT(refused(with_length(good, data).substr(0, 40)), Contains("header would have"));
    CHECK_THAT(refused(with_length("[1, 2]", data)), Contains("no JSON object"));
    CHECK_THAT(refused(with_length(good.substr(0, 30), data)), Contains("no JSON object"));
    CHECK_THAT(refused(with_length(std::string(100000, '['), data)), Contains("no JSON object"));
    // Truncated, or something behind the end.
    CHECK_THAT(refused(with_length(good, "1234567")), Contains("'a' lies outside the file"));
    CHECK_THAT(refused(with_length(good, data + "x")), Contains("have 8 bytes, the file has 9"));

    const auto entry = [&](const std::string& dtype, const std::string& shape,
                           const std::string& offsets) {
        return header(R"("a":{"dtype":)" + dtype + R"(,"shape":)" + shape + R"(,"data_offsets":)" +
                      offsets + "}");
    };
    CHECK_THAT(entry(R"("F32")", "[2]", "[0,9]"), Contains("lies outside"));
    CHECK_THAT(entry(R"("F32")", "[2]", "[8,0]"), Contains("lies outside"));
    CHECK_THAT(entry(R"("F32")", "[2]", "[-8,0]"), Contains("lies outside"));
    CHECK_THAT(entry(R"("F32")", "[2]", "[0.0,8.0]"), Contains("lies outside"));
    CHECK_THAT(entry(R"("F32")", "[2]", "[18446744073709551608,8]"), Contains("lies outside"));
    CHECK_THAT(entry(R"("F32")", "[2]", "[0]"), Contains("no pair"));
    CHECK_THAT(entry(R"("F32")", "[3]", "[0,8]"), Contains("does not fit"));
    CHECK_THAT(entry(R"("F32")", "[4611686018427387906]", "[0,8]"), Contains("larger than"));
    CHECK_THAT(entry(R"("F32")", "[8,8,8,8,8,8,8,8,8,8,8,8,8,8,8,8,8,8,8,8,8,8]", "[0,8]"),
               Contains("larger than"));
    CHECK_THAT(entry(R"("F32")", "[-2]", "[0,8]"), Contains("larger than"));
    CHECK_THAT(entry(R"("F32")", "2", "[0,8]"), Contains("no shape"));
    CHECK_THAT(entry(R"("F33")", "[2]", "[0,8]"), Contains("unknown dtype F33"));
    CHECK_THAT(entry("4", "[2]", "[0,8]"), Contains("no dtype"));
    CHECK_THAT(header(R"("a":{"dtype":"F32","shape":[2]})"), Contains("exactly dtype"));
    CHECK_THAT(header(R"("a":7)"), Contains("exactly dtype"));

    const std::string first = R"("a":{"dtype":"I32","shape":[1],"data_offsets":[0,4]},)";
    CHECK_THAT(header(first + R"("b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]})"),
               Contains("overlap"));
    CHECK_THAT(header(first + R"("b":{"dtype":"U8","shape":[2],"data_offsets":[6,8]})"),
               Contains("hole"));
    CHECK_THAT(header(R"("a":{"dtype":"U8","shape":[2],"data_offsets":[6,8]})"), Contains("hole"));
}
