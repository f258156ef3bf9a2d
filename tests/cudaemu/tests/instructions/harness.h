// Runs hand-written PTX in the interpreter and compares what each thread computes with a formula.
#pragma once

#include <array>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <sstream>
#include <string>
#include <vector>

#include "exec/execute.h"
#include "memory/device_memory.h"

namespace cudaemu {

// Every PTX text that run_ptx was given in this process.
const std::vector<std::string>& texts_run();

// Parses the text and runs its entry `test`; params are its parameters, of 64 bits each.
void run_ptx(const std::string& ptx, const std::vector<uint64_t>& params,
             Launch launch = {.block = {32}});

// A module with the entry `test(p0, p1, ...)` of `params` parameters of 64 bits. `outside` goes
// before the entry; the target is sm_80, sm_90, ...
struct Source {
    std::string body;
    size_t params = 1;
    std::string outside = "";
    int target = 80;
    std::string text() const;
};

// The message of the fault that the text ends with; fails the test when there is none.
std::string fault_of(const std::string& ptx, const std::vector<uint64_t>& params,
                     Launch launch = {.block = {32}});

// Values in device memory.
template <class T>
class Buffer {
public:
    explicit Buffer(const std::vector<T>& values)
        : count_(values.size()),
          address_(DeviceMemory::instance().allocate(std::max<size_t>(1, count_) * sizeof(T))) {
        REQUIRE(address_ != 0);
        std::memcpy(data(), values.data(), count_ * sizeof(T));
    }
    explicit Buffer(size_t count, T fill = {}) : Buffer(std::vector<T>(count, fill)) {}
    ~Buffer() { DeviceMemory::instance().release(address_); }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;

    uint64_t address() const { return address_; }
    T& operator[](size_t i) { return data()[i]; }
    std::vector<T> values() const { return {data(), data() + count_}; }

private:
    T* data() const { return reinterpret_cast<T*>(DeviceMemory::instance().alias(address_)); }

