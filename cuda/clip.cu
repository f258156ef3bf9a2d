// Sums of few elements, and the scale that clips the gradient.
#include "cuda/device.cuh"

namespace fomoe {
namespace {

constexpr int kThreads = 512;

// One block, so that the order is the same on every device.
__global__ void __launch_bounds__(kThreads) sum(double* total, const float* x, int64_t n) {
    double part = 0;
    for (int64_t i = threadIdx.x; i < n; i += kThreads) part += double{x[i]};
    part = block_sum<kThreads>(part);
    if (threadIdx.x == 0) *total += part;
}

__global__ void clip_scale(float* grad_scale, const double* squares, const double* loss,
                           double clip, double most_squares, double most_loss) {
    const double norm = sqrt(*squares);
    const double scale = clip > 0 && norm > clip ? clip / norm : 1.0;
    const bool good =
        isfinite(*squares) && isfinite(*loss) && *squares <= most_squares && *loss <= most_loss;
    *grad_scale = good ? static_cast<float>(scale) : -1.0f;
}

}  // namespace

void CudaBackend::execute(const Sum& op, Queue queue) {
    const Stream s = begin(queue);
    sum<<<1, kThreads, 0, s.stream>>>(data_of<double>(op.sum), data_of<float>(op.x), op.x.count());
    check_launch("sum");
}

void CudaBackend::execute(const ClipScale& op, Queue queue) {
    const Stream s = begin(queue);
    clip_scale<<<1, 1, 0, s.stream>>>(data_of<float>(op.grad_scale), data_of<double>(op.squares),
                                      data_of<double>(op.loss), op.clip, op.most_squares,
                                      op.most_loss);
    check_launch("clip_scale");
}

}  // namespace fomoe
