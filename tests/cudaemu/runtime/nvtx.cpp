// The ranges of NVTX name the ops of the timeline: NVTX loads the library that
// NVTX_INJECTION64_PATH names, which may be this one, and hands it its table of callbacks.
#include <nvtx3/nvToolsExt.h>

#include "runtime/timeline.h"

namespace {

int push(const char* name) {
    cudaemu::Timeline::instance().op_begins(name);
    return 0;
}

int push_attributes(const nvtxEventAttributes_t* event) {
    const bool text = event && event->messageType == NVTX_MESSAGE_TYPE_ASCII;
    return push(text ? event->message.ascii : "");
}

int pop() {
    cudaemu::Timeline::instance().op_ends();
    return 0;
}

}  // namespace

extern "C" int InitializeInjectionNvtx2(NvtxGetExportTableFunc_t get_table) {
    const auto* callbacks =
        static_cast<const NvtxExportTableCallbacks*>(get_table(NVTX_ETID_CALLBACKS));
    NvtxFunctionTable core = nullptr;
    unsigned entries = 0;
    if (!callbacks || !callbacks->GetModuleFunctionTable(NVTX_CB_MODULE_CORE, &core, &entries) ||
        entries <= NVTX_CBID_CORE_RangePop)
        return 0;
    *core[NVTX_CBID_CORE_RangePushA] = reinterpret_cast<NvtxFunctionPointer>(push);
    *core[NVTX_CBID_CORE_RangePushEx] = reinterpret_cast<NvtxFunctionPointer>(push_attributes);
    *core[NVTX_CBID_CORE_RangePop] = reinterpret_cast<NvtxFunctionPointer>(pop);
    return 1;
}
