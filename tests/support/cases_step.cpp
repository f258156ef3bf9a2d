// Cases of what a step computes between its gradients and AdamW.
#include <limits>

#include "support/cases.h"

namespace fomoe {

template <>
std::vector<Case<Sum>> cases() {
    std::vector<Case<Sum>> made;
    for (const int64_t P : {0, 1, 37, 1024, 10007, 16384, 1 << 18})
        made.push_back({concat("P", P),
                        P < 16384    ? Size::small
                        : P == 16384 ? Size::bench
                                     : Size::counted,
                        [=](Pool& pool) {
                            return Sum{.sum = pool.from<double>({2.5}), .x = pool.normal(Shape(P))};
                        },
                        1e-24});
    return made;
}

template <>
std::vector<Case<ClipScale>> cases() {
    constexpr double kInfinite = std::numeric_limits<double>::infinity();
    constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
    constexpr double kAny = std::numeric_limits<double>::max();
    struct Row {
        const char* name;
        double squares, clip;
        double loss = 3.5;
        Size size = Size::small;
        double most_squares = kAny, most_loss = kAny;
    };
    std::vector<Case<ClipScale>> made;
    for (const Row& row : {
             Row{"above", 7.0, 1.0},
             {"equal", 4.0, 2.0},
             {"below", 3.9, 2.0},
             {"zero", 0.0, 1.0},
             {"no_clip", 1e200, 0.0},
             {"huge", 1e60, 1e-3},
             {"infinite_squares", kInfinite, 1.0},
             {"infinite_squares_without_clip", kInfinite, 0.0},
             {"infinite_loss", 4.0, 1.0, -kInfinite},
             {"no_number_in_the_gradient", kNaN, 1.0},
             {"no_number_in_the_loss", 1.0, 0.0, kNaN},
             {"squares_at_the_limit", 9.0, 1.0, 2.5, Size::small, 9.0},
             {"squares_above_the_limit", 9.0, 1.0, 2.5, Size::small, 8.9},
             {"loss_at_the_limit", 9.0, 0.0, 2.5, Size::small, kAny, 2.5},
             {"loss_above_the_limit", 9.0, 0.0, 2.5, Size::small, kAny, 2.4},
             {"loss_below_zero", 9.0, 4.0, -2.5, Size::small, 9.5, -2.0},
             {"clips", 9.0, 1.0, 2.5, Size::bench},
             {"clips_once", 9.0, 1.0, 2.5, Size::counted},
         })
        made.push_back({row.name, row.size,
                        [=](Pool& pool) {
                            return ClipScale{.grad_scale = pool.blank(Shape(1)),
                                             .squares = pool.from<double>({row.squares}),
                                             .loss = pool.from<double>({row.loss}),
                                             .clip = row.clip,
                                             .most_squares = row.most_squares,
                                             .most_loss = row.most_loss};
                        },
                        1e-14});
    return made;
}

}  // namespace fomoe
