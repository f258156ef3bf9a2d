// Memory and copies of the CPU backend, and the table of cases itself.
#include <omp.h>

#include "support/op_test.h"

using namespace fomoe;

TEST_CASE("backend: memory is aligned, copied and cleared") {
    const auto backend = make_cpu_backend(1);
    std::vector<float> host(37), back(37, -1.0f);
    for (size_t i = 0; i < host.size(); ++i) host[i] = static_cast<float>(i) + 0.5f;
    const Shape shape(37);
    const Tensor a{backend->allocate(37 * 4, "a"), DType::f32, shape};
    const Tensor b{backend->allocate(37 * 4, "b"), DType::f32, shape};
    CHECK(reinterpret_cast<uintptr_t>(a.data) % 64 == 0);
    backend->copy_from_host(a, host.data());
    backend->copy(b, a);
    backend->zero(a);
    backend->wait(Queue::comm, backend->record(Queue::compute));
    backend->synchronize();
    backend->copy_to_host(back.data(), b);
    CHECK(back == host);
    backend->copy_to_host(back.data(), a);
    CHECK(back == std::vector<float>(37, 0.0f));
    backend->release(a.data);
    backend->release(b.data);
}

// OpenMP then gives fewer threads than are asked for where there are fewer cores.
TEST_CASE("backend: OMP_DYNAMIC takes no thread away") {
    const int before = omp_get_dynamic(), threads = omp_get_num_procs() + 2;
    omp_set_dynamic(1);
    check_cases<LinearCrossEntropy>(*make_cpu_backend(threads), Size::small);
    check_cases<ExpertsForward>(*make_cpu_backend(threads), Size::small);
    omp_set_dynamic(before);
}

TEST_CASE("backend: run refuses an op that breaks its contract") {
    const auto backend = make_cpu_backend(1);
    Pool pool("refused");
    Linear op = cases<Linear>()[5].build(pool);
    op.x = pool.normal(Shape(op.x.shape[0], op.x.shape[1] + 1));
    CHECK_THROWS_AS(backend->run(op), Error);
}

TEST_CASE("cases: every op has small, bench and counted cases of different names") {
    for_each_op([]<class Op>() {
        INFO(Op::name);
        std::set<std::string> names;
        int small = 0, bench = 0, counted = 0;
        for (const Case<Op>& each : cases<Op>()) {
            CHECK(names.insert(each.name).second);
            small += each.size == Size::small;
            bench += each.size == Size::bench || each.size == Size::large;
            counted += each.size == Size::counted;
        }
        CHECK(small >= 3);
        CHECK(bench >= 1);
        CHECK(counted >= 1);
    });
}
