#include "model/weight_arena.h"

#include <algorithm>
#include <utility>

namespace fomoe {

WeightArena::WeightArena(int64_t size, DType dtype, Backend& backend) : backend_(backend) {
    const auto lay_out = [&](Arena& arena) {
        values_ = arena.take(DType::f32, Shape(size));
        if (dtype == DType::bf16) rounded_ = arena.take(DType::bf16, Shape(size));
    };
    Arena tape;
    lay_out(tape);
    memory_ = Arena(backend, tape.bytes(), "weights");
    lay_out(memory_);
    backend.zero(values_);
    if (rounded_) backend.zero(rounded_);
}

ConstTensor WeightArena::on_host() {
    if (backend_.host_memory()) return values_;
    mirror_.resize(size());
    backend_.copy_to_host(mirror_.data(), values_);
    return view(std::as_const(mirror_).data(), Shape(size()));
}

void WeightArena::round(Range range) {
    if (!rounded_ || range.size() == 0) return;
    backend_.run(Cast{.y = rounded_.slice(range.begin, range.size()),
                      .x = values_.slice(range.begin, range.size())});
}

void WeightArena::change(const std::function<void(Tensor)>& body) { change({0, size()}, body); }

void WeightArena::change(Range range, const std::function<void(Tensor)>& body) {
    body(values_.slice(range.begin, range.size()));
    round(range);
}

void WeightArena::change_on_host(const std::function<void(Tensor)>& body) {
    change([&](Tensor values) {
        if (backend_.host_memory()) return body(values);
        on_host();
        body(view(mirror_.data(), Shape(size())));
        backend_.copy_from_host(values, mirror_.data());
    });
}

void WeightArena::change_both(const std::function<void(const WeightTensors&)>& body) {
    body({values_, rounded_});
}

bool WeightArena::copy_is_current() const {
    if (!rounded_) return true;
    std::vector<float> values(size());
    std::vector<bf16> rounded(size());
    backend_.copy_to_host(values.data(), values_);
    backend_.copy_to_host(rounded.data(), rounded_);
    return std::ranges::equal(
        values, rounded, {}, [](float x) { return to_bf16(x).bits; }, &bf16::bits);
}

}  // namespace fomoe
