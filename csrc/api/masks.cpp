// The C functions of trained masks.
#include "model/trained_masks.h"

#include "status.h"

using namespace mp;

mp_status mp_masks_open(mp_model * model, const char * path, mp_masks ** out) {
    return guarded([&] {
        if (!model || !path || !out) {
            fail(MP_ERR_ARGUMENT, "mp_masks_open: model, path and out must not be NULL");
        }
        *out = nullptr;
        *out = masks_open(model_retain(model), path);
    });
}

void mp_masks_free(mp_masks * masks) {
    masks_close(masks);
}

mp_status mp_masks_vectors(const mp_masks * masks, int32_t * n, const float ** vectors) {
    return guarded([&] {
        if (!masks || !n || !vectors) {
            fail(MP_ERR_ARGUMENT, "mp_masks_vectors: masks, n and vectors must not be NULL");
        }
        const masks_ref found = masks_retain(masks);
        *n = found->n_masks();
        *vectors = found->vectors.data();
    });
}
