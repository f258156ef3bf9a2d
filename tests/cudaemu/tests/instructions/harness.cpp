#include "harness.h"

#include <numeric>

#include "ptx/module.h"

namespace cudaemu {

namespace {

std::vector<std::string>& texts() {
    static std::vector<std::string> list;
    return list;
}

std::string bits_of(size_t bytes) { return ".b" + std::to_string(8 * bytes); }

std::string register_name(const Registers& r, size_t i) {
    return std::string("%") + r.name + (r.count ? std::to_string(i) : "");
}

void append_declaration(std::ostringstream& out, const Registers& r) {
    out << ".reg " << bits_of(r.bytes) << " %" << r.name;
    if (r.count) out << "<" << r.count << ">";
    out << ";\n";
}

}  // namespace

const std::vector<std::string>& texts_run() { return texts(); }

void run_ptx(const std::string& ptx, const std::vector<uint64_t>& params, Launch launch) {
    texts().push_back(ptx);
    const auto module = parse(ptx);
    REQUIRE(module->kernels.count("test") == 1);
    launch.params.resize(8 * params.size());
    std::memcpy(launch.params.data(), params.data(), launch.params.size());
    if (!launch.instruction_limit) launch.instruction_limit = 10'000'000;
    execute(*module->kernels.at("test"), launch);
}

std::string fault_of(const std::string& ptx, const std::vector<uint64_t>& params, Launch launch) {
    try {
        run_ptx(ptx, params, std::move(launch));
    } catch (const Fault& fault) {
        return fault.what();
    }
    FAIL("no fault");
    return "";
}

std::string Source::text() const {
    std::ostringstream out;
    out << ".version 8.0\n.target sm_" << target << "\n.address_size 64\n" << outside << "\n";
    out << ".visible .entry test(";
    for (size_t i = 0; i < params; ++i) out << (i ? ", " : "") << ".param .u64 p" << i;
    out << ")\n{\n" << body << "\nret;\n}\n";
    return out.str();
}

std::string lanes_text(const std::string& body, const std::vector<Registers>& inputs,
                       Registers output, int target) {
    std::ostringstream out;
    out << ".reg .b32 %index, %block, %threads, %thread;\n.reg .b64 %base, %at;\n";
    for (const Registers& input : inputs) append_declaration(out, input);
    append_declaration(out, output);
    out << "mov.u32 %block, %ctaid.x;\nmov.u32 %threads, %ntid.x;\nmov.u32 %thread, %tid.x;\n"
           "mad.lo.u32 %index, %block, %threads, %thread;\n";
    const auto address = [&](const Registers& r, size_t param) {
        out << "ld.param.u64 %base, [p" << param << "];\n"
            << "mul.wide.u32 %at, %index, " << r.bytes * std::max<size_t>(1, r.count) << ";\n"
            << "add.u64 %at, %at, %base;\n";
    };
    for (size_t k = 0; k < inputs.size(); ++k) {
        const Registers& input = inputs[k];
        address(input, k);
        for (size_t i = 0; i < std::max<size_t>(1, input.count); ++i) {
            out << "ld.global" << bits_of(input.bytes) << " " << register_name(input, i)
                << ", [%at+" << i * input.bytes << "];\n";
        }
    }
    out << "{\n" << body << "\n}\n";
    address(output, inputs.size());
    for (size_t i = 0; i < std::max<size_t>(1, output.count); ++i) {
        out << "st.global" << bits_of(output.bytes) << " [%at+" << i * output.bytes << "], "
            << register_name(output, i) << ";\n";
    }
    return Source{out.str(), inputs.size() + 1, "", target}.text();
}

std::vector<uint32_t> lane_numbers(uint32_t first) {
    std::vector<uint32_t> lanes(32);
    std::iota(lanes.begin(), lanes.end(), first);
    return lanes;
}

std::string with(std::string text, const std::string& key, const std::string& by) {
    for (size_t at = 0; (at = text.find(key, at)) != std::string::npos; at += by.size()) {
        text.replace(at, key.size(), by);
    }
    return text;
}

}  // namespace cudaemu
