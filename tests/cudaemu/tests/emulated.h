// What the tests of the replacement runtime share.
#pragma once

#include <cuda_runtime_api.h>

#include <fstream>
#include <string>
#include <vector>

#include "check/findings.h"

namespace cudaemu::test {

// Device memory with a copy of `values`, freed at the end.
template <typename T>
class OnDevice {
public:
    explicit OnDevice(size_t count) : count_(count) {
        void* pointer = nullptr;
        if (cudaMalloc(&pointer, count * sizeof(T)) == cudaSuccess)
            data_ = static_cast<T*>(pointer);
    }
    explicit OnDevice(const std::vector<T>& values) : OnDevice(values.size()) {
        cudaMemcpy(data_, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice);
    }
    ~OnDevice() { cudaFree(data_); }
    OnDevice(const OnDevice&) = delete;
    OnDevice& operator=(const OnDevice&) = delete;

    T* get() const { return data_; }
    size_t bytes() const { return count_ * sizeof(T); }
    std::vector<T> host() const {
        std::vector<T> values(count_);
        cudaMemcpy(values.data(), data_, bytes(), cudaMemcpyDeviceToHost);
        return values;
    }

private:
    size_t count_ = 0;
    T* data_ = nullptr;
};

// "check_kernels.cu:12" for the line that ends with "// BUG: name".
inline std::string line_of_bug(const std::string& name) {
    std::ifstream file(CUDAEMU_TESTS_DIR "/check_kernels.cu");
    std::string text;
    for (int line = 1; std::getline(file, text); ++line)
        if (text.ends_with("// BUG: " + name)) return "check_kernels.cu:" + std::to_string(line);
    return "no line with the bug " + name;
}

// Runs `body` on a device without errors and findings, and returns the findings of it and of the
// work that it leaves behind.
template <typename Body>
std::string findings_of(Body&& body, bool checked = true) {
    cudaDeviceReset();
    cudaGetLastError();
    cudaemu_take_findings();
    cudaemu_set_checked(checked);
    body();
    cudaDeviceSynchronize();
    cudaemu_set_checked(0);
    const std::string findings = cudaemu_take_findings();
    cudaDeviceReset();
    cudaGetLastError();
    cudaemu_take_findings();
    return findings;
}

}  // namespace cudaemu::test
