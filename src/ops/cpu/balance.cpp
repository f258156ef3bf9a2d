#include "ops/cpu/cpu_backend.h"

namespace fomoe {

// B x E numbers: not worth a second thread.
void CpuBackend::execute(const Balance& op, Queue) {
    const int64_t B = op.count.shape[0], E = op.count.shape[1];
    float* load = op.load.as<float>();
    double* loss = op.loss.as<double>();
    for (int64_t b = 0; b < B; ++b) {
        const float* count = op.count.as<float>() + b * E;
        const float* mass = op.mass.as<float>() + b * E;
        float* dmass = op.dmass.as<float>() + b * E;
        double choices = 0;
        for (int64_t e = 0; e < E; ++e) choices += count[e];
        for (int64_t e = 0; e < E; ++e) {
            double f = 0;
            if (op.fraction)
                f = op.fraction.as<float>()[e];
            else if (choices > 0)
                f = count[e] / choices;
            loss[0] += op.experts * f * mass[e];
            dmass[e] = static_cast<float>(op.weight * op.experts * f);
            load[e] += count[e];
        }
        loss[1] += op.z.as<float>()[b];
        loss[2] += op.affinity.as<float>()[b];
    }
}

}  // namespace fomoe
