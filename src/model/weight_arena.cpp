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

WeightArena::~WeightArena() {
    try {
        backend_.synchronize(uploaded_);
    } catch (const Error&) {  // of a failed device, told where it arose
    }
}

// Nothing is on its way from there any more.
Tensor WeightArena::mirror() {
    backend_.synchronize(std::exchange(uploaded_, Event{}));
    if (!mirror_.as<float>()) mirror_ = PinnedMemory(backend_, size() * size_of(DType::f32));
    return view(mirror_.as<float>(), Shape(size()));
}

ConstTensor WeightArena::on_host() {
    if (backend_.host_memory()) return values_;
    const Tensor all = mirror();
    backend_.copy_to_host(all.data, values_);
    return all;
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
    const std::vector<Range> all{{0, size()}};
    change_on_host(all, [&](Tensor values) {
        body(values);
        return all;
    });
}

void WeightArena::change_on_host(std::span<const Range> ranges,
                                 const std::function<std::vector<Range>(Tensor)>& body) {
    if (backend_.host_memory()) {
        for (const Range& range : body(values_)) round(range);
        return;
    }
    const Tensor values = mirror();
    for (const Range& range : ranges)
        backend_.copy_to_host_async(values.slice(range.begin, range.size()).data,
                                    values_.slice(range.begin, range.size()), Queue::compute);
    backend_.synchronize(backend_.record(Queue::compute));
    upload(body(values));
}

void WeightArena::upload(std::span<const Range> ranges) {
    if (ranges.empty()) return;
    backend_.wait(Queue::comm, backend_.record(Queue::compute));
    for (const Range& range : ranges) {
        const Tensor to = values_.slice(range.begin, range.size());
        backend_.copy_from_host_async(to, mirror_.as<float>() + range.begin, Queue::comm);
    }
    uploaded_ = backend_.record(Queue::comm);
    backend_.wait(Queue::compute, uploaded_);
    for (const Range& range : ranges) round(range);
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