    size_t count_;
    uint64_t address_;
};

// Two values in one register, the first in its low half.
template <class T>
struct Packed {
    T low, high;
};

template <class T>
bool same(const T& x, const T& y) {
    if constexpr (std::is_floating_point_v<T>) {
        if (std::isnan(x) || std::isnan(y)) return std::isnan(x) && std::isnan(y);
    }
    return std::memcmp(&x, &y, sizeof(T)) == 0;
}
template <class T>
bool same(const Packed<T>& x, const Packed<T>& y) {
    return same(x.low, y.low) && same(x.high, y.high);
}
template <class T, size_t n>
bool same(const std::array<T, n>& x, const std::array<T, n>& y) {
    for (size_t i = 0; i < n; ++i) {
        if (!same(x[i], y[i])) return false;
    }
    return true;
}

template <class T>
void print(std::ostream& out, const T& x) {
    if constexpr (std::is_arithmetic_v<T>) {
        out << std::hexfloat << +x << std::defaultfloat;
        if constexpr (std::is_integral_v<T>) out << " (0x" << std::hex << +x << std::dec << ")";
    } else if constexpr (requires { x.value(); }) {
        out << x.value();
    } else if constexpr (requires { x.low; }) {
        print(out << "{", x.low);
        print(out << ", ", x.high);
        out << "}";
    } else {
        for (const auto& element : x) print(out << " ", element);
    }
}

// How the registers of a value are named: %a, or %a0, %a1, ... for an array.
struct Registers {
    char name;
    size_t bytes;      // of each
    size_t count = 0;  // 0: a single one
};
template <class T>
struct RegistersOf {
    static constexpr size_t bytes = sizeof(T), count = 0;
};
template <class T, size_t n>
struct RegistersOf<std::array<T, n>> {
    static constexpr size_t bytes = sizeof(T), count = n;
};

// Body between loads of the inputs and a store of the output, a thread for each element.
std::string lanes_text(const std::string& body, const std::vector<Registers>& inputs,
                       Registers output, int target);

// Runs `body` in one thread for each element of the inputs, which it finds in %a, %b, ...; what it
// leaves in %d is returned. All inputs are of one length; the last warp is filled up with copies of
// the last element.
template <class Out, int target = 80, class... In>
std::vector<Out> run_lanes(const std::string& body, const std::vector<In>&... in) {
    const size_t count = std::min({in.size()...});
    REQUIRE(count > 0);
    REQUIRE(count == std::max({in.size()...}));
    const uint32_t block = count <= 32 ? 32 : 64;
    const uint32_t blocks = uint32_t((count + block - 1) / block);
    std::vector<Registers> registers;
    (registers.push_back(
         {char('a' + registers.size()), RegistersOf<In>::bytes, RegistersOf<In>::count}),
     ...);
    // %d is the output: the fourth input and those after it move on by a letter.
    for (size_t i = 3; i < registers.size(); ++i) ++registers[i].name;
    const auto filled = [&](auto values) {
        const auto last = values.back();
        values.resize(size_t(block) * blocks, last);
        return values;
    };
    const std::tuple<Buffer<In>...> inputs{filled(in)...};
    Buffer<Out> output(size_t(block) * blocks);
    std::vector<uint64_t> params;
    std::apply([&](const auto&... buffer) { (params.push_back(buffer.address()), ...); }, inputs);
    params.push_back(output.address());
    run_ptx(lanes_text(body, registers, {'d', RegistersOf<Out>::bytes, RegistersOf<Out>::count},
                       target),
            params, {.grid = {blocks}, .block = {block}});
    auto values = output.values();
    values.resize(count);
    return values;
}

// Checks %d of each thread against formula(its inputs); close(got, expected) may allow a distance.
template <class Out, int target = 80, class Formula, class Close, class... In>
void check_lanes_with(const std::string& body, Formula formula, Close close,
                      const std::vector<In>&... in) {
    INFO(body);
    const auto got = run_lanes<Out, target>(body, in...);
    for (size_t i = 0; i < got.size(); ++i) {
        const Out expected = formula(in[i]...);
        if (close(got[i], expected)) continue;
        std::ostringstream text;
        print(text << "got ", got[i]);
        print(text << ", expected ", expected);
        ((print(text << ", from ", in[i])), ...);
        FAIL_CHECK(text.str() << " in thread " << i);
        return;
    }
    SUCCEED();
}

template <class Out, int target = 80, class Formula, class... In>
void check_lanes(const std::string& body, Formula formula, const std::vector<In>&... in) {
    check_lanes_with<Out, target>(
        body, formula, [](const Out& x, const Out& y) { return same(x, y); }, in...);
}

// For all values, all pairs and all triples of them.
template <class Out, int target = 80, class T, class Formula>
void check_each(const std::string& body, const std::vector<T>& values, Formula formula) {
    check_lanes<Out, target>(body, formula, values);
}
template <class Out, int target = 80, class A, class B, class Formula>
void check_pairs(const std::string& body, const std::vector<A>& first, const std::vector<B>& second,
                 Formula formula) {
    std::vector<A> a;
    std::vector<B> b;
    for (const A& x : first) {
        for (const B& y : second) a.push_back(x), b.push_back(y);
    }
    check_lanes<Out, target>(body, formula, a, b);
}
template <class Out, int target = 80, class A, class B, class C, class Formula>
void check_triples(const std::string& body, const std::vector<A>& first,
                   const std::vector<B>& second, const std::vector<C>& third, Formula formula) {
    std::vector<A> a;
    std::vector<B> b;
    std::vector<C> c;
    for (const A& x : first) {
        for (const B& y : second) {
            for (const C& z : third) a.push_back(x), b.push_back(y), c.push_back(z);
        }
    }
    check_lanes<Out, target>(body, formula, a, b, c);
}

// first, first + 1, ... for the 32 threads of a warp.
std::vector<uint32_t> lane_numbers(uint32_t first = 0);

// `text` with every "TYPE" (or another `key`) replaced by `by`.
std::string with(std::string text, const std::string& key, const std::string& by);

}  // namespace cudaemu
